"""Distillation from logits: T^2 times the Kullback-Leibler divergence of the softened outputs."""

from __future__ import annotations

import keras
from keras import ops

from keras_notes._shared.checks import (
    check_choice,
    check_integer,
    check_positive,
    differ,
    received,
)
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import TeacherLoss
from keras_notes.losses._labels import check_logits, to_logits
from keras_notes.losses._maths.divergences import (
    RULED_OUT,
    bernoulli_kl_divergence,
    kl_divergence,
    standardized,
)
from keras_notes.losses._teacher_targets import TEACHER_FORMS, dense_log_probs, teacher_logits_from

__all__ = ["DistillationLoss"]


@keras.saving.register_keras_serializable(package="keras_notes")
class DistillationLoss(TeacherLoss):
    """Knowledge distillation from logits, scaled so that the temperature does not change the gradient's size.

        L = T^2 * KL(softmax(t / T) || softmax(s / T))

    with t the teacher's logits (`y_true`), s the student's (`y_pred`), T the temperature; summed over the classes.
    The gradient with respect to s is T * (softmax(s / T) - softmax(t / T)); for T -> inf it becomes
    ((s - mean s) - (t - mean t)) / classes. No gradient reaches the teacher.

    With `exclusive=False` each label is distilled on its own, T^2 * KL(sigmoid(t / T) || sigmoid(s / T)) of the two
    values of the label, summed over the labels.

    It is an ordinary Keras loss: it serves `keras_notes.Distiller`, and `model.fit(x, teacher_logits)` as well.
    Positions that a Keras mask leaves out count nothing, neither in the loss nor in its mean.

    Args:
        temperature: T, > 0. 1 keeps the teacher's own probabilities; 2 to 4 show a small student more of how the
            teacher ranks the wrong classes.
        exclusive: True for one class a sample (softmax), False for independent labels (sigmoid).
        standardize: Whether to distil z = (logits - mean) / standard deviation over the classes instead of the
            logits, so that the student need not match their size. Needs `exclusive=True` and three classes.
        teacher: Form of `y_true`: "logits", "probs", "log_probs", or "top_k", the targets of
            `keras_notes.losses.top_k_targets`. With top-k targets, all classes that are not among the k count as one,
            with the remaining probability: L is then the minimum of the dense loss over all teachers with these k
            probabilities, and equal to it for k = classes.
        from_logits: Whether the student gives logits; False for the probabilities of its softmax or sigmoid, from
            which the logits are computed (down to 1e-36; logits keep more).
        teacher_temperature: The temperature at which the teacher's probabilities were taken. Probabilities at 1 serve
            every T; where it is T, log-probabilities need no further computation. Top-k targets must be taken at T.
        axis: The class axis.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's output, of shape (..., classes), or (..., k + 1, 2) for "top_k". Logits of -inf rule a
            class out (not with `standardize`, whose mean and deviation are over all classes).
        y_pred: The student's logits (or probabilities, see `from_logits`), of shape (..., classes).

    Raises:
        ValueError: If an argument is out of its range, or teacher and student differ in shape.

    Example:
        >>> import numpy as np
        >>> teacher_logits = np.array([[3.0, 1.0, 0.0]], "float32")
        >>> loss = DistillationLoss(temperature=2.0)
        >>> float(loss(teacher_logits, teacher_logits))
        0.0
        >>> round(float(loss(teacher_logits, 0.0 * teacher_logits)), 4)
        0.7706

    References:
        Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, section 2
        (https://arxiv.org/abs/1503.02531). `standardize`: Sun et al. 2024, Logit Standardization in Knowledge
        Distillation, section 4 (https://arxiv.org/abs/2403.01643). `exclusive=False`: Yang et al. 2023, Multi-Label
        Knowledge Distillation, section 3.2 (https://arxiv.org/abs/2308.06453).
    """

    temperature: float

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        exclusive: bool = True,
        standardize: bool = False,
        teacher: str = "logits",
        teacher_temperature: float = 1.0,
        from_logits: bool = True,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "distillation_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.temperature = check_positive("temperature", temperature)
        self.exclusive = bool(exclusive)
        self.standardize = bool(standardize)
        self.teacher = check_choice("teacher", teacher, TEACHER_FORMS)
        self.teacher_temperature = check_positive("teacher_temperature", teacher_temperature)
        self.from_logits = bool(from_logits)
        self.axis = check_integer("axis", axis)
        _check_standardize(self.standardize, self.exclusive)
        self._check_teacher()

    def _check_teacher(self) -> None:
        if self.teacher == "logits" and self.teacher_temperature != 1.0:
            raise ValueError(
                f"`teacher_temperature` must be 1 when the teacher gives logits. "
                f"{received(teacher_temperature=self.teacher_temperature)}"
            )
        if self.teacher != "top_k":
            return
        if self.teacher_temperature != self.temperature:
            raise ValueError(
                f"`teacher_temperature` must equal `temperature` with `teacher='top_k'`: the mass that is left out at "
                f"one temperature says nothing of another. "
                f"{received(teacher_temperature=self.teacher_temperature, temperature=self.temperature)}"
            )
        if not self.exclusive or self.standardize or self.axis != -1:
            raise ValueError(
                f"`teacher='top_k'` needs `exclusive=True`, `standardize=False` and `axis=-1`. "
                f"{received(exclusive=self.exclusive, standardize=self.standardize, axis=self.axis)}"
            )

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        scale = self.temperature**2
        student = to_logits(student, from_logits=self.from_logits, exclusive=self.exclusive)
        if self.teacher == "top_k":
            return scale * self._top_k(teacher, student)
        check_logits(teacher, student, self.axis, exclusive=self.exclusive, standardize=self.standardize)
        logits = teacher_logits_from(teacher, self.teacher, exclusive=self.exclusive)
        if self.standardize:
            logits, student = standardized(logits, self.axis), standardized(student, self.axis)
            return scale * kl_divergence(logits, student, self.temperature, self.axis)
        if self.exclusive:
            return scale * self._kl_divergence(logits, student, is_log_probs=self.teacher != "logits")
        logits = ops.clip(logits * self.teacher_temperature, RULED_OUT, -RULED_OUT)
        student = ops.clip(student, RULED_OUT, -RULED_OUT)
        scaled = (x / self.temperature for x in (logits, student, student - logits))
        per_label = bernoulli_kl_divergence(*scaled)
        return scale * ops.sum(per_label, axis=self.axis)

    def _top_k(self, targets: Tensor, student: Tensor) -> Tensor:
        _check_top_k_shape(tuple(targets.shape), tuple(student.shape))
        log_probs = dense_log_probs(targets, ops.stop_gradient(student), self.temperature)
        return self._kl_divergence(log_probs, student, is_log_probs=True)

    def _kl_divergence(self, teacher_logits: Tensor, student_logits: Tensor, *, is_log_probs: bool) -> Tensor:
        return kl_divergence(
            teacher_logits,
            student_logits,
            self.temperature,
            self.axis,
            teacher_temperature=self.teacher_temperature,
            is_normalized=is_log_probs and self.teacher_temperature == self.temperature,
        )


def _check_standardize(standardize: bool, exclusive: bool) -> None:
    if standardize and not exclusive:
        raise ValueError(
            f"`standardize` must be False when `exclusive=False`: it works across the classes of a softmax. "
            f"{received(standardize=standardize, exclusive=exclusive)}"
        )


def _check_top_k_shape(targets_shape: tuple[int, ...], student_shape: tuple[int, ...]) -> None:
    """(..., k + 1, 2) for logits of shape (..., classes), k <= classes."""
    is_fitting = len(targets_shape) == len(student_shape) + 1 and targets_shape[-1] == 2
    is_fitting = is_fitting and not differ(targets_shape[:-2], student_shape[:-1])
    if not is_fitting or not 2 <= targets_shape[-2] <= student_shape[-1] + 1:
        raise ValueError(
            f"y_true must hold the targets of `keras_notes.losses.top_k_targets`, of shape (..., k + 1, 2) with "
            f"1 <= k <= classes. Received: shape {targets_shape} for logits of shape {student_shape}."
        )
