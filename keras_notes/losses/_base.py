"""What the losses have in common: their precision, their config, and that a teacher is never trained."""

from __future__ import annotations

import inspect

import keras
from keras import ops

from keras_notes._shared.checks import differ
from keras_notes.losses._labels import loss_dtype, mask_of

__all__ = ["Loss", "TeacherLoss", "WholeSampleLoss"]


class Loss(keras.losses.Loss):
    """A Keras loss in float32 or float64 whose constructor arguments are its attributes, and so its config."""

    def __init__(self, *, reduction: str | None, name: str, dtype: str | None) -> None:
        super().__init__(name=name, reduction=reduction, dtype=loss_dtype(dtype))

    def get_config(self):
        arguments = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {**super().get_config(), **{name: getattr(self, name) for name in arguments}}


class TeacherLoss(Loss):
    """A loss whose `y_true` is what the teacher says. No gradient reaches it."""

    def call(self, y_true, y_pred):
        return self.compare(ops.stop_gradient(y_true), y_pred)

    def compare(self, teacher, student):
        """The loss of each sample (or of each of its positions)."""
        raise NotImplementedError


class WholeSampleLoss(TeacherLoss):
    """A loss that takes all positions of a sample together. Those that a Keras mask leaves out are zero in both."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        mask = mask_of(y_pred)
        if mask is not None:
            # Keras would apply the mask of the positions to the values of the samples.
            y_true, y_pred = (self._masked(values, mask) for values in (y_true, y_pred))
        return super().__call__(y_true, y_pred, sample_weight)

    def _masked(self, values, mask):
        values = ops.convert_to_tensor(values, dtype=self.dtype)
        if len(values.shape) < len(mask.shape) or differ(values.shape[: len(mask.shape)], mask.shape):
            raise ValueError(
                f"The features of teacher and student must have the positions of the student's Keras mask. "
                f"Received: features of shape {tuple(values.shape)}, mask of shape {tuple(mask.shape)}."
            )
        mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(values.shape) - len(mask.shape))))
        return ops.where(mask, values, 0.0)
