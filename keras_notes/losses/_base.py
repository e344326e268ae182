"""Base classes of the losses: their precision, their config, and the interface that distillation relies on."""

from __future__ import annotations

import inspect

import keras
from keras import ops

from keras_notes._shared.checks import differ, received
from keras_notes._shared.keras_internals import get_mask, set_mask
from keras_notes._shared.types import Config, Tensor
from keras_notes.losses._labels import loss_dtype, to_logits
from keras_notes.losses._maths.divergences import standardized
from keras_notes.losses._teacher_targets import teacher_logits_from

__all__ = ["Loss", "TeacherLoss", "WholeSampleLoss"]

# Settings under which logits enter a loss as they are, once they have been divided by a temperature.
_SETTINGS_OF_SCALED_LOGITS = {
    "standardize": False,
    "teacher": "logits",
    "teacher_temperature": 1.0,
    "from_logits": True,
    "temperature": 1.0,
}


class Loss(keras.losses.Loss):
    """A Keras loss in float32 or float64 whose constructor arguments are its attributes, and so its config."""

    def __init__(self, *, reduction: str | None, name: str, dtype: str | None) -> None:
        super().__init__(name=name, reduction=reduction, dtype=loss_dtype(dtype))

    def get_config(self) -> Config:
        arguments = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {**super().get_config(), **{name: getattr(self, name) for name in arguments}}


