"""Replaces what a layer computes, for a while, on the object itself.

That works for functional, nested and subclassed models alike, and inside a compiled function, because the Python of a
layer runs while the function is traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras

__all__ = ["replaced_call"]


@contextlib.contextmanager
def replaced_call(layer: keras.Layer, call: Callable) -> Iterator[None]:
    """Lets `layer` compute `call` while the block runs."""
    before = vars(layer).get("call")
    # Past Keras's own __setattr__, which would track the function as part of the layer's state.
    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(layer, "call")
        else:
            object.__setattr__(layer, "call", before)
