"""Replaces what a layer computes, or a method of it, for a while, on the object itself.

That works for functional, nested and subclassed models alike, and inside a compiled function, because the Python of a
layer runs while the function is traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras

__all__ = ["replaced", "replaced_call"]


def replaced_call(layer: keras.Layer, call: Callable) -> contextlib.AbstractContextManager[None]:
    """Lets `layer` compute `call` while the block runs."""
    return replaced(layer, "call", call)


@contextlib.contextmanager
def replaced(layer: keras.Layer, method: str, replacement: Callable) -> Iterator[None]:
    """Lets `layer` have another method of this name while the block runs."""
    before = vars(layer).get(method)
    # Past Keras's own __setattr__, which would track the function as part of the layer's state.
    object.__setattr__(layer, method, replacement)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(layer, method)
        else:
            object.__setattr__(layer, method, before)
