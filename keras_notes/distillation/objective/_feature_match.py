"""Pairs of layers whose features are matched."""

from __future__ import annotations

import keras

from keras_notes._shared.checks import check_integer, check_non_negative, received
from keras_notes._shared.types import Config
from keras_notes.distillation._teacher_record import LayerPath
from keras_notes.distillation.objective._loss_forms import LossLike
from keras_notes.distillation.objective._schedules import (
    Number,
    constant_or_schedule,
    deserialize_value,
    serialize_value,
)
from keras_notes.distillation.objective._weighted_losses import as_loss

__all__ = ["FeatureMatch", "as_feature_match"]


@keras.saving.register_keras_serializable(package="keras_notes")
class FeatureMatch:
    """A pair of layers: the student's feature learns to resemble the teacher's.

    Adds `weight * loss(teacher's feature, student's feature)` to the distillation loss of a `Distiller`. Both features
    are read in the forward pass that is made anyway.

    Args:
        teacher_layer: The teacher's layer: its name, a path "outer/inner" into nested models and layers (for
            subclassed models also by attribute: "encoder/blocks_1"), a function `f(model) -> layer`, or None for the
            model's output.
        student_layer: The student's layer, in the same way.
        loss: A loss called with the teacher's feature as `y_true` and the student's as `y_pred`, such as
            `keras_notes.losses.HintLoss()`; any Keras loss, or the name of one.
        weight: Weight >= 0 among the distillation losses; or a Keras schedule or function of the step.
        projection: "auto" puts a trainable connector behind the student's feature where `loss` compares entry by entry
            and the widths differ: a dense layer on the feature axis, which on images is a 1x1 convolution. It belongs
            to the Distiller and not to the student. None adds nothing; a layer is used as it is.
        teacher: Index of the teacher in the list, where there are several.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras_notes as kn
        >>> match = kn.FeatureMatch("block4", "conv2", kn.losses.HintLoss(), weight=10.0)
        >>> kn.FeatureMatch.from_config(match.get_config()).weight
        10.0

    References:
        Romero et al. 2015, FitNets: Hints for Thin Deep Nets, section 2.2 (https://arxiv.org/abs/1412.6550).
    """

    def __init__(
        self,
        teacher_layer: LayerPath,
        student_layer: LayerPath,
        loss: LossLike,
        weight: Number = 1.0,
        projection: str | keras.Layer | None = "auto",
        *,
        teacher: int = 0,
    ) -> None:
        self.teacher_layer = _check_layer("teacher_layer", teacher_layer)
        self.student_layer = _check_layer("student_layer", student_layer)
        self._original_loss = loss
        self.loss = as_loss(loss, "loss")
        self.weight = constant_or_schedule("weight", weight, check_non_negative)
        if not (projection is None or projection == "auto" or isinstance(projection, keras.Layer)):
            raise TypeError(f'`projection` must be "auto", None or a layer. {received(projection=projection)}')
        self.projection = projection
        self.teacher = check_integer("teacher", teacher)

    def get_config(self) -> Config:
        return {
            "teacher_layer": serialize_value(self.teacher_layer)
            if callable(self.teacher_layer)
            else self.teacher_layer,
            "student_layer": serialize_value(self.student_layer)
            if callable(self.student_layer)
            else self.student_layer,
            "loss": keras.saving.serialize_keras_object(self._original_loss),
            "weight": serialize_value(self.weight),
            "projection": keras.saving.serialize_keras_object(self.projection)
            if isinstance(self.projection, keras.Layer)
            else self.projection,
            "teacher": self.teacher,
        }

    @classmethod
    def from_config(cls, config: Config) -> FeatureMatch:
        return cls(**{name: deserialize_value(value) for name, value in config.items()})


def _check_layer(name: str, value: LayerPath) -> LayerPath:
    if value is not None and not isinstance(value, str) and not callable(value):
        raise TypeError(
            f"`{name}` must be a name, a path, a function of the model, or None. {received(**{name: value})}"
        )
    return value


def as_feature_match(distillation: keras.distillation.FeatureDistillation) -> FeatureMatch:
    """Returns the match that a `keras.distillation.FeatureDistillation` of layers describes."""
    return FeatureMatch(distillation.teacher_layer_name, distillation.student_layer_name, distillation.loss)
