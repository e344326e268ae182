"""Distillation from logits by the generalized Jensen-Shannon divergence."""

from __future__ import annotations

import keras

from keras_notes._shared.checks import check_between, check_integer, check_positive
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import TeacherLoss
from keras_notes.losses._labels import check_logits
from keras_notes.losses._maths.divergences import (
    jensen_shannon_divergence,
    kl_divergence,
    reverse_kl_divergence,
    standardized,
)

__all__ = ["JensenShannonDistillationLoss"]


@keras.saving.register_keras_serializable(package="keras_notes")
class JensenShannonDistillationLoss(TeacherLoss):
    """Distillation by the generalized Jensen-Shannon divergence: forward KL, reverse KL and everything between.

        0 < beta < 1:  L = T^2 * (beta * KL(p || m) + (1 - beta) * KL(q || m)),  m = beta * p + (1 - beta) * q
        beta = 0:      L = T^2 * KL(p || q), forward: the student covers all that the teacher finds possible
        beta = 1:      L = T^2 * KL(q || p), reverse: the student keeps to what the teacher finds most likely

    with p = softmax(t / T) the teacher (`y_true` holds t), q = softmax(s / T) the student (`y_pred` holds s). Inside
    (0, 1) it is bounded by T^2 times the entropy of beta, T^2 log 2 at 1/2, and vanishes towards both ends: L / beta
    tends to the forward divergence, L / (1 - beta) to the reverse one, and 0 and 1 stand for these limits.

    Args:
        beta: Weight of the teacher in the mixture, in [0, 1].
        temperature: T, > 0.
        standardize: Whether to standardize the logits first, see `DistillationLoss`.
        axis: The class axis.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's logits, of shape (..., classes).
        y_pred: The student's logits, of the same shape.

    Raises:
        ValueError: If an argument is out of its range, or teacher and student differ in shape.

    Example:
        >>> import numpy as np
        >>> far_apart = np.array([[50.0, 0.0]], "float32"), np.array([[0.0, 50.0]], "float32")
        >>> [round(float(JensenShannonDistillationLoss(beta)(*far_apart)), 4) for beta in (0.0, 0.5, 1.0)]
        [50.0, 0.6931, 50.0]

    References:
        Agarwal et al. 2024, On-Policy Distillation of Language Models, section 2 and equation 1
        (https://arxiv.org/abs/2306.13649).
    """

    temperature: float

    def __init__(
        self,
        beta: float = 0.5,
        temperature: float = 1.0,
        *,
        standardize: bool = False,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "jensen_shannon_distillation_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.beta = check_between("beta", beta, 0.0, 1.0)
        self.temperature = check_positive("temperature", temperature)
        self.standardize = bool(standardize)
        self.axis = check_integer("axis", axis)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        check_logits(teacher, student, self.axis, standardize=self.standardize)
        if self.standardize:
            teacher, student = standardized(teacher, self.axis), standardized(student, self.axis)
        arguments = teacher, student, self.temperature, self.axis
        if self.beta == 0.0:
            divergence = kl_divergence(*arguments)
        elif self.beta == 1.0:
            divergence = reverse_kl_divergence(*arguments)
        else:
            divergence = jensen_shannon_divergence(teacher, student, self.beta, self.temperature, self.axis)
        return self.temperature**2 * divergence
