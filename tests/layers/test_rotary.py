import math

import keras
import numpy as np
import pytest

from keras_notes.layers import apply_rotary, rotary_angles
from tests.layers.contract import FLOAT32_ROUNDING
from tests.layers.references import turned

pytestmark = pytest.mark.any_backend


@pytest.fixture
def queries():
    return np.random.default_rng(0).normal(size=(2, 3, 7, 8)).astype("float32")


def rotary(x, positions):
    return keras.ops.convert_to_numpy(apply_rotary(x, rotary_angles(positions, x.shape[-1])))


# Identities


def test_products_depend_on_the_difference_of_positions_only(queries):
    query, key = queries[..., :1, :], queries[..., 1:2, :]

    def product(query_position, key_position):
        return (rotary(query, [query_position]) * rotary(key, [key_position])).sum(axis=-1)

    near = product(3, 1)
    for shift in (1, 50, 100_000):
        np.testing.assert_allclose(product(3 + shift, 1 + shift), near, atol=FLOAT32_ROUNDING)
    assert np.abs(product(4, 1) - near).max() > 0.1


def test_position_0_stays_as_it_is(queries):
    np.testing.assert_array_equal(rotary(queries, np.zeros(7, int)), queries)


def test_lengths_stay_as_they_are(queries):
    lengths = np.linalg.norm(queries, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(rotary(queries, np.arange(7)), axis=-1), lengths, rtol=1e-6)


# The reference


def test_pairs_are_the_halves_turned_as_complex_numbers(queries):
    expected = [[turned(head) for head in heads] for heads in queries.astype("float64")]
    np.testing.assert_allclose(rotary(queries, np.arange(7)), expected, atol=FLOAT32_ROUNDING)


@pytest.mark.parametrize("position", [1, 511, 100_000])
def test_angles_are_exact_at_every_position(position):
    for i, actual in enumerate(rotary_angles(position, 64)):
        expected = math.fmod(position * 10000.0 ** (-2 * i / 64), 2 * math.pi)
        assert actual == pytest.approx(expected, abs=1e-9)


def test_angles_of_positions_that_cannot_be_seen_are_the_same():
    angles = keras.Function(inputs := keras.Input(batch_shape=(5,), dtype="int32"), Angles()(inputs))(
        np.arange(5, dtype="int32")
    )
    np.testing.assert_allclose(keras.ops.convert_to_numpy(angles), rotary_angles(np.arange(5), 8), atol=1e-6)


class Angles(keras.Layer):
    """`rotary_angles` as a layer."""

    def call(self, positions):
        return keras.ops.convert_to_tensor(rotary_angles(positions, 8))


def test_half_precision_stays_half_precision(queries):
    assert rotary(queries.astype("float16"), np.arange(7)).dtype == "float16"


# Errors


@pytest.mark.parametrize(
    ("width", "base", "error", "message"),
    [
        (3, 1e4, ValueError, "`width` must be even and >= 2 for rotary positions. Received: width=3."),
        (0, 1e4, ValueError, "`width` must be even and >= 2"),
        (4.0, 1e4, TypeError, "`width` must be an integer"),
        (4, 0.0, ValueError, "`base` must be > 0. Received: base=0.0."),
    ],
)
def test_wrong_arguments_are_errors_at_once(width, base, error, message):
    with pytest.raises(error, match=message):
        rotary_angles([0], width, base)
