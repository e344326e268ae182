import keras
import numpy as np
import pytest

from keras_notes.layers import TransformerEncoder
from tests.layers.contract import BLOCK_ROUNDING, FLOAT32_ROUNDING, check_layer, copy_of, run
from tests.layers.references import in_float64, layer_normalized, multi_head_attention

pytestmark = pytest.mark.any_backend

WIDTH, HIDDEN = 8, 12
EPSILON = 1e-5


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype("float32")


def built(x, **arguments):
    """A block whose weights are all random, biases and factors too."""
    block = TransformerEncoder(**{"num_heads": 2, "hidden_width": HIDDEN, **arguments})
    block(x)
    rng = np.random.default_rng(1)
    block.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in block.get_weights()])
    return block


def float64_block(weights, x, mask, norm_first):
    """ReLU and layer normalization, for one sequence."""
    attention, (gamma, beta), (w1, b1, w2, b2), (gamma2, beta2) = (
        weights[:8],
        weights[8:10],
        weights[10:14],
        weights[14:],
    )

    def first_norm(a):
        return layer_normalized(a, gamma, beta, EPSILON)

    def second_norm(a):
        return layer_normalized(a, gamma2, beta2, EPSILON)

    def attend(a):
        return multi_head_attention(attention, a, a, mask)[0]

    def feed(a):
        return np.maximum(a @ w1 + b1, 0.0) @ w2 + b2

    if norm_first:
        x = x + attend(first_norm(x))
        return x + feed(second_norm(x))
    x = first_norm(x + attend(x))
    return second_norm(x + feed(x))


# Identities


def test_without_positions_permuted_inputs_give_permuted_outputs(x):
    block = built(x)
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(run(block, x[:, order]), run(block, x)[:, order], atol=FLOAT32_ROUNDING)
    turned = built(x, rotary=True)
    assert np.abs(run(turned, x[:, order]) - run(turned, x)[:, order]).max() > 1e-2


def test_padding_changes_not_a_bit(x):
    block = built(x)
    mask = np.arange(5) < np.array([[5], [3]])
    before = run(block, x, mask=mask)
    x[1, 3:] = 7.0
    np.testing.assert_array_equal(run(block, x, mask=mask)[mask], before[mask])
    assert (run(block, x)[1, :3] != before[1, :3]).any()


def test_padding_is_as_if_it_were_not_there(x):
    block = built(x)
    mask = np.arange(5) < np.array([[3], [3]])
    np.testing.assert_allclose(run(block, x, mask=mask)[:, :3], run(block, x[:, :3]), atol=FLOAT32_ROUNDING)


def test_swiglu_is_a_gate_times_a_linear_layer(x):
    block = built(x, activation="swiglu", use_bias=False)
    gate, hidden, output = (layer.get_weights()[0] for layer in (
        block.feed_forward.gate_dense, block.feed_forward.hidden_dense, block.feed_forward.output_dense))  # fmt: skip
    gated = x @ gate / (1 + np.exp(-x @ gate)) * (x @ hidden)
    np.testing.assert_allclose(run(block.feed_forward, x), gated @ output, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
@pytest.mark.parametrize("normalization", ["layer", "rms"])
def test_parameters_are_those_of_the_formula(x, activation, normalization):
    block = built(x, activation=activation, normalization=normalization)
    d, f = WIDTH, HIDDEN
    attention = 4 * (d * d + d)
    feed_forward = {"relu": d * f + f + f * d + d, "swiglu": 2 * (d * f + f) + f * d + d}[activation]
    norms = 2 * {"layer": 2 * d, "rms": d}[normalization]
    assert block.count_params() == attention + feed_forward + norms


# The reference


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_matches_float64(x, norm_first, masked):
    block = built(x, norm_first=norm_first)
    mask = np.random.default_rng(2).random((5, 5)) < 0.6 if masked else np.ones((5, 5), bool)
    actual = run(block, x, attention_mask=mask)
    for b in range(2):
        expected = float64_block(in_float64(block), x[b].astype("float64"), mask, norm_first)
        np.testing.assert_allclose(actual[b], expected, atol=FLOAT32_ROUNDING)
    other = float64_block(in_float64(block), x[0].astype("float64"), mask, not norm_first)
    assert np.abs(actual[0] - other).max() > 1e-2


# The contract


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ({}, {"return_attention_scores": True}),
        ({"norm_first": True, "activation": "swiglu", "normalization": "rms", "rotary": True, "use_bias": False}, {}),
        ({"activation": "gelu", "dropout": 0.5, "seed": 2, "num_key_value_heads": 1}, {}),
    ],
)
def test_keeps_the_contract(x, arguments, call, tmp_path):
    check_layer(TransformerEncoder(2, HIDDEN, **arguments), x, tmp_path=tmp_path, half_rounding=BLOCK_ROUNDING, **call)


def test_keras_masks_count_as_explicit_ones_and_are_handed_on(x):
    ids = np.array([[1, 2, 0], [3, 0, 0]])
    embedded = keras.layers.Embedding(4, WIDTH, mask_zero=True)(ids)
    block = built(x)
    outputs = block(embedded)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(outputs), run(block, keras.ops.convert_to_numpy(embedded), mask=ids != 0)
    )
    assert keras.ops.convert_to_numpy(outputs._keras_mask).tolist() == (ids != 0).tolist()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_batch_of_nothing_but_padding_is_finite(x, policy):
    block = copy_of(built(x), dtype=policy)
    block(x)
    assert np.isfinite(run(block, x, mask=np.zeros((2, 5), bool)).astype("float32")).all()


def test_all_dropout_is_seeded_and_none_drops_the_same(x):
    block = built(x, dropout=0.5, seed=1)
    again = copy_of(block)
    again(x)
    again.set_weights(block.get_weights())
    dropped = run(block, x, training=True)
    np.testing.assert_array_equal(run(again, x, training=True), dropped)
    assert (run(block, x) != dropped).any()
    seeds = {block.attention_dropout.seed, block.feed_forward_dropout.seed, block.attention.seed}
    assert len(seeds) == 3


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "`num_heads` must be >= 1. Received: num_heads=0."),
        ({"hidden_width": 0}, "`hidden_width` must be >= 1"),
        ({"dropout": -0.1}, r"`dropout` must be in \[0, 1\]"),
        ({"activation": "swish2"}, "`activation` must be 'swiglu' or an activation of Keras. Received: activation='sw"),
        ({"normalization": "batch"}, "`normalization` must be one of 'layer', 'rms'. Received: normalization='batch'."),
        ({"num_heads": 4, "num_key_value_heads": 3}, "`num_key_value_heads` must divide `num_heads`"),
        ({"epsilon": 0.0}, "`epsilon` must be > 0"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerEncoder(**{"num_heads": 2, "hidden_width": HIDDEN, **arguments})


def test_heads_that_do_not_divide_the_width_are_an_error(x):
    with pytest.raises(ValueError, match=r"a width that `num_heads` divides. Received: num_heads=3. .* \(2, 5, 8\)."):
        TransformerEncoder(3, HIDDEN)(x)
    with pytest.raises(ValueError, match=r"`key_dim` must be even and >= 2 for rotary positions. Received: key_dim=1."):
        TransformerEncoder(8, HIDDEN, rotary=True)(x)
