import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.layers import MultiHeadAttention
from tests.layers.contract import FLOAT32_ROUNDING, check_layer, copy_of, run
from tests.layers.references import in_float64, multi_head_attention, turned

pytestmark = pytest.mark.any_backend

# Two float32 computations of the same: some hundred roundings of a part in 10^7.
SAME = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")


@pytest.fixture
def memory():
    return np.random.default_rng(1).normal(size=(2, 7, 6)).astype("float32")


def padding(*lengths, total):
    return np.arange(total) < np.array(lengths)[:, None]


def built(*inputs, **arguments):
    layer = MultiHeadAttention(**{"num_heads": 4, "key_dim": 6, "bias_initializer": "random_normal", **arguments})
    layer(*inputs)
    return layer


# In place of Keras's


@pytest.mark.parametrize(
    ("groups", "causal", "to_keras"), [(None, False, True), (None, True, False), (2, False, False), (2, True, True)]
)
def test_weights_are_those_of_keras_and_give_the_same(x, memory, groups, causal, to_keras):
    ours = built(x, memory, num_key_value_heads=groups)
    theirs = keras.layers.MultiHeadAttention(4, 6) if groups is None else keras.layers.GroupQueryAttention(6, 4, groups)
    theirs.build(x.shape, memory.shape)
    target, source = (theirs, ours) if to_keras else (ours, theirs)
    target.set_weights(source.get_weights())
    call = {"value_mask": padding(7, 3, total=7), "use_causal_mask": causal, "return_attention_scores": True}
    for actual, expected in zip(run(ours, x, memory, **call), run(theirs, x, memory, **call), strict=True):
        np.testing.assert_allclose(actual, expected, **SAME)


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7), (2, 1, 7), (2, 4, 5, 7)])
def test_attention_masks_of_every_shape_are_those_of_keras(x, memory, shape):
    mask = np.random.default_rng(3).random(shape) < 0.7
    mask[..., 0] = True
    ours, theirs = built(x, memory), keras.layers.MultiHeadAttention(4, 6)
    theirs.build(x.shape, memory.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(
        run(ours, x, memory, attention_mask=mask), run(theirs, x, memory, attention_mask=mask), **SAME
    )


def test_arguments_beyond_the_first_are_those_of_keras(x, memory):
    arguments = {"value_dim": 3, "use_bias": False, "output_shape": 9, "kernel_regularizer": "l2"}
    ours = built(x, memory, memory * 2, **arguments)
    theirs = keras.layers.MultiHeadAttention(4, 6, **arguments)
    theirs.build(x.shape, memory.shape, memory.shape)
    theirs.set_weights(ours.get_weights())
    call = {"key": memory * 2, "return_attention_scores": True}  # Keras's fused path refuses this width on JAX
    np.testing.assert_allclose(run(ours, x, memory, **call)[0], run(theirs, x, memory, **call)[0], **SAME)
    losses = [keras.ops.convert_to_numpy(layer.losses) for layer in (ours, theirs)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_an_explicit_query_mask_counts(x):
    layer = built(x, x)
    outputs, scores = run(layer, x, x, query_mask=padding(5, 2, total=5), return_attention_scores=True)
    assert (scores[1, :, 2:] == 0).all()
    np.testing.assert_allclose(outputs[1, 2:], np.broadcast_to(layer.get_weights()[-1], (3, 8)), **SAME)
    np.testing.assert_allclose(outputs[0], run(layer, x, x)[0], **SAME)


def test_keras_masks_count_as_explicit_ones(x):
    ids = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    embedded = keras.layers.Embedding(4, 8, mask_zero=True)(ids)
    layer = built(x, x)
    outputs = layer(embedded, embedded)
    explicit = layer(keras.ops.convert_to_numpy(embedded), keras.ops.convert_to_numpy(embedded), query_mask=ids != 0,
                     value_mask=ids != 0)  # fmt: skip
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (outputs, explicit)))
    assert keras.ops.convert_to_numpy(outputs._keras_mask).tolist() == (ids != 0).tolist()


# Identities


def test_as_many_groups_as_heads_are_no_groups(x):
    plain = built(x, x)
    grouped = built(x, x, num_key_value_heads=4)
    grouped.set_weights(plain.get_weights())
    np.testing.assert_array_equal(run(grouped, x, x), run(plain, x, x))


@pytest.mark.parametrize("rotary", [False, True])
def test_changing_the_future_leaves_the_past_bit_identical(x, rotary):
    layer = built(x, x, rotary=rotary)
    before = run(layer, x, x, use_causal_mask=True)
    x[:, 3:] = 100.0
    after = run(layer, x, x, use_causal_mask=True)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).all()


