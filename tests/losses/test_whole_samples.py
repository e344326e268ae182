"""Losses that take all positions of a sample together: what a Keras mask leaves out of them."""

import numpy as np
import pytest

from keras_notes.losses import (
    AttentionTransferLoss,
    HintLoss,
    ProbabilisticTransferLoss,
    RelationalLoss,
    SimilarityPreservingLoss,
)
from tests.losses.contract import FLOAT32_ROUNDING
from tests.losses.feature_checks import KeepsMask, features
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

# As many samples as positions: a mask of the positions would fit the losses of the samples, and be wrong.
SAMPLES = POSITIONS = 4
MASK = np.arange(POSITIONS)[None] < np.array([2, 4, 1, 3])[:, None]
LOSSES = [AttentionTransferLoss(), SimilarityPreservingLoss(), RelationalLoss(), ProbabilisticTransferLoss()]
NAMES = [type(loss).__name__ for loss in LOSSES]


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_masked_positions_are_taken_as_zero_in_teacher_and_student(loss):
    teacher, student = features(SAMPLES, POSITIONS, 5), features(SAMPLES, POSITIONS, 3, seed=1)
    cut_teacher, cut_student = (np.where(MASK[..., None], x, 0).astype("float32") for x in (teacher, student))
    value, gradient = value_and_gradient(lambda z: loss(teacher, KeepsMask(MASK)(z)), student)
    assert float(value) == pytest.approx(float(loss(cut_teacher, cut_student)), rel=FLOAT32_ROUNDING)
    assert float(value) != pytest.approx(float(loss(teacher, student)), rel=0.01)
    assert (gradient[~MASK] == 0).all()
    assert (gradient[MASK] != 0).any()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_a_mask_that_does_not_fit_the_teacher_is_an_error(loss):
    student = KeepsMask(MASK)(features(SAMPLES, POSITIONS, 3))
    with pytest.raises(ValueError, match=r"positions of the student's Keras mask.*\(4, 2, 3\), mask of shape \(4, 4\)"):
        loss(features(SAMPLES, 2, 3), student)


@pytest.mark.parametrize("loss", [HintLoss(axis=0), HintLoss(axis=-3), AttentionTransferLoss(axis=0)])
def test_the_batch_axis_holds_no_features(loss):
    x = features(SAMPLES, POSITIONS, 3)
    with pytest.raises(ValueError, match=r"`axis` must not be the batch axis\. Received: axis="):
        loss(x, x)


def test_an_axis_that_is_not_there_is_an_error():
    x = features(SAMPLES, POSITIONS, 3)
    with pytest.raises(ValueError, match=r"`axis` must be an axis of y_pred\. Received: axis=7"):
        HintLoss(axis=7)(x, x)
