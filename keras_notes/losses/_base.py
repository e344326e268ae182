"""What the losses have in common: their precision, their config, and that a teacher is never trained."""

from __future__ import annotations

import inspect

import keras
from keras import ops

from keras_notes.losses._labels import loss_dtype

__all__ = ["Loss", "TeacherLoss"]


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
