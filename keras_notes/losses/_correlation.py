"""DIST: the student keeps the teacher's relations between classes and between samples, up to scale and offset."""

from __future__ import annotations

import keras
from keras import ops

from keras_notes._shared.checks import check_non_negative, check_positive
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import TeacherLoss
from keras_notes.losses._labels import check_logits

__all__ = ["CorrelationDistillationLoss", "one_minus_correlation"]

# Relative to the largest probability: less spread than this is rounding, and no relation to match.
_MINIMUM_SPREAD = 1e-8


def one_minus_correlation(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """1 minus Pearson's correlation along an axis, as half the squared distance of the two unit vectors.

    Near 1 the correlation itself would cancel. A vector without spread has length 0 here: two of them agree (0), one
    alone counts 1/2.
    """
    return 0.5 * ops.sum(ops.square(_standard_vector(x, axis) - _standard_vector(y, axis)), axis=axis)


def _standard_vector(x: Tensor, axis: int) -> Tensor:
    centred = x - ops.mean(x, axis=axis, keepdims=True)
    length = x.shape[axis] or ops.cast(ops.shape(x)[axis], x.dtype)
    minimum = length * _MINIMUM_SPREAD**2
    return centred / ops.sqrt(ops.sum(ops.square(centred), axis=axis, keepdims=True) + minimum)


@keras.saving.register_keras_serializable(package="keras_notes")
class CorrelationDistillationLoss(TeacherLoss):
    """DIST: matches Pearson correlations of the softened probabilities, within samples and within classes.

        L = T^2 * (beta * inter + gamma * intra)
        inter = 1 - mean over samples of corr(p_i., q_i.)       the classes of one sample
        intra = 1 - mean over classes of corr(p_.c, q_.c)       the samples of the batch in one class

    with p = softmax(t / T) the teacher and q = softmax(s / T) the student. It is 0 if and only if the student's
    probabilities are a positive affine function of the teacher's, in each row and in each column; equal rankings alone
    are not enough. So a weaker student may be less certain than its teacher without a loss, where KL would not allow
    it.

    Columns are correlated at any size of their probabilities. A row or column without spread in both models (one
    sample in the batch, equal logits) counts 0.

    Args:
        beta: Weight >= 0 of the relation between the classes.
        gamma: Weight >= 0 of the relation between the samples. It needs batches of three or more samples: two values
            always correlate by +1 or -1.
        temperature: T, > 0. The authors use 4 on CIFAR-100, 1 on ImageNet, and a weight of 2 relative to the labels'
            loss.
        reduction: Reduction of the values, see `keras.losses.Loss`. The value of a sample holds its own `inter`,
            and the batch's `intra`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's logits, of shape (batch, classes).
        y_pred: The student's logits, of the same shape.

    Raises:
        ValueError: If an argument is out of its range, or teacher and student differ in shape.

    Example:
        >>> import numpy as np
        >>> teacher_logits = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
        >>> loss = CorrelationDistillationLoss()
        >>> [round(float(loss(teacher_logits, logits)), 2) for logits in (teacher_logits + 5.0, -teacher_logits)]
        [0.0, 3.77]

    References:
        Huang et al. 2022, Knowledge Distillation from A Stronger Teacher, sections 3.2 and 3.3, equations 8 to 10
        (https://arxiv.org/abs/2205.10536).
    """

    temperature: float

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str = "correlation_distillation_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.beta = check_non_negative("beta", beta)
        self.gamma = check_non_negative("gamma", gamma)
        self.temperature = check_positive("temperature", temperature)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        check_logits(teacher, student, -1)
        if len(student.shape) != 2:
            raise ValueError(
                f"The logits must have shape (batch, classes). Received: shape {tuple(student.shape)}. "
                f"Flatten the positions of a sequence into the batch."
            )
        (rows_p, columns_p), (rows_q, columns_q) = (_relative(x / self.temperature) for x in (teacher, student))
        inter = one_minus_correlation(rows_p, rows_q, axis=1)
        intra = ops.mean(one_minus_correlation(columns_p, columns_q, axis=0))
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


def _relative(logits: Tensor) -> tuple[Tensor, Tensor]:
    """P / max p - 1 along the rows, and along the columns: neither scale nor offset changes a correlation.

    So a class that is improbable in all samples does not underflow where its values are squared, and at a high
    temperature nothing cancels where all probabilities are alike.
    """
    rows = logits - _maximum(logits, axis=1)
    mean = ops.mean(ops.expm1(rows), axis=1, keepdims=True)
    # log(classes * p); the mean of exp(rows) is near 1 at a high temperature, and anything down to 1 / classes else.
    log_mean = ops.where(
        mean > -0.5, ops.log1p(ops.maximum(mean, -0.5)), ops.log(ops.mean(ops.exp(rows), axis=1, keepdims=True))
    )
    columns = rows - log_mean
    return ops.expm1(rows), ops.expm1(columns - _maximum(columns, axis=0))


def _maximum(x: Tensor, axis: int) -> Tensor:
    return ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
