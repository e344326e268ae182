"""What a layer is given: ids, positions and lengths, checked where their values can be seen.

They can in NumPy arrays and in the tensors of an eager call; not in a compiled step, nor while a graph is traced.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_notes._shared.checks import check_at_least, received

__all__ = ["check_ids", "check_integer_dtype", "check_within", "known_index", "known_values"]


def known_values(values: Any) -> np.ndarray | None:
    """The values as a NumPy array, or None where there are none to be seen."""
    if isinstance(values, keras.KerasTensor):
        return None
    try:
        return keras.ops.convert_to_numpy(values)
    except (TypeError, NotImplementedError):  # what the backends raise while they trace
        return None


def known_index(name: str, index: Any) -> int | None:
    """A position as an int >= 0, or None where it cannot be seen."""
    values = known_values(index)
    if values is None:
        return None
    return check_at_least(name, values.item() if values.size == 1 else index, 0)


def check_integer_dtype(ids: Any) -> None:
    """Raises TypeError unless the ids are of an integer type: a float rounds them, a bool is no id."""
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if "int" not in dtype:
        raise TypeError(f"Ids must be integers. {received(dtype=dtype)} Cast them with `keras.ops.cast(ids, 'int32')`.")


def check_ids(ids: Any, count: int, remedy: str) -> None:
    """Raises ValueError for ids outside of [0, count), where they can be seen."""
    values = known_values(ids)
    if values is None:
        return
    wrong = (values < 0) | (values >= count)
    if wrong.any():
        raise ValueError(
            f"Ids must be in [0, {count}). Received: {values[wrong].flat[0]} ({int(wrong.sum())} of {values.size} are "
            f"wrong). {remedy}"
        )


def check_within(max_length: int, start_index: Any, length: Any) -> None:
    """Raises ValueError if positions from `start_index` on reach past `max_length`, where both can be seen."""
    start = known_index("start_index", start_index)
    if start is not None and isinstance(length, int) and start + length > max_length:
        raise ValueError(
            f"`start_index` + length must be <= {max_length}, the number of positions that there are. "
            f"{received(start_index=start, length=length)} Give a larger `max_length`, or a shorter sequence."
        )