class TeacherLoss(Loss):
    """Base class of losses that compare a student with a teacher: `y_true` holds the teacher's outputs or features.

    A loss of one's own implements `compare`, and overrides the attributes that do not fit it, in the class or in its
    constructor. `keras_notes.Distiller` reads them. No gradient reaches the teacher. Constructor arguments that are
    kept as attributes of the same name make up the config.

    Args:
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Attributes:
        temperature: T of a loss of the form T^2 * D(teacher / T, student / T), which then takes logits; None for a
            loss without a temperature.
        teacher: Form of `y_true`: "logits", "probs", "log_probs" or "top_k".
        teacher_temperature: Temperature at which the teacher's probabilities were taken.
        from_logits: Whether `y_pred` holds logits, and not probabilities.
        exclusive: True for one class a sample (softmax), False for independent labels (sigmoid).
        standardize: Whether logits are standardized over the classes first.
        axis: Axis of the classes, or of the features.
        compares_entries: Whether teacher and student are compared entry by entry, and so must have one shape.

    Raises:
        ValueError: If `dtype` has 16 bits.

    Example:
        >>> import numpy as np
        >>> class LargestDifference(TeacherLoss):
        ...     def compare(self, teacher, student):
        ...         return ops.max(ops.abs(teacher - student), axis=self.axis)
        >>> loss = LargestDifference(name="largest_difference")
        >>> float(loss(np.array([[3.0, 1.0]]), np.array([[1.0, 1.5]])))
        2.0
    """

    temperature: float | None = None
    teacher: str = "logits"
    teacher_temperature: float = 1.0
    from_logits: bool = True
    exclusive: bool = True
    standardize: bool = False
    axis: int = -1
    compares_entries: bool = True

    def __init__(
        self, *, reduction: str | None = "sum_over_batch_size", name: str = "teacher_loss", dtype: str | None = None
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.compare(ops.stop_gradient(y_true), y_pred)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the loss of each sample (or of each of its positions).

        Args:
            teacher: Outputs or features of the teacher, of shape (batch, ...), in the dtype of the loss.
            student: Those of the student.

        Raises:
            NotImplementedError: If the class of the loss does not implement it.

        Example:
            >>> from keras_notes.losses import HintLoss
            >>> teacher, student = ops.array([[3.0, 1.0], [2.0, 2.0]]), ops.array([[1.0, 1.0], [2.0, 2.0]])
            >>> ops.convert_to_numpy(HintLoss().compare(teacher, student)).tolist()
            [2.0, 0.0]
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `compare(teacher, student)`.")

    def teacher_logits(self, y_true: Tensor) -> Tensor:
        """Returns the teacher's logits from its dense outputs, which are in the form `teacher`.

        Args:
            y_true: Outputs of shape (..., classes).

        Example:
            >>> from keras_notes.losses import DistillationLoss
            >>> probs = ops.array([[0.7, 0.2, 0.1]])
            >>> logits = DistillationLoss(teacher="probs").teacher_logits(probs)
            >>> bool(ops.all(ops.isclose(ops.softmax(logits), probs)))
            True
        """
        return teacher_logits_from(y_true, self.teacher, exclusive=self.exclusive)

    def at_temperature(
        self, y_true: Tensor, y_pred: Tensor, temperature: Tensor | float, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Returns the value of the loss at another temperature than its own.

        That is T^2 times the same loss at temperature 1, of the logits over T. T may be a tensor, such as a schedule
        returns inside of a compiled step: the logits are divided before any function with a gradient of its own, which
        takes no traced temperature on JAX.

        Args:
            y_true: Outputs of the teacher, as the loss takes them.
            y_pred: Outputs of the student.
            temperature: T, a number > 0 or a scalar tensor.
            sample_weight: Weights of the samples, or None.

        Raises:
            ValueError: If `y_true` holds top-k targets, which serve only the temperature at which they were taken.

        Example:
            >>> from keras_notes.losses import DistillationLoss
            >>> teacher, student = ops.array([[3.0, 1.0, 0.0]]), ops.array([[0.0, 0.0, 0.0]])
            >>> loss, loss_at_2 = DistillationLoss(temperature=4.0), DistillationLoss(temperature=2.0)
            >>> bool(ops.isclose(loss.at_temperature(teacher, student, 2.0), loss_at_2(teacher, student)))
            True
        """
        if self.teacher == "top_k":
            raise ValueError(
                f"`temperature` must be a constant with `teacher='top_k'`. {received(teacher=self.teacher)}"
            )
        mask = get_mask(y_pred)
        teacher = ops.convert_to_tensor(y_true, dtype=self.dtype)
        student = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        temperature = ops.cast(temperature, self.dtype)
        teacher, student = self._divided_by_temperature(teacher, student, temperature)
        if mask is not None:
            set_mask(student, mask)
        return ops.square(temperature) * self._of_scaled_logits()(teacher, student, sample_weight=sample_weight)

    def _divided_by_temperature(self, teacher: Tensor, student: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of both over T."""
        student = to_logits(student, from_logits=self.from_logits, exclusive=self.exclusive)
        teacher = self.teacher_logits(teacher) * self.teacher_temperature
        if self.standardize:
            teacher, student = standardized(teacher, self.axis), standardized(student, self.axis)
        return teacher / temperature, student / temperature

    def _of_scaled_logits(self) -> keras.losses.Loss:
        """Returns the same loss at temperature 1, of logits that are ready for it."""
        return self._copy_for_scaled_logits(self)

    @staticmethod
    def _copy_for_scaled_logits(loss: keras.losses.Loss) -> keras.losses.Loss:
        """Returns a copy of a loss at temperature 1, of logits.

        Args:
            loss: A loss whose constructor takes `temperature`; its config may leave that out.

        Raises:
            ValueError: If the copy would not read its inputs as plain logits, because its class says otherwise.
        """
        config = loss.get_config()
        settings = {name: value for name, value in _SETTINGS_OF_SCALED_LOGITS.items() if name in config}
        copy = type(loss).from_config({**config, **settings, "temperature": 1.0})
        for name, value in _SETTINGS_OF_SCALED_LOGITS.items():
            if getattr(copy, name, value) != value:
                raise ValueError(
                    f"`{name}` must be an argument of {type(loss).__name__} and part of its config, for another "
                    f"`temperature` than its own. {received(**{name: getattr(copy, name)})}"
                )
        return copy


class WholeSampleLoss(TeacherLoss):
    """Base class of losses that take all positions of a sample together, and return one value a sample.

    Positions that the Keras mask of `y_pred` leaves out are zero in both features. A loss of one's own implements
    `compare`, which returns values of shape (batch,). Attributes and arguments are those of `TeacherLoss`.

    Args:
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Raises:
        ValueError: If `dtype` has 16 bits, or features do not have the positions of the mask.

    Example:
        >>> import numpy as np
        >>> class MeanDifference(WholeSampleLoss):
        ...     def compare(self, teacher, student):
        ...         means = [ops.mean(features, axis=(1, 2)) for features in (teacher, student)]
        ...         return ops.square(means[0] - means[1])
        >>> loss = MeanDifference(name="mean_difference")
        >>> float(loss(np.ones((2, 4, 3)), np.zeros((2, 5, 6))))
        1.0
    """

    compares_entries = False

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        mask = get_mask(y_pred)
        if mask is not None:
            # Keras would apply the mask of the positions to the values of the samples.
            y_true, y_pred = (self._masked(values, mask) for values in (y_true, y_pred))
        return super().__call__(y_true, y_pred, sample_weight)

    def _masked(self, values: Tensor, mask: Tensor) -> Tensor:
        values = ops.convert_to_tensor(values, dtype=self.dtype)
        if len(values.shape) < len(mask.shape) or differ(values.shape[: len(mask.shape)], mask.shape):
            raise ValueError(
                f"The features of teacher and student must have the positions of the student's Keras mask. "
                f"Received: features of shape {tuple(values.shape)}, mask of shape {tuple(mask.shape)}."
            )
        mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(values.shape) - len(mask.shape))))
        return ops.where(mask, values, 0.0)
