"""Matching layers: which feature of the teacher a feature of the student is to resemble, and what lies between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_notes._shared.checks import check_integer, check_non_negative, check_same_shape, received
from keras_notes.distillation.objective._output_term import ScaledLoss, as_loss, compares_entries
from keras_notes.distillation.objective._schedules import constant_or_schedule, restored, serialized

__all__ = ["FeatureMatch", "feature_match_from", "make_connector"]


@keras.saving.register_keras_serializable(package="keras_notes")
class FeatureMatch:
    """One layer of the student is to resemble one of the teacher.

    Adds `weight * loss(teacher's feature, student's feature)` to the distillation loss of a `Distiller`. Both features
    are read in the forward pass that is made anyway.

    Args:
        teacher_layer: The teacher's layer: its name, a path "outer/inner" into nested models and layers (for
            subclassed models also by attribute: "encoder/blocks_1"), a function `f(model) -> layer`, or None for the
            model's output.
        student_layer: The student's, in the same way.
        loss: A loss called with the teacher's feature as `y_true` and the student's as `y_pred`, such as
            `keras_notes.losses.HintLoss()`; any Keras loss, or the name of one.
        weight: >= 0, its weight among the distillation losses; or a Keras schedule or function of the step.
        projection: "auto" puts a trainable connector behind the student's feature where `loss` compares entry by entry
            and the widths differ: a dense layer on the feature axis, which on images is a 1x1 convolution. It belongs
            to the Distiller; the student does not hold it. None adds nothing; a layer is used as it is.
        teacher: The teacher's place in the list, where there are several.

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
        teacher_layer: str | Callable | None,
        student_layer: str | Callable | None,
        loss: Any,
        weight: Any = 1.0,
        projection: str | keras.Layer | None = "auto",
        *,
        teacher: int = 0,
    ) -> None:
        self.teacher_layer = _check_layer("teacher_layer", teacher_layer)
        self.student_layer = _check_layer("student_layer", student_layer)
        self._given_loss = loss
        self.loss = as_loss(loss, "loss")
        self.weight = constant_or_schedule("weight", weight, check_non_negative)
        if not (projection is None or projection == "auto" or isinstance(projection, keras.Layer)):
            raise TypeError(f'`projection` must be "auto", None or a layer. {received(projection=projection)}')
        self.projection = projection
        self.teacher = check_integer("teacher", teacher)

    def get_config(self) -> dict:
        return {
            "teacher_layer": serialized(self.teacher_layer) if callable(self.teacher_layer) else self.teacher_layer,
            "student_layer": serialized(self.student_layer) if callable(self.student_layer) else self.student_layer,
            "loss": keras.saving.serialize_keras_object(self._given_loss),
            "weight": serialized(self.weight),
            "projection": keras.saving.serialize_keras_object(self.projection)
            if isinstance(self.projection, keras.Layer)
            else self.projection,
            "teacher": self.teacher,
        }

    @classmethod
    def from_config(cls, config: dict) -> FeatureMatch:
        return cls(**{name: restored(value) for name, value in config.items()})


def _check_layer(name, value):
    if value is not None and not isinstance(value, str) and not callable(value):
        raise TypeError(
            f"`{name}` must be a name, a path, a function of the model, or None. {received(**{name: value})}"
        )
    return value


def feature_match_from(theirs: keras.distillation.FeatureDistillation) -> FeatureMatch:
    """The match that a `keras.distillation.FeatureDistillation` of layers describes."""
    return FeatureMatch(theirs.teacher_layer_name, theirs.student_layer_name, theirs.loss)


def make_connector(match: FeatureMatch, teacher, student, name: str) -> keras.Layer | None:
    """The layer between a student's feature and the loss, given the shapes of both; None where there is none.

    Raises:
        ValueError: If features that are compared entry by entry do not have one shape, and no connector can help.
    """
    if isinstance(match.projection, keras.Layer):
        return match.projection
    if not compares_entries(match.loss):
        return None
    what = {
        "what_true": f"The teacher's {match.teacher_layer!r}",
        "what_pred": f"the student's {match.student_layer!r}",
    }
    axis, rank = _feature_axis(match.loss), len(student.shape)
    if len(teacher.shape) == rank and match.projection == "auto" and teacher.shape[axis] != student.shape[axis]:
        positions = [tuple(n for i, n in enumerate(x.shape) if i != axis % rank) for x in (teacher, student)]
        if positions[0][1:] == positions[1][1:] and None not in (teacher.shape[axis], student.shape[axis]):
            return _dense_along(axis % rank, rank, teacher.shape[axis], name)
    try:
        check_same_shape(teacher, student, **what)
    except ValueError as error:
        raise ValueError(
            f"{error} `projection='auto'` changes the width alone: give `projection` a layer that brings the student's "
            f"feature to the teacher's shape, such as a strided convolution."
        ) from error
    return None


def _feature_axis(loss) -> int:
    return getattr(loss.loss if isinstance(loss, ScaledLoss) else loss, "axis", -1)


def _dense_along(axis: int, rank: int, width: int, name: str) -> keras.Layer:
    """A dense layer on one axis of a tensor of a known rank."""
    if axis == rank - 1:
        return keras.layers.Dense(width, name=name)
    # Permute counts its axes from 1, without that of the batch.
    order = [i for i in range(1, rank) if i != axis] + [axis]
    back = [order.index(i) + 1 for i in range(1, rank)]
    layers = [keras.layers.Permute(order), keras.layers.Dense(width), keras.layers.Permute(back)]
    return keras.Sequential(layers, name=name)
