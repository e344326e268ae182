"""Keys and values that attention keeps from one step of decoding to the next, in arrays of a fixed size.

b batch, g heads of keys and values, m positions, k and v widths of a head.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_notes._shared.checks import differ
from keras_notes.layers._inputs import check_within

__all__ = ["Cache", "check_memory", "empty_cache", "written"]

# Keys of shape (b, g, m, k), and values of shape (b, g, m, v).
Cache = tuple[Any, Any]


def empty_cache(shape: tuple[int, int, int], key_dim: int, value_dim: int, dtype: str) -> Cache:
    """Zeros of shape (*shape, key_dim) and (*shape, value_dim)."""
    return ops.zeros((*shape, key_dim), dtype), ops.zeros((*shape, value_dim), dtype)


def written(cache: Cache, keys_bglk: Any, values_bglv: Any, start_index: Any) -> Cache:
    """The cache with new keys and values from position `start_index` on."""
    _check_cache(cache)
    for kind, old, new in (("keys", cache[0], keys_bglk), ("values", cache[1], values_bglv)):
        without_length = [(*array.shape[:2], array.shape[3]) for array in (old, new)]
        if differ(*without_length):
            raise ValueError(
                f"`cache` must have {kind} of the batch, heads and width of the new ones. Received: shapes "
                f"{tuple(old.shape)} and {tuple(new.shape)}. Begin with `empty_cache`."
            )
    check_within(cache[0].shape[2], start_index, ops.shape(keys_bglk)[2])
    place = (0, 0, start_index, 0)
    return ops.slice_update(cache[0], place, keys_bglk), ops.slice_update(cache[1], place, values_bglv)


def check_memory(cache: Cache | None) -> Cache:
    """Returns the cache, which must be there where no values are given."""
    if cache is None:
        raise ValueError("`value` must be given without a `cache`. Received: value=None and cache=None.")
    _check_cache(cache)
    return cache


def _check_cache(cache: Cache) -> None:
    shapes = [tuple(array.shape) for array in cache]
    if len(shapes) != 2 or [len(shape) for shape in shapes] != [4, 4] or differ(shapes[0][:3], shapes[1][:3]):
        raise ValueError(
            f"`cache` must be (keys, values) of shapes (batch, heads, positions, width). Received: shapes "
            f"{', '.join(map(str, shapes))}."
        )
