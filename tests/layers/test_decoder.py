import keras
import numpy as np
import pytest

from keras_notes.layers import TransformerDecoder
from tests.layers.contract import BLOCK_ROUNDING, check_layer, run

pytestmark = pytest.mark.any_backend

# Sums of three sublayers in another order.
SAME = {"rtol": 1e-5, "atol": 2e-6}
VARIANTS = (
    {},
    {"norm_first": True, "normalization": "rms", "activation": "swiglu", "rotary": True, "num_key_value_heads": 1},
)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")


@pytest.fixture
def memory():
    return np.random.default_rng(1).normal(size=(2, 7, 6)).astype("float32")


def built(*inputs, **arguments):
    block = TransformerDecoder(2, 12, **arguments)
    block(*inputs)
    return block


def numpy(*tensors):
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


# Identities


@pytest.mark.parametrize(("arguments", "with_memory"), [(VARIANTS[0], True), (VARIANTS[1], False)])
def test_a_changed_future_leaves_the_past_of_a_stack_bit_identical(x, memory, arguments, with_memory):
    others = (memory,) if with_memory else ()
    stack = [built(x, *others, **arguments) for _ in range(3)]

    def outputs(values):
        for block in stack:
            values = run(block, values, *others)
        return values

    before = outputs(x)
    x[:, 3:] = 9.0
    after = outputs(x)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).any(axis=-1).all()


def test_padding_of_the_memory_changes_not_a_bit(x, memory):
    block = built(x, memory)
    mask = np.arange(7) < np.array([[7], [3]])
    before = run(block, x, memory, memory_mask=mask)
    memory[~mask] = 5.0
    np.testing.assert_array_equal(run(block, x, memory, memory_mask=mask), before)
    assert (run(block, x, memory)[1] != before[1]).any()


def test_parameters_are_those_of_the_formula(x, memory):
    d, m, f = 8, 6, 12
    attention, feed_forward, norm = 4 * (d * d + d), d * f + f + f * d + d, 2 * d
    on_memory = 2 * (d * d + d) + 2 * (m * d + d)
    assert built(x).count_params() == attention + feed_forward + 2 * norm
    assert built(x, memory).count_params() == attention + on_memory + feed_forward + 3 * norm


# The cache


@pytest.mark.parametrize(("arguments", "steps"), [(VARIANTS[0], (1, 1, 1, 1, 1)), (VARIANTS[1], (3, 1, 1))])
def test_steps_with_caches_are_the_whole_pass(x, memory, arguments, steps):
    block = built(x, memory, **arguments)
    mask = np.arange(7) < np.array([[7], [3]])
    expected, expected_scores = run(block, x, memory, memory_mask=mask, return_attention_scores=True)
    cache, memory_cache, start = block.empty_cache(2, 6), block.project_memory(memory), 0
    for length in steps:
        part = slice(start, start + length)
        actual, scores, cache = block(x[:, part], cache=cache, memory_cache=memory_cache, memory_mask=mask,
                                   start_index=start, return_attention_scores=True)  # fmt: skip
        actual, on_self, on_memory = numpy(actual, *scores)
        np.testing.assert_allclose(actual, expected[:, part], **SAME)
        np.testing.assert_allclose(on_self[..., :5], expected_scores[0][:, :, part], **SAME)
        np.testing.assert_allclose(on_memory, expected_scores[1][:, :, part], **SAME)
        start += length


def test_a_decoder_without_memory_decodes_step_by_step(x):
    block = built(x, rotary=True)
    expected, cache = run(block, x), block.empty_cache(2, 5)
    for start in range(5):
        actual, cache = block(x[:, start : start + 1], cache=cache, start_index=start)
        np.testing.assert_allclose(*numpy(actual), expected[:, start : start + 1], **SAME)


# The contract


@pytest.mark.parametrize("arguments", VARIANTS)
def test_keeps_the_contract(x, memory, arguments, tmp_path):
    block = TransformerDecoder(2, 12, **arguments)
    check_layer(block, x, memory, tmp_path=tmp_path, half_rounding=BLOCK_ROUNDING, return_attention_scores=True)


def test_keeps_the_contract_without_memory(x, tmp_path):
    check_layer(TransformerDecoder(2, 12, dropout=0.5), x, tmp_path=tmp_path, half_rounding=BLOCK_ROUNDING)


def test_keras_masks_count_as_explicit_ones_and_are_handed_on(x, memory):
    ids, source = np.array([[1, 2, 0], [3, 0, 0]]), np.array([[1, 0], [2, 3]])
    embedded = keras.layers.Embedding(4, 8, mask_zero=True)(ids)
    remembered = keras.layers.Embedding(4, 6, mask_zero=True)(source)
    block = built(x, memory)
    outputs = block(embedded, remembered)
    explicit = run(block, *numpy(embedded, remembered), mask=ids != 0, memory_mask=source != 0)
    np.testing.assert_array_equal(*numpy(outputs), explicit)
    assert numpy(outputs._keras_mask)[0].tolist() == (ids != 0).tolist()


# Errors


def test_a_memory_that_is_missing_or_unexpected_is_an_error(x, memory):
    with pytest.raises(ValueError, match=r"`memory` or `memory_cache` must be given .* Received: neither."):
        built(x, memory)(x)
    with pytest.raises(
        ValueError, match=r"must be built with a memory to attend to one. .* Make another block for it."
    ):
        built(x)(x, memory)
    with pytest.raises(ValueError, match="must be built with a memory"):
        built(x).project_memory(memory)
    with pytest.raises(ValueError, match=r"`inputs` and `memory` must have the same batch. Received: shapes \(2, 5, 8"):
        built(x, memory)(x, memory[:1])


def test_positions_past_the_cache_are_an_error(x):
    block = built(x)
    with pytest.raises(ValueError, match=r"`start_index` \+ length must be <= 4, .* Received: start_index=2, length=5"):
        block(x, cache=block.empty_cache(2, 4), start_index=2)


def test_padding_of_the_inputs_has_no_place_in_a_cache(x):
    block = built(x)
    with pytest.raises(ValueError, match=r"`value_mask` must have shape \(batch, length\), \(2, 9\). Received"):
        block(x, mask=np.ones((2, 5), bool), cache=block.empty_cache(2, 9))
