"""Checks of ids, positions and lengths, wherever their values are known.

Values are known in NumPy arrays and in the tensors of an eager call. They are unknown inside a compiled step, and while
a graph is traced.
"""

from __future__ import annotations

from typing import TypeAlias

import keras
import numpy as np

from keras_notes._shared.checks import check_at_least, received
from keras_notes._shared.types import ArrayLike, Tensor

__all__ = ["Index", "Shape", "check_ids", "check_integer_dtype", "check_within", "known_index", "known_values"]

Index: TypeAlias = int | Tensor
"""A position or a length: an int where it is known, else a tensor of shape ()."""

Shape: TypeAlias = tuple[int | None, ...]
"""The shape of a tensor, None where a dimension is unknown."""


def known_values(values: Tensor) -> np.ndarray | None:
    """Returns the values as a NumPy array; None if they are unknown."""
    if isinstance(values, keras.KerasTensor):
        return None
    try:
        return keras.ops.convert_to_numpy(values)
    except (TypeError, NotImplementedError):  # what the backends raise while they trace
        return None


def known_index(name: str, index: Index) -> int | None:
    """Returns a position as an int >= 0; None if it is unknown."""
    values = known_values(index)
    if values is None:
        return None
    return check_at_least(name, values.item() if values.size == 1 else index, 0)


def check_integer_dtype(ids: Tensor) -> None:
    """Raises TypeError unless the ids have an integer type: floats round large ids, and booleans are not ids."""
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if "int" not in dtype:
        raise TypeError(f"Ids must be integers. {received(dtype=dtype)} Cast them with `keras.ops.cast(ids, 'int32')`.")


def check_ids(ids: ArrayLike, count: int, remedy: str) -> None:
    """Raises ValueError for ids outside of [0, count), if their values are known."""
    values = known_values(ids)
    if values is None:
        return
    wrong = (values < 0) | (values >= count)
    if wrong.any():
        raise ValueError(
            f"Ids must be in [0, {count}). Received: {values[wrong].flat[0]} ({int(wrong.sum())} of {values.size} are "
            f"wrong). {remedy}"
        )


def check_within(max_length: int, start_index: Index, length: Index) -> None:
    """Raises ValueError if positions from `start_index` on reach past `max_length`, if both are known."""
    start = known_index("start_index", start_index)
    if start is not None and isinstance(length, int) and start + length > max_length:
        raise ValueError(
            f"`start_index` + length must be <= {max_length}, the number of positions. "
            f"{received(start_index=start, length=length)} Give a larger `max_length`, or a shorter sequence."
        )
