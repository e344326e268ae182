"""Decoupled knowledge distillation: one term for the true class, one for the ranking of the other classes."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_non_negative, check_positive, differ
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import TeacherLoss
from keras_notes.losses._labels import check_logits, raise_if_labels_out_of_range
from keras_notes.losses._maths.divergences import (
    RULED_OUT,
    bernoulli_kl_divergence,
    kl_divergence,
    log_sum_exp_difference,
    standardized,
)

__all__ = ["DecoupledDistillationLoss"]


@keras.saving.register_keras_serializable(package="keras_notes")
class DecoupledDistillationLoss(TeacherLoss):
    """Decoupled knowledge distillation (DKD): two terms that plain distillation couples.

        L = T^2 * (alpha * TCKD + beta * NCKD)
        TCKD = KL((p_y, 1 - p_y) || (q_y, 1 - q_y))                    how sure of the true class y
        NCKD = sum_{j != y} p^_j log(p^_j / q^_j)                      how the other classes are ranked

    with p = softmax(t / T) the teacher, q = softmax(s / T) the student, and p^_j = p_j / (1 - p_y). Plain distillation
    is TCKD + (1 - p_y) * NCKD: where the teacher is sure, it hardly teaches how the others are ranked.

    Args:
        alpha: Weight >= 0 of the true-class term.
        beta: Weight >= 0 of the term of the others. The authors use 2 to 8 on CIFAR-100 and 0.5 on ImageNet, and raise
            the whole loss linearly in the first epochs.
        temperature: T, > 0.
        standardize: Whether to standardize the logits first, see `DistillationLoss`.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's logits, of shape (..., classes); the true class is then the teacher's most probable one.
            Or (..., classes + 1), from `keras_notes.losses.with_labels`: logits, and the id of the true class. A sample
            whose id is not a class has the loss NaN.
        y_pred: The student's logits, of shape (..., classes).

    Raises:
        ValueError: If an argument is out of its range, if the shapes do not fit together, or if the ids of a NumPy
            array are not classes.

    Example:
        >>> import numpy as np
        >>> teacher_logits, student_logits = np.array([[5.0, 1.0, 0.0]]), np.array([[5.0, 0.0, 1.0]])
        >>> loss = DecoupledDistillationLoss(temperature=1.0)
        >>> plain = keras.losses.KLDivergence()(keras.ops.softmax(teacher_logits), keras.ops.softmax(student_logits))
        >>> round(float(loss(teacher_logits, student_logits) / plain))
        327

    References:
        Zhao et al. 2022, Decoupled Knowledge Distillation, sections 3.1 and 3.3, equations 5 and 7
        (https://arxiv.org/abs/2203.08679).
    """

    temperature: float

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        *,
        standardize: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "decoupled_distillation_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.alpha = check_non_negative("alpha", alpha)
        self.beta = check_non_negative("beta", beta)
        self.temperature = check_positive("temperature", temperature)
        self.standardize = bool(standardize)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        # Only here can be seen whether a column more holds class ids; a teacher of another task may have one, too.
        if isinstance(y_true, np.ndarray) and _has_labels(y_true, y_pred):
            raise_if_labels_out_of_range(y_true[..., -1], y_pred, axis=-1, exclusive=True)
        return super().__call__(y_true, y_pred, sample_weight)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        teacher, ids = _split_labels(teacher, student)
        check_logits(teacher, student, -1, standardize=self.standardize)
        if self.standardize:
            teacher, student = standardized(teacher), standardized(student)
        teacher, student = ops.maximum(teacher, RULED_OUT), ops.maximum(student, RULED_OUT)
        is_true = ops.equal(ops.expand_dims(ids, -1), ops.arange(student.shape[-1], dtype=ids.dtype))
        teacher_others, student_others = (ops.where(is_true, RULED_OUT, logits) for logits in (teacher, student))
        true_class = self._true_class_term(teacher, student, is_true, teacher_others, student_others)
        other_classes = kl_divergence(teacher_others, student_others, self.temperature)
        values = self.temperature**2 * (self.alpha * true_class + self.beta * other_classes)
        return ops.where(ops.any(is_true, axis=-1), values, math.nan)

    def _divided_by_temperature(self, teacher: Tensor, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        if not _has_labels(teacher, student):
            return super()._divided_by_temperature(teacher, student, temperature)
        labels = teacher[..., -1:]
        teacher, student = super()._divided_by_temperature(teacher[..., :-1], student, temperature)
        return ops.concatenate([teacher, labels], axis=-1), student

    def _true_class_term(
        self, teacher: Tensor, student: Tensor, is_true: Tensor, teacher_others: Tensor, student_others: Tensor
    ) -> Tensor:
        """TCKD from the log-odds u of the true class, u = z_y / T - logsumexp_{j != y} (z_j / T), and their difference.

        The difference is summed from the differences of the logits, so a high temperature does not cancel it.
        """

        def log_odds(logits, others):
            true_logit = ops.sum(ops.where(is_true, logits, 0.0), axis=-1) / self.temperature
            return true_logit - ops.logsumexp(others / self.temperature, axis=-1)

        true_difference = ops.sum(ops.where(is_true, student - teacher, 0.0), axis=-1) / self.temperature
        rest_difference = log_sum_exp_difference(teacher_others, student_others, self.temperature)
        return bernoulli_kl_divergence(
            log_odds(teacher, teacher_others),
            log_odds(student, student_others),
            true_difference - ops.squeeze(rest_difference, -1),
        )


def _has_labels(teacher: Tensor, student: Tensor) -> bool:
    """Whether the teacher's logits have the column more that `with_labels` adds."""
    shape, student_shape = tuple(teacher.shape), tuple(student.shape)
    if differ(shape[:-1], student_shape[:-1]):
        return False
    return shape[-1] == student_shape[-1] + 1


def _split_labels(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's logits and the id of each sample's true class."""
    if _has_labels(teacher, student):
        return teacher[..., :-1], teacher[..., -1]
    return teacher, ops.cast(ops.argmax(teacher, axis=-1), teacher.dtype)
