"""Two differences between the Keras backends that the losses work around."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_notes._shared.types import Tensor

__all__ = ["branch", "upstream_gradient"]


def branch(is_true: Tensor, when_true: Callable[[], Tensor], when_false: Callable[[], Tensor]) -> Tensor:
    """Returns what `ops.cond` returns; on JAX nothing is compiled where the condition is known already.

    In an eager call on JAX `ops.cond` compiles both functions, each time again because they are new functions each
    time. The other backends run one of them.
    """
    if keras.backend.backend() != "jax":
        return ops.cond(is_true, when_true, when_false)
    try:
        is_known_true = bool(is_true)
    except TypeError:
        # JAX raises this while it traces: the condition has no value yet.
        return ops.cond(is_true, when_true, when_false)
    return when_true() if is_known_true else when_false()


def upstream_gradient(arguments: Sequence[Tensor], upstream: Tensor | None) -> Tensor:
    """Returns the gradient that a function of `ops.custom_gradient` receives.

    TensorFlow passes it by the keyword `upstream`, JAX and PyTorch as the only positional argument.
    """
    return arguments[0] if upstream is None else upstream
