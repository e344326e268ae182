"""Losses of outputs and features with the weights of the samples, and Keras's own losses behind one interface."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from keras_notes._shared.checks import check_same_shape, differ, received
from keras_notes._shared.keras_internals import get_mask, set_mask
from keras_notes._shared.types import Tensor, Tree
from keras_notes.distillation.objective._loss_forms import LossForm, LossLike, form_of_loss
from keras_notes.losses import AttentionRelationLoss, TeacherLoss, WholeSampleLoss

__all__ = [
    "AdaptedLoss",
    "ScaledLoss",
    "as_loss",
    "as_teacher_loss",
    "copy_weight",
    "name_of_class",
    "weighted_feature_loss",
    "weighted_loss",
    "weights_by_output",
]

# Attributes of `TeacherLoss` that other losses may have under the same names and with the same meaning.
_SHARED_ATTRIBUTES = (
    "axis",
    "exclusive",
    "from_logits",
    "standardize",
    "teacher",
    "teacher_temperature",
    "temperature",
)


class ScaledLoss(keras.losses.Loss):
    """A loss function, or a loss, of outputs divided by a temperature.

    Objects of `keras.distillation` compute it with losses other than those of probabilities. Without a temperature it
    makes a loss object of a function.
    """

    def __init__(
        self, loss: keras.losses.Loss | Callable[[Tensor, Tensor], Tensor], temperature: Tensor | float | None = None
    ) -> None:
        super().__init__(name=loss.name if isinstance(loss, keras.losses.Loss) else _name_of_function(loss))
        self.loss, self.temperature = loss, temperature

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        function = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        y_true = ops.stop_gradient(y_true)
        if self.temperature is None:
            return function(y_true, y_pred)
        return function(y_true / self.temperature, y_pred / self.temperature)


def _name_of_function(function: Callable) -> str:
    return getattr(function, "name", getattr(function, "__name__", "loss"))


class AdaptedLoss(TeacherLoss):
    """A Keras loss of another class, with the interface of `TeacherLoss`; it is called as it is.

    Args:
        original: The loss. Attributes that are named as those of `TeacherLoss` keep their meaning.

    Attributes:
        form: What a loss of probabilities takes; None for losses of any numbers.
    """

    def __init__(self, original: keras.losses.Loss) -> None:
        super().__init__(reduction=original.reduction, name=original.name)
        self.original = original
        self.form: LossForm | None = form_of_loss(self._compared_by())
        # Keras does not say which attributes a loss has.
        for name in _SHARED_ATTRIBUTES:
            if hasattr(original, name):
                setattr(self, name, getattr(original, name))
        if self.form is not None:
            self.teacher, self.from_logits, self.exclusive = self.form

    def _compared_by(self) -> LossLike:
        """Returns the loss, or the function, that compares teacher and student."""
        return self.original

    @property
    def dtype(self) -> str:
        return self.original.dtype

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return self.original(y_true, y_pred, sample_weight=sample_weight)

    def _of_scaled_logits(self) -> keras.losses.Loss:
        return self._copy_for_scaled_logits(self.original)


class _AdaptedScaledLoss(AdaptedLoss):
    """A `ScaledLoss`, which divides by the temperature itself and has no factor T^2."""

    def __init__(self, original: ScaledLoss) -> None:
        super().__init__(original)
        if isinstance(original.loss, keras.losses.Loss):
            self.axis = AdaptedLoss(original.loss).axis

    def _compared_by(self) -> LossLike:
        return self.original.loss

    def at_temperature(
        self, y_true: Tensor, y_pred: Tensor, temperature: Tensor | float, sample_weight: Tensor | None = None
    ) -> Tensor:
        scaled = ScaledLoss(self.original.loss, ops.cast(temperature, self.dtype))
        return scaled(y_true, y_pred, sample_weight=sample_weight)


def as_loss(loss: LossLike, argument: str) -> keras.losses.Loss:
    """Returns a loss object from an object, a function, or the name of one.

    Args:
        loss: The loss.
        argument: Name of the argument that holds it, for the message.

    Raises:
        TypeError: If it is none of them.
    """
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return loss
    if callable(loss):
        return ScaledLoss(loss)
    raise TypeError(
        f"`{argument}` must hold loss objects, such as `keras_notes.losses.DistillationLoss()`. "
        f"{received(**{argument: loss})}"
    )


def as_teacher_loss(loss: keras.losses.Loss) -> TeacherLoss:
    """Returns a loss with the interface of `TeacherLoss`: itself, or an adapter around a Keras loss."""
    if isinstance(loss, TeacherLoss):
        return loss
    return _AdaptedScaledLoss(loss) if isinstance(loss, ScaledLoss) else AdaptedLoss(loss)


def name_of_class(loss: TeacherLoss) -> str:
    """Returns the name of the class of a loss, for messages; for an adapter that of the loss in it."""
    original = loss.original if isinstance(loss, AdaptedLoss) else loss
    if not isinstance(original, ScaledLoss):
        return type(original).__name__
    return type(original.loss).__name__ if isinstance(original.loss, keras.losses.Loss) else original.name


def copy_weight(sample_weight: Tensor, y_pred: Tensor) -> Tensor:
    """Returns weights that a loss may change, one for each entry of the mask of `y_pred`, if it has one.

    Keras multiplies the mask into the weights in place where tensors can be changed, as on PyTorch: the next loss
    would see other weights, and weights of one a sequence would not fit.
    """
    mask = get_mask(y_pred)
    if mask is None:
        return ops.copy(ops.convert_to_tensor(sample_weight))
    sample_weight = ops.convert_to_tensor(sample_weight)
    missing = len(mask.shape) - len(sample_weight.shape)
    if missing > 0:
        sample_weight = ops.reshape(sample_weight, (*ops.shape(sample_weight), *[1] * missing))
    return sample_weight * ops.ones_like(mask, dtype=sample_weight.dtype)


def weighted_loss(
    loss: TeacherLoss,
    teacher: Tensor,
    student: Tensor,
    sample_weight: Tensor | None,
    temperature: Tensor | float | None = None,
) -> Tensor:
    """Returns a loss with the weights of the samples, for values of each rank.

    Keras lines weights up with the last axis of a loss's values; the weight of a sample belongs to its first.

    Args:
        loss: The loss.
        teacher: Outputs or features of the teacher.
        student: Those of the student.
        sample_weight: Weights with the first axes of what they weigh, or None.
        temperature: Temperature in place of the loss's own, if it has one; None leaves it.

    Raises:
        ValueError: If the weights do not fit the student's shape.
    """
    if sample_weight is not None:
        sample_weight = ops.convert_to_tensor(sample_weight)
        rank = 1 if isinstance(loss, WholeSampleLoss) else max(len(student.shape) - 1, 1)
        while len(sample_weight.shape) > rank and sample_weight.shape[-1] == 1:
            sample_weight = ops.squeeze(sample_weight, axis=-1)
        extra = rank - len(sample_weight.shape)
        # One weight for all positions of an axis is as good as one for each.
        axes = [
            b if i and a == 1 else a for i, (a, b) in enumerate(zip(sample_weight.shape, student.shape, strict=False))
        ]
        if extra < 0 or differ(axes, student.shape[: len(axes)]):
            raise ValueError(
                f"Sample weights must have the first axes of what they weigh. Received: weights of shape "
                f"{tuple(sample_weight.shape)} with {name_of_class(loss)} on {tuple(student.shape)}. Give one weight "
                f"a sample."
            )
        sample_weight = copy_weight(ops.reshape(sample_weight, (*ops.shape(sample_weight), *[1] * extra)), student)
    if temperature is not None and loss.temperature is not None:
        return loss.at_temperature(teacher, student, temperature, sample_weight)
    return loss(teacher, student, sample_weight=sample_weight)


def weighted_feature_loss(loss: TeacherLoss, teacher: Tensor, student: Tensor, sample_weight: Tree) -> Tensor:
    """Returns a loss of features; where each output has its own weights, features have their mean."""
    leaves = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(sample_weight) if leaf is not None]
    weight = sum(leaves[1:], leaves[0]) / len(leaves) if leaves else None
    if isinstance(loss, AttentionRelationLoss):
        teacher, student = _join_heads(teacher), _join_heads(student)
    elif loss.compares_entries:
        check_same_shape(teacher, student, what_true="The teacher's feature", what_pred="the student's")
    return weighted_loss(loss, teacher, student, weight)


def _join_heads(feature: Tensor) -> Tensor:
    """Queries, keys or values of Keras's attention, (batch, positions, heads, width), as (batch, positions, width)."""
    if len(feature.shape) != 4:
        return feature
    joined = ops.reshape(feature, (*ops.shape(feature)[:2], feature.shape[2] * feature.shape[3]))
    mask = get_mask(feature)
    if mask is not None:
        set_mask(joined, mask)
    return joined


def weights_by_output(sample_weight: Tree, count: int) -> list[Tensor | None]:
    """Returns the sample weights of each output: one for each of them, or the same for all.

    Raises:
        ValueError: If there are several, and not as many as outputs.
    """
    leaves = keras.tree.flatten(sample_weight)
    if len(leaves) == 1:
        return leaves * count
    if len(leaves) != count:
        raise ValueError(
            f"Sample weights must be one array, or one for each output. Received: {len(leaves)} for {count} outputs."
        )
    return leaves
