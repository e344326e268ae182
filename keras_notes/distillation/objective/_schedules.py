"""Numbers that may change while training goes on: a constant, a Keras schedule, or a function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

__all__ = ["constant_or_schedule", "is_schedule", "restored", "serialized", "value_at"]


def is_schedule(value) -> bool:
    """Whether a value is a Keras schedule or another function of the step."""
    return callable(value)


def constant_or_schedule(name: str, value: Any, check: Callable[[str, Any], float]):
    """A schedule as it is; a number through its check. What a schedule returns while training is not checked."""
    return value if is_schedule(value) else check(name, value)


def value_at(value, step):
    """The number at a step: a Python float for a constant, a scalar tensor for a schedule."""
    return ops.cast(ops.convert_to_tensor(value(step)), keras.backend.floatx()) if is_schedule(value) else value


def serialized(value):
    """A number as it is; a schedule as its Keras config."""
    return keras.saving.serialize_keras_object(value) if is_schedule(value) else value


def restored(value, custom_objects=None):
    """What `serialized` took."""
    if isinstance(value, dict):
        return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
    return value
