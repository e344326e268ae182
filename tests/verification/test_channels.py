"""Channels of an output that vary in Keras and are lost in the file, and all that only looks like it."""

import numpy as np
import pytest

from keras_notes.verification._channels import find_lost_channels, format_indices

SAMPLES = 32
RNG = np.random.default_rng(0)


def on_grid(values, bits=8):
    """What a file gives whose output has one grid over all values."""
    step = (max(values.max(), 0.0) - min(values.min(), 0.0)) / (2**bits - 1)
    return np.round(values / step) * step


def lost(expected, actual=None, axes=None, **options):
    """The channels that are found to be lost; None without any."""
    actual = on_grid(expected) if actual is None else actual
    axes = axes or (expected.ndim - 1,)
    result = find_lost_channels(expected, actual, axes, **{"has_classes": False, **options})
    return result and result.channels


def uniform(low, high, *shape):
    return RNG.uniform(low, high, (SAMPLES, *shape))


BOXES, SCORES = uniform(0, 640, 64, 4), uniform(0, 1, 64, 5)


@pytest.mark.parametrize(
    ("parts", "axis", "channels"),
    [
        ((BOXES, SCORES), 2, (4, 5, 6, 7, 8)),
        ((SCORES, BOXES), 2, (0, 1, 2, 3, 4)),
        ((BOXES[..., :2], SCORES, BOXES[..., 2:]), 2, (2, 3, 4, 5, 6)),
        ((np.moveaxis(BOXES, 1, 2), np.moveaxis(SCORES, 1, 2)), 1, (4, 5, 6, 7, 8)),
        ((BOXES[:, 0], SCORES[:, 0]), 1, (4, 5, 6, 7, 8)),
        ((BOXES, 1e-3 * SCORES), 2, (4, 5, 6, 7, 8)),
        ((-BOXES, SCORES - 1), 2, (4, 5, 6, 7, 8)),
    ],
)
def test_small_channels_beside_large_ones_are_lost(parts, axis, channels):
    values = np.concatenate(parts, axis)
    assert lost(values, axes=(2, 1) if axis == 1 and values.ndim == 3 else None) == channels


def test_many_channels_of_two_kinds_are_lost_too():
    flat = np.concatenate([BOXES, SCORES], -1).reshape(SAMPLES, -1)
    assert len(lost(flat)) == SCORES[0].size


def test_sixteen_bits_hold_both_kinds():
    values = np.concatenate([BOXES, SCORES], -1)
    assert lost(values, on_grid(values, bits=16)) is None


LOGITS = RNG.normal(0, 5, (SAMPLES, 10))
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(LOGITS, id="logits"),
        pytest.param(SOFTMAX * [1.0] * 10, id="probabilities"),
        pytest.param(np.eye(10)[RNG.integers(0, 9, SAMPLES)], id="one-hot, a class that does not occur"),
        pytest.param(np.c_[uniform(0, 1, 4), uniform(0, 0.003, 1)], id="a rare label"),
        pytest.param(np.c_[uniform(0, 640, 4), np.full(SAMPLES, 0.3)], id="a small constant channel"),
        pytest.param(np.c_[uniform(0, 640, 4), np.zeros(SAMPLES)], id="a dead channel"),
        pytest.param(np.c_[uniform(0, 640, 4), uniform(-1e-6, 1e-6, 1)], id="a channel of rounding errors"),
        pytest.param(np.c_[uniform(0, 640, 4), uniform(0.300, 0.302, 1)], id="a channel with hardly any spread"),
        pytest.param(np.c_[uniform(0, 9, 31), np.eye(SAMPLES)[0] * 0.01], id="a unit that hardly ever answers"),
        pytest.param(uniform(-1, 1, 784) * np.geomspace(1e-3, 1, 784), id="units of all sizes"),
        pytest.param(np.full((SAMPLES, 3), 0.5), id="a constant output"),
        pytest.param(uniform(0, 640, 4)[:1], id="a single sample"),
    ],
)
def test_what_does_not_matter_is_no_alarm(values):
    assert lost(values) is None


def test_named_classes_are_of_one_kind():
    values = np.c_[uniform(-100, 100, 3), uniform(-0.1, 0.1, 1)]
    assert lost(values) == (3,)
    assert lost(values, has_classes=True) is None


@pytest.mark.parametrize("values", [LOGITS, SOFTMAX, SCORES, uniform(0, 1, 1), uniform(0, 1)])
def test_an_output_that_is_the_same_for_all_samples_is_lost(values):
    assert lost(values, np.broadcast_to(values[:1], values.shape)) == ()
    assert lost(values, values) is None


def test_indices_are_written_as_ranges():
    assert format_indices((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert format_indices(tuple(range(0, 20, 2))) == "0, 2, 4, 6, 8 and 5 more"
