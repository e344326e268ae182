"""Numbers that may change while training goes on: a constant, a Keras schedule, or a function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeGuard

import keras
from keras import ops

from keras_notes._shared.types import Json, Tensor, Tree

__all__ = [
    "Number",
    "Schedule",
    "constant_or_schedule",
    "deserialize_value",
    "is_schedule",
    "serialize_value",
    "value_at",
]

Schedule: TypeAlias = Callable[[Tensor], Tensor]
"""A function of the step, such as a `keras.optimizers.schedules.LearningRateSchedule`."""

Number: TypeAlias = float | Schedule
"""A constant, or a schedule."""


def is_schedule(value: Number | None) -> TypeGuard[Schedule]:
    """Whether a value is a Keras schedule or another function of the step."""
    return callable(value)


def constant_or_schedule(name: str, value: Number, check: Callable[[str, float], float]) -> Number:
    """Returns a schedule as it is; a number through its check. Values of a schedule are not checked."""
    return value if callable(value) else check(name, value)


def value_at(value: Number, step: Tensor | None) -> Tensor | float:
    """Returns the number at a step: a Python float for a constant, a scalar tensor for a schedule."""
    return ops.cast(ops.convert_to_tensor(value(step)), keras.backend.floatx()) if is_schedule(value) else value


def serialize_value(value: Number | Callable | None) -> Json:
    """Returns a number as it is; a schedule, or another function, as its Keras config."""
    return keras.saving.serialize_keras_object(value) if callable(value) else value


def deserialize_value(value: Json, custom_objects: dict[str, type] | None = None) -> Tree:
    """Returns the value that `serialize_value` was called with."""
    if isinstance(value, dict):
        return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
    return value
