"""Lowerings of operations of Keras for the deploy graph, in operators that LiteRT has, while the graph is traced.

Keras tells 0.0 from -0.0 in argmax and argmin by the bits of floating-point numbers, which LiteRT cannot; and it sorts
negated values, which have another grid. On the TensorFlow backend only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from keras import ops

from keras_notes._shared.keras_internals import patch_backend_function
from keras_notes._shared.types import Tensor

__all__ = ["lower_operations"]


@contextlib.contextmanager
def lower_operations() -> Iterator[None]:
    """Lets operations compute the operators that are converted, while the block runs."""
    with contextlib.ExitStack() as stack:
        for name, function in _LOWERINGS.items():
            stack.enter_context(patch_backend_function(name, function))
        yield


def _argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    # Keras has no argmax without the bits.
    import tensorflow as tf

    return _select(tf.math.argmax, x, axis, keepdims)


def _argmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    import tensorflow as tf

    return _select(tf.math.argmin, x, axis, keepdims)


def _select(function: Callable[..., Tensor], x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    x = ops.convert_to_tensor(x)
    flat = ops.reshape(x, (-1,)) if axis is None else x
    indices = function(flat, axis=0 if axis is None else axis, output_type="int32")
    if not keepdims:
        return indices
    return ops.reshape(indices, [1] * len(x.shape)) if axis is None else ops.expand_dims(indices, axis)


def _sort(x: Tensor, axis: int | None = -1) -> Tensor:
    """Sorts by the largest values, last to first."""
    moved, axis = _to_last_axis(x, axis)
    values, _ = ops.top_k(moved, moved.shape[-1])
    return ops.moveaxis(_reverse(values), -1, axis)


def _argsort(x: Tensor, axis: int | None = -1) -> Tensor:
    """Sorts indices; equal values keep their order, because it looks at them last to first, twice."""
    moved, axis = _to_last_axis(x, axis)
    size = moved.shape[-1]
    _, indices = ops.top_k(_reverse(moved), size)
    return ops.moveaxis(size - 1 - _reverse(indices), -1, axis)


def _to_last_axis(x: Tensor, axis: int | None) -> tuple[Tensor, int]:
    x = ops.convert_to_tensor(x)
    if axis is None:
        return ops.reshape(x, (-1,)), -1
    return ops.moveaxis(x, axis, -1), axis


def _reverse(x: Tensor) -> Tensor:
    return ops.take(x, np.arange(x.shape[-1], dtype="int32")[::-1], axis=-1)


_LOWERINGS: dict[str, Callable] = {"argmax": _argmax, "argmin": _argmin, "sort": _sort, "argsort": _argsort}
