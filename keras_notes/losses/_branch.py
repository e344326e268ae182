"""A choice between two formulas by what the data of the batch are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

__all__ = ["branch"]


def branch(is_true, when_true: Callable[[], Any], when_false: Callable[[], Any]):
    """The same as `ops.cond`, without compiling anything on JAX where the condition is known already.

    In an eager call on JAX `ops.cond` compiles both functions, and anew each time because they are new each time. The
    other backends run one of them.
    """
    if keras.backend.backend() != "jax":
        return ops.cond(is_true, when_true, when_false)
    try:
        is_known_true = bool(is_true)
    except TypeError:
        # What JAX raises while it traces: the condition has no value yet.
        return ops.cond(is_true, when_true, when_false)
    return when_true() if is_known_true else when_false()
