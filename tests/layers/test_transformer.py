import json

import keras
import numpy as np
import pytest

from keras_notes.layers import Transformer

pytestmark = pytest.mark.any_backend

# Two blocks and a product with the vocabulary, summed in another order.
SAME = {"rtol": 1e-5, "atol": 1e-5}
SMALL = {"num_layers": 2, "width": 8, "num_heads": 2, "hidden_width": 12, "max_length": 9}
VARIANTS = (
    {},
    {"norm_first": True, "normalization": "rms", "activation": "swiglu", "rotary": True, "num_key_value_heads": 1,
     "tie_output": False, "num_layers": (1, 2)},
)  # fmt: skip


@pytest.fixture
def ids():
    """Source of 11 ids with padding, target of 7."""
    return np.array([[3, 10, 2, 5, 1], [4, 2, 0, 0, 0]], "int32"), np.array([[1, 6, 2, 3], [1, 5, 5, 2]], "int32")


def small(**arguments):
    return Transformer(**{"source_vocabulary_size": 11, "target_vocabulary_size": 7, **SMALL, **arguments})


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


# Identities


@pytest.mark.parametrize("arguments", VARIANTS)
def test_changing_the_future_leaves_the_past_bit_identical(ids, arguments):
    source, target = ids
    model = small(**arguments)
    before = numpy(model((source, target)))
    target[:, 2:] = 4
    after = numpy(model((source, target)))
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (after[:, 2:] != before[:, 2:]).any(axis=-1).all()


def test_padding_is_as_if_it_were_not_there(ids):
    source, target = ids
    model = small()
    np.testing.assert_allclose(
        numpy(model((source[1:], target[1:]))), numpy(model((source[1:, :2], target[1:]))), **SAME
    )
    assert numpy(model.source_mask(source)).tolist() == (source != 0).tolist()


@pytest.mark.parametrize("rotary", [False, True])
def test_batches_of_other_lengths_go_through_one_compiled_model(ids, rotary):
    source, target = ids
    model = small(rotary=rotary)
    for length in (2, 3, 4):
        batch = source[:, :length], target[:, : length - 1]
        np.testing.assert_allclose(model.predict_on_batch(batch), numpy(model(batch)), **SAME)


@pytest.mark.parametrize("rotary", [False, True])
def test_positions_count(ids, rotary):
    source, target = ids
    model = small(rotary=rotary)
    logits = numpy(model((source, target)))
    assert np.abs(numpy(model((source[:, ::-1], target))) - logits)[0].max() > 1e-4


def test_embeddings_are_scaled_by_the_root_of_the_width(ids):
    model = small(num_layers=1)
    embedded = numpy(model._embed(ids[0], model.source_embedding, 0, False))
    table = model.source_embedding.get_weights()[0]
    np.testing.assert_allclose(embedded[:, 0] - table[ids[0][:, 0]] * 8**0.5, np.tile([0.0, 1.0], (2, 4)), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "embeddings"),
    [
        ({}, 11 * 8 + 7 * 8),
        ({"tie_output": False}, 11 * 8 + 7 * 8 + 8 * 7 + 7),
        ({"target_vocabulary_size": 11, "share_embeddings": True}, 11 * 8),
    ],
)
def test_parameters_are_those_of_the_formula(arguments, embeddings):
    d, f = 8, 12
    attention, feed_forward, norm = 4 * (d * d + d), d * f + f + f * d + d, 2 * d
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    assert small(**arguments).count_params() == embeddings + 2 * (encoder + decoder)
    assert small(norm_first=True, **arguments).count_params() == embeddings + 2 * (encoder + decoder) + 2 * norm


# Step by step


@pytest.mark.parametrize(("arguments", "steps"), [(VARIANTS[0], (1, 1, 1, 1)), (VARIANTS[1], (3, 1))])
def test_steps_are_the_whole_pass(ids, arguments, steps):
    source, target = ids
    model = small(**arguments)
    expected = numpy(model((source, target)))
    caches, memory_caches = model.start_caches(2), model.memory_caches(model.encode(source))
    mask, start = model.source_mask(source), 0
    for length in steps:
        part = slice(start, start + length)
        logits, caches = model.step(target[:, part], caches, memory_caches, start, mask)
        np.testing.assert_allclose(numpy(logits), expected[:, part], **SAME)
        start += length


