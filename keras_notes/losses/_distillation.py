"""Logit distillation: tau^2 times the Kullback-Leibler divergence, exact at every temperature."""

from __future__ import annotations

import keras
from keras import ops

from keras_notes._checks import check_integer, check_positive, check_same_shape, received
from keras_notes.losses._divergences import kl_divergence, standardized
from keras_notes.losses._labels import classes_of, loss_dtype

__all__ = ["DistillationLoss"]


@keras.saving.register_keras_serializable(package="keras_notes")
class DistillationLoss(keras.losses.Loss):
    """Knowledge distillation from logits, scaled so that the temperature does not change the gradient's size.

        L = T^2 * KL(softmax(t / T) || softmax(s / T))

    with t the teacher's logits (`y_true`), s the student's (`y_pred`), T the temperature; summed over the classes.
    The gradient with respect to s is T * (softmax(s / T) - softmax(t / T)); for T -> inf it becomes
    ((s - mean s) - (t - mean t)) / classes. No gradient reaches the teacher.

    With `exclusive=False` each label is distilled on its own, T^2 * KL(sigmoid(t / T) || sigmoid(s / T)) of the two
    values of the label, summed over the labels.

    It is an ordinary Keras loss: it serves `keras_notes.Distiller`, and `model.fit(x, teacher_logits)` as well.

    Args:
        temperature: T, > 0. 1 keeps the teacher's own probabilities; 2 to 4 show a small student more of how the
            teacher ranks the wrong classes.
        exclusive: True for one class a sample (softmax), False for independent labels (sigmoid).
        standardize: Whether to distil z = (logits - mean) / standard deviation over the classes instead of the
            logits, so that the student need not match their size. Needs `exclusive=True` and three classes.
        axis: The class axis.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's logits, of shape (..., classes). -inf rules a class out (not with `standardize`, whose
            mean and deviation are over all classes).
        y_pred: The student's logits, of the same shape.

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
        Distillation, section 4 (https://arxiv.org/abs/2403.01643).
    """

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        exclusive: bool = True,
        standardize: bool = False,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "distillation_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=loss_dtype(dtype))
        self.temperature = check_positive("temperature", temperature)
        self.exclusive = bool(exclusive)
        self.standardize = bool(standardize)
        self.axis = check_integer("axis", axis)
        if self.standardize and not self.exclusive:
            raise ValueError(
                f"`standardize` must be False when `exclusive=False`: it works across the classes of a softmax. "
                f"{received(standardize=standardize, exclusive=exclusive)}"
            )

    def call(self, y_true, y_pred):
        self._check_shapes(y_true, y_pred)
        teacher_logits, student_logits = ops.stop_gradient(y_true), y_pred
        if self.standardize:
            teacher_logits = standardized(teacher_logits, self.axis)
            student_logits = standardized(student_logits, self.axis)
        if self.exclusive:
            values = kl_divergence(teacher_logits, student_logits, self.temperature, self.axis)
        else:
            per_label = kl_divergence(_with_zero(teacher_logits), _with_zero(student_logits), self.temperature)
            values = ops.sum(per_label, axis=self.axis)
        return self.temperature**2 * values

    def _check_shapes(self, y_true, y_pred) -> None:
        classes_of(y_pred, self.axis)
        check_same_shape(y_true, y_pred, what_true="The teacher's logits", what_pred="the student's logits")
        classes = classes_of(y_pred, self.axis)
        if self.exclusive and classes is not None and classes < 2:
            raise ValueError(
                f"The logits must have at least two classes when `exclusive=True`. Received: {classes} along axis "
                f"{self.axis}. Use `exclusive=False` for a single sigmoid output."
            )
        if self.standardize and (classes is None or classes < 3):
            raise ValueError(
                f"`standardize=True` needs at least three classes: of two it leaves only which is larger. "
                f"Received: {classes} along axis {self.axis}."
            )

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "exclusive": self.exclusive,
            "standardize": self.standardize,
            "axis": self.axis,
            "dtype": self.dtype,
        }


def _with_zero(logits):
    """Logits (z, 0) on a new last axis: their softmax is (sigmoid(z), 1 - sigmoid(z))."""
    return ops.stack([logits, ops.zeros_like(logits)], axis=-1)
