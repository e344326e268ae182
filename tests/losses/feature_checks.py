"""What the tests of the feature losses share: a numeric gradient, the comparison with float64, Keras masks."""

import keras
import numpy as np

from tests.losses.contract import copy_of
from tests.support.gradients import value_and_gradient

# Features pass through a square, a sum, a root and a division: some roundings of 6e-8 on sums of a few hundred terms.
FLOAT32_TOLERANCE = 1e-5
# Twice the cube root of float64's precision: the differences are good to about 1e-9 of values near 1.
STEP = 1e-5


def features(*shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype("float32")


def rotation(width, seed=7):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0].astype("float32")


def central_differences(function, x):
    """The gradient of a float64 function with respect to every entry of x."""
    gradient = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = x.copy()
            moved[index] += step
            ends.append(function(moved))
        gradient[index] = (ends[0] - ends[1]) / (2 * STEP)
    return gradient


def assert_matches(loss, reference, teacher, student, tolerance=FLOAT32_TOLERANCE):
    """Compares the values, and the gradient of their sum, with a reference of (teacher, student) in float64."""
    teacher_64, student_64 = np.float64(teacher), np.float64(student)
    wanted = reference(teacher_64, student_64)
    got = np.asarray(copy_of(loss, reduction=None)(teacher, student))
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < tolerance * np.abs(wanted).max()
    _, gradient = value_and_gradient(lambda z: copy_of(loss, reduction="sum")(teacher, z), student)
    wanted = central_differences(lambda z: reference(teacher_64, z).sum(), student_64)
    assert np.abs(gradient - wanted).max() < tolerance * np.abs(wanted).max()


def assert_finite(loss, teacher, student):
    """The value and the gradient are numbers; returns both."""
    value, gradient = value_and_gradient(lambda z: loss(teacher, z), student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    return value, gradient


def half_precision_extremes(*shape, seed=0):
    """Values of float16 up to 1e4 in size, most of them large, some zero, some small, and two equal samples."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-1e4, 1e4, -9e3, 7e3, 1.0, -1e-3, 0.0], size=shape).astype("float16")
    x[1] = x[0]
    return x


class KeepsMask(keras.layers.Layer):
    """The identity, whose output carries a given mask."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask
        self.supports_masking = True

    def call(self, x):
        return x

    def compute_mask(self, inputs, previous_mask=None):
        return keras.ops.convert_to_tensor(self.mask)
