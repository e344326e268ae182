"""`scaled_dot_product_attention`: the formula."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_notes.layers import scaled_dot_product_attention
from tests.layers.contract import FLOAT32_ROUNDING
from tests.layers.references import attention
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

QUERIES, KEYS = 4, 6


@pytest.fixture
def arrays():
    """Query of 4 heads, key and value of 2."""
    rng = np.random.default_rng(0)
    shapes = (2, 4, QUERIES, 3), (2, 2, KEYS, 3), (2, 2, KEYS, 5)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.fixture
def mask():
    """True for some; the last query of the first sample may look at no key, key 2 of the second is seen by none."""
    mask = np.random.default_rng(1).random((2, 1, QUERIES, KEYS)) < 0.7
    mask[0, 0, -1] = False
    mask[1, ..., 2] = False
    return mask


def attended(query, key, value, mask=None):
    return [ops.convert_to_numpy(part) for part in scaled_dot_product_attention(query, key, value, mask)]


# Identities


def test_scores_sum_to_1(arrays):
    np.testing.assert_allclose(attended(*arrays)[1].sum(-1), 1.0, rtol=1e-6)


def test_groups_are_heads_whose_keys_and_values_are_repeated(arrays):
    query, key, value = arrays
    repeated = attended(query, key.repeat(2, axis=1), value.repeat(2, axis=1))
    for actual, expected in zip(attended(*arrays), repeated, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_a_query_that_may_look_at_no_key_gives_exact_zeros(arrays, mask):
    outputs, scores = attended(*arrays, mask)
    assert (outputs[0, :, -1] == 0).all()
    assert (scores[0, :, -1] == 0).all()
    assert (outputs[1] != 0).all()


def test_what_a_masked_key_holds_changes_not_a_bit(arrays, mask):
    query, key, value = arrays
    before = attended(query, key, value, mask)
    for array in (key, value):
        array[1, :, 2] = 1e4
    for actual, expected in zip(attended(query, key, value, mask), before, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert (attended(query, key, value)[0] != attended(*arrays[:2], -value)[0]).any()


# The reference


@pytest.mark.parametrize("masked", [False, True])
def test_matches_float64(arrays, mask, masked):
    query, key, value = (array.astype("float64") for array in arrays)
    outputs, scores = attended(*arrays, mask if masked else None)
    for b in range(2):
        for h in range(4):
            allowed = mask[b, 0] if masked else True
            expected = attention(query[b, h], key[b, h // 2], value[b, h // 2], allowed)
            np.testing.assert_allclose(outputs[b, h], expected[0], atol=FLOAT32_ROUNDING)
            np.testing.assert_allclose(scores[b, h], expected[1], atol=FLOAT32_ROUNDING)


# Extremes


@pytest.mark.parametrize("part", [0, 1, 2])
def test_gradients_are_finite_where_a_query_may_look_at_no_key(arrays, mask, part):
    def total(x):
        arguments = [x if place == part else ops.convert_to_tensor(array) for place, array in enumerate(arrays)]
        return ops.sum(ops.square(scaled_dot_product_attention(*arguments, mask)[0]))

    _, gradient = value_and_gradient(total, arrays[part])
    assert np.isfinite(gradient).all()
    assert (gradient != 0).any()
    if part == 0:
        assert (gradient[0, :, -1] == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_scores_of_ten_thousand_are_no_infinity(arrays, mask, dtype):
    query, key, value = arrays
    scale = 1e4 / np.abs(np.einsum("bhqk,bhmk->bhqm", query[:, ::2], key)).max() * np.sqrt(3)
    root = np.sqrt(scale)
    outputs, scores = attended((query * root).astype(dtype), (key * root).astype(dtype), value.astype(dtype), mask)
    assert outputs.dtype == dtype
    assert np.isfinite(outputs).all()
    assert np.isfinite(scores).all()
    assert (scores[~np.broadcast_to(mask, scores.shape)] == 0).all()


def test_queries_are_scaled_before_the_product():
    # 64 products of 40 * 40 are 102,400, which float16 does not have; an eighth of it is 12,800, which it has.
    ones = np.full((1, 1, 2, 64), 40.0, "float16")
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(40.0 * 40.0 * 64))
    assert np.isfinite(attended(ones, ones, ones)[0]).all()


def test_softmax_and_dropout_are_called(arrays):
    seen = []

    def softmax(logits, mask):
        seen.append(mask)
        return keras.ops.softmax(logits)

    outputs, scores = scaled_dot_product_attention(*arrays, softmax=softmax, dropout=ops.zeros_like)
    assert seen == [None]
    assert (ops.convert_to_numpy(outputs) == 0).all()
    assert (ops.convert_to_numpy(scores) > 0).all()


@pytest.mark.parametrize("mask", [None, [[True]], [[False]]], ids=str)
def test_one_key_takes_all_the_attention_without_a_warning(mask):
    # Keras's softmax warns of one element, and here a warning is an error.
    query, key, value = (np.full((1, 2, 1, 3), number, "float32") for number in (1, 2, 3))
    outputs, scores = scaled_dot_product_attention(query, key, value, None if mask is None else np.array(mask))
    attention = float(mask != [[False]])
    assert (keras.ops.convert_to_numpy(scores) == attention).all()
    assert (keras.ops.convert_to_numpy(outputs) == 3 * attention).all()