def test_encode_and_decode_are_the_whole_pass(ids):
    source, target = ids
    model = small()
    logits = model.decode(target, model.encode(source), model.source_mask(source))
    np.testing.assert_array_equal(numpy(logits), numpy(model((source, target))))


# The contract


@pytest.mark.parametrize("arguments", [*VARIANTS, {"dropout": 0.3, "seed": 1, "dtype": "mixed_bfloat16"}])
def test_survives_a_file_in_safe_mode(ids, arguments, tmp_path):
    model = small(**arguments)
    config = json.loads(json.dumps(model.get_config()))
    assert Transformer.from_config(config).get_config() == model.get_config()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(numpy(again(ids)).astype("float32"), numpy(model(ids)).astype("float32"))


def test_is_part_of_a_functional_model(ids, tmp_path):
    inputs = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    outer = keras.Model(inputs, keras.layers.Softmax()(small()(inputs)))
    assert outer.output_shape == (None, None, 7)
    outer.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(numpy(again(ids)), numpy(outer(ids)))


@pytest.mark.parametrize(
    ("policy", "arguments"), [("mixed_float16", VARIANTS[0]), ("mixed_float16", VARIANTS[1]), ("mixed_bfloat16", {})]
)
def test_half_precision_is_finite_with_a_source_of_nothing_but_padding(ids, policy, arguments):
    source, target = ids
    source[1] = 0
    logits = numpy(small(dtype=policy, **{**arguments, "num_layers": 1})((source, target)))
    assert np.isfinite(logits.astype("float32")).all()


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source_vocabulary_size": 0}, ValueError, "`source_vocabulary_size` must be >= 1"),
        ({"num_layers": 0}, ValueError, "`num_layers` must be >= 1. Received: num_layers=0."),
        ({"num_layers": (1, 2, 3)}, TypeError, r"`num_layers` must be an integer. Received: num_layers=\(1, 2, 3\)."),
        ({"num_heads": 3}, ValueError, "a width that `num_heads` divides. Received: num_heads=3."),
        (
            {"share_embeddings": True},
            ValueError,
            r"of one size for share_embeddings=True. Received: source_",
        ),
        ({"max_length": 0}, ValueError, "`max_length` must be >= 1"),
        ({"pad_id": 0.0}, TypeError, "`pad_id` must be an integer"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        small(**arguments)


def test_ids_out_of_range_are_an_error_where_they_can_be_seen(ids):
    source, target = ids
    source[0, 0], target[1, 1] = 11, -1
    with pytest.raises(ValueError, match=r"Ids must be in \[0, 11\). Received: 11 \(1 of 10 are wrong\). Give"):
        small()((source, np.abs(target)))
    with pytest.raises(ValueError, match=r"Ids must be in \[0, 7\). Received: -1 \(1 of 8 are wrong\)."):
        small()((np.minimum(source, 10), target))


def test_ids_that_are_no_integers_are_an_error(ids):
    with pytest.raises(TypeError, match=r"Ids must be integers. Received: dtype='float32'."):
        small()((ids[0].astype("float32"), ids[1]))


@pytest.mark.parametrize("rotary", [False, True])
def test_sequences_that_are_too_long_are_an_error(ids, rotary):
    model = small(rotary=rotary)
    with pytest.raises(ValueError, match=r"`start_index` \+ length must be <= 9, .* Received: start_index=0, leng"):
        model((np.ones((1, 10), "int32"), ids[1][:1]))
    with pytest.raises(ValueError, match=r"Received: start_index=9, length=1. Give a larger `max_length`"):
        model.step(ids[1][:, :1], model.start_caches(2), model.memory_caches(model.encode(ids[0])), 9)