def test_what_a_masked_key_holds_changes_not_a_bit(x, memory):
    layer = built(x, memory)
    mask = padding(7, 3, total=7)
    before = run(layer, x, memory, value_mask=mask)
    memory[~mask] = 50.0
    np.testing.assert_array_equal(run(layer, x, memory, value_mask=mask), before)
    assert (run(layer, x, memory) != before).any()


def test_rotary_scores_depend_on_differences_of_positions_only(x):
    layer = built(x, x, rotary=True)
    first, later = (
        run(layer, x, x, start_index=start, use_causal_mask=True, return_attention_scores=True) for start in (0, 90)
    )
    np.testing.assert_allclose(later[1], first[1], atol=FLOAT32_ROUNDING)
    assert np.abs(run(layer, x, x[:, ::-1]) - run(layer, x, x)).max() > 1e-3


@pytest.mark.parametrize(("groups", "value_dim", "use_bias"), [(None, None, True), (2, 3, True), (1, None, False)])
def test_parameters_are_those_of_the_formula(x, groups, value_dim, use_bias):
    layer = built(x, x, num_key_value_heads=groups, value_dim=value_dim, use_bias=use_bias)
    h, g, d, k, v = 4, groups or 4, 8, 6, value_dim or 6
    bias = h * k + g * k + g * v + d if use_bias else 0
    assert layer.count_params() == d * h * k + d * g * k + d * g * v + h * v * d + bias


# The reference


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("groups", [None, 2, 1])
def test_matches_float64(x, groups, rotary):
    layer = built(x, x, num_key_value_heads=groups, rotary=rotary)
    mask = np.tri(5, dtype=bool)
    outputs, scores = run(layer, x, x, attention_mask=mask, return_attention_scores=True)
    for b in range(2):
        expected, heads = multi_head_attention(
            in_float64(layer), *[x[b].astype("float64")] * 2, mask, turned if rotary else lambda a: a
        )
        np.testing.assert_allclose(outputs[b], expected, atol=FLOAT32_ROUNDING)
        np.testing.assert_allclose(scores[b], [score for _, score in heads], atol=FLOAT32_ROUNDING)


# The cache


@pytest.mark.parametrize(("steps", "as_tensor"), [((1, 1, 1, 1, 1), True), ((3, 2), False)])
@pytest.mark.parametrize("arguments", [{}, {"rotary": True, "num_key_value_heads": 2, "value_dim": 3}])
def test_steps_with_a_cache_are_the_whole_causal_pass(x, arguments, steps, as_tensor):
    layer = built(x, x, **arguments)
    expected, scores = run(layer, x, x, use_causal_mask=True, return_attention_scores=True)
    cache, start = layer.empty_cache(2, 9), 0
    for length in steps:
        part = x[:, start : start + length]
        at = keras.ops.convert_to_tensor(start, "int32") if as_tensor else start
        actual, actual_scores, cache = layer(part, part, cache=cache, start_index=at, return_attention_scores=True)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(actual), expected[:, start : start + length], **SAME)
        seen = keras.ops.convert_to_numpy(actual_scores)
        np.testing.assert_allclose(seen[..., :5], scores[:, :, start : start + length], **SAME)
        assert (seen[..., 5:] == 0).all()
        start += length


def test_a_memory_is_projected_once(x, memory):
    layer = built(x, memory, num_key_value_heads=2, value_dim=3)
    mask = padding(7, 3, total=7)
    cache = layer.project_memory(memory)
    actual = run(layer, x, None, cache=cache, value_mask=mask)
    np.testing.assert_array_equal(actual, run(layer, x, memory, value_mask=mask))
    np.testing.assert_array_equal(actual, run(layer, x, None, cache=cache, attention_mask=mask[:, None]))


# The contract


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ({}, {}),
        ({"dropout": 0.5, "seed": 3}, {"return_attention_scores": True}),
        ({"num_key_value_heads": 2, "rotary": True, "value_dim": 3, "output_shape": 5}, {"use_causal_mask": True}),
    ],
)
def test_keeps_the_contract(x, arguments, call, tmp_path):
    layer = MultiHeadAttention(4, 6, **arguments)
    check_layer(layer, x, x[:, :4], tmp_path=tmp_path, **call)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_masks_are_finite_in_half_precision(x, policy):
    layer = built(x, x, dtype=policy)
    outputs, scores = run(layer, 100 * x, x, value_mask=padding(5, 0, total=5), return_attention_scores=True)
    assert np.isfinite(outputs.astype("float32")).all()
    assert (scores[1].astype("float32") == 0).all()


