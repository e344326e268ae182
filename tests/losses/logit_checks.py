"""What the tests of the losses on logits share: a pair of them, and the values and gradients of a loss."""

import numpy as np

from tests.losses.contract import copy_of
from tests.support.gradients import value_and_gradient


def logits_pair(scale=3.0, shape=(16, 10), seed=0):
    """Logits of a teacher and of a student, normal with the standard deviation `scale`."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(scale=scale, size=shape).astype("float32") for _ in range(2))


def gradient_of(loss, teacher, student, compiled=False):
    """The value of the loss and its gradient with respect to the student's logits."""
    return value_and_gradient(lambda s: loss(teacher, s), student, compiled=compiled)


def values_of(loss, teacher, student):
    """The loss of each sample."""
    return np.asarray(copy_of(loss, reduction=None)(teacher, student))
