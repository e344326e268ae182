"""Temporarily replaces a method of one layer object.

This works for functional, nested and subclassed models alike, and inside a compiled function, because the Python of a
layer runs while the function is traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras

__all__ = ["patch_call", "patch_method"]


def patch_call(layer: keras.Layer, call: Callable) -> contextlib.AbstractContextManager[None]:
    """Replaces the `call` of `layer` while the block runs."""
    return patch_method(layer, "call", call)


@contextlib.contextmanager
def patch_method(layer: keras.Layer, method: str, replacement: Callable) -> Iterator[None]:
    """Replaces a method of `layer` while the block runs."""
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