def test_takes_sequences_of_unknown_length(x):
    inputs = keras.Input((None, 8))
    for arguments in ({}, {"rotary": True, "num_key_value_heads": 2}):
        layer = MultiHeadAttention(4, 6, **arguments)
        model = keras.Model(inputs, layer(inputs, inputs, use_causal_mask=True))
        np.testing.assert_allclose(model.predict(x, verbose=0), run(layer, x, x, use_causal_mask=True), **SAME)


def test_dropout_is_seeded_and_for_training(x):
    layer = built(x, x, dropout=0.5, seed=1)
    again = copy_of(layer)
    again(x, x)
    again.set_weights(layer.get_weights())
    dropped = run(layer, x, x, training=True)
    np.testing.assert_array_equal(run(again, x, x, training=True), dropped)
    assert (run(layer, x, x) != dropped).any()


def test_scores_serve_a_loss(x):
    _, scores = run(built(x, x), x, x, return_attention_scores=True)
    others = run(built(x, x), x, x, return_attention_scores=True)[1]
    loss = kn.losses.AttentionRelationLoss()
    assert float(loss(scores.mean(axis=1), others.mean(axis=1))) > 0


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_heads": 0}, ValueError, "`num_heads` must be >= 1. Received: num_heads=0."),
        ({"key_dim": 1.5}, TypeError, "`key_dim` must be an integer"),
        ({"value_dim": 0}, ValueError, "`value_dim` must be >= 1"),
        ({"output_shape": 0}, ValueError, "`output_shape` must be >= 1"),
        ({"dropout": 1.5}, ValueError, r"`dropout` must be in \[0, 1\]. Received: dropout=1.5."),
        ({"num_key_value_heads": 3}, ValueError, "`num_key_value_heads` must divide `num_heads`. Received: num_key_v"),
        ({"key_dim": 3, "rotary": True}, ValueError, "`key_dim` must be even and >= 2 for rotary positions"),
        ({"rotary_base": 0}, ValueError, "`rotary_base` must be > 0"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        MultiHeadAttention(**{"num_heads": 4, "key_dim": 6, **arguments})


@pytest.mark.parametrize(
    ("mask", "shape", "message"),
    [
        ("query_mask", (2, 7), r"`query_mask` must have shape \(batch, length\), \(2, 5\). Received: shape \(2, 7\)."),
        ("value_mask", (2, 5), r"`value_mask` must have shape \(batch, length\), \(2, 7\). Received: shape \(2, 5\)."),
        ("key_mask", (2, 7, 1), r"`key_mask` must have shape \(batch, length\), \(2, 7\). Received: shape \(2, 7, 1\)"),
        ("attention_mask", (2, 7, 5), r"shape of the scores .* \(2, 4, 5, 7\), .* Received: shape \(2, 7, 5\)."),
        ("attention_mask", (7,), r"Received: shape \(7,\)."),
        ("attention_mask", (2, 2, 5, 7), r"Received: shape \(2, 2, 5, 7\)."),
    ],
)
def test_masks_of_wrong_shapes_are_errors_and_never_broadcast(x, memory, mask, shape, message):
    with pytest.raises(ValueError, match=message):
        built(x, memory)(x, memory, **{mask: np.ones(shape, bool)})


def test_inputs_that_do_not_fit_are_errors(x, memory):
    with pytest.raises(ValueError, match=r"`query` must have shape \(batch, length, width\). Received: shape \(5, 8\)"):
        MultiHeadAttention(4, 6)(x[0], memory)
    with pytest.raises(ValueError, match=r"`value` and `key` must have the same batch and length. Received: shapes"):
        MultiHeadAttention(4, 6)(x, memory, memory[:, :3])


def test_a_cache_that_does_not_fit_is_an_error(x):
    layer = built(x, x)
    keys, values = layer.empty_cache(2, 4)
    with pytest.raises(ValueError, match=r"`start_index` \+ length must be <= 4, .* Received: start_index=0, length=5"):
        layer(x, x, cache=(keys, values))
    with pytest.raises(ValueError, match=r"must be \(keys, values\) of shapes \(batch, heads, positions, width\)"):
        layer(x, x, cache=(keys, values[0]))
    with pytest.raises(
        ValueError, match=r"with the batch, heads and width of the new ones. .* Begin with `empty_cache`"
    ):
        layer(x[:1], x[:1], cache=(keys, values))
    with pytest.raises(ValueError, match=r"`value` must be given without a `cache`. Received: value=None and cache"):
        layer(x, None)
