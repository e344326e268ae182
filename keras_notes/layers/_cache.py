"""Caches: keys and values that attention keeps from one step of decoding to the next, in arrays of a fixed size.

b batch, g heads of keys and values, m positions, k and v widths of a head.
"""

from __future__ import annotations

from typing import TypeAlias

from keras import ops

from keras_notes._shared.checks import differ
from keras_notes._shared.types import Tensor
from keras_notes.layers._inputs import Index, check_within

__all__ = ["Cache", "check_memory", "empty_cache", "update_cache"]

Cache: TypeAlias = tuple[Tensor, Tensor]
"""Keys of shape (b, g, m, k), and values of shape (b, g, m, v)."""


def empty_cache(shape: tuple[int, int, int], key_dim: int, value_dim: int, dtype: str) -> Cache:
    """Returns zeros of shape (*shape, key_dim) and (*shape, value_dim)."""
    return ops.zeros((*shape, key_dim), dtype), ops.zeros((*shape, value_dim), dtype)


def update_cache(cache: Cache, keys_bglk: Tensor, values_bglv: Tensor, start_index: Index) -> Cache:
    """Returns the cache with new keys and values from position `start_index` on."""
    _check_cache(cache)
    for name, cached, new in (("keys", cache[0], keys_bglk), ("values", cache[1], values_bglv)):
        without_length = [(*array.shape[:2], array.shape[3]) for array in (cached, new)]
        if differ(*without_length):
            raise ValueError(
                f"`cache` must have {name} with the batch, heads and width of the new ones. Received: shapes "
                f"{tuple(cached.shape)} and {tuple(new.shape)}. Begin with `empty_cache`."
            )
    check_within(cache[0].shape[2], start_index, ops.shape(keys_bglk)[2])
    place = (0, 0, start_index, 0)
    return ops.slice_update(cache[0], place, keys_bglk), ops.slice_update(cache[1], place, values_bglv)


def check_memory(cache: Cache | None) -> Cache:
    """Returns the cache, which must not be None if a call has no `value`."""
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
