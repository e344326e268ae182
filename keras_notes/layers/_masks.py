"""Masks of attention: True where a query may look at a key.

b batch, h heads, q queries, m keys.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from keras import ops

from keras_notes._shared.checks import differ
from keras_notes.layers._inputs import known_index

__all__ = ["causal_mask", "combined_mask"]


def causal_mask(queries: Any, keys: Any, start_index: Any = 0) -> Any:
    """Lets each query look at the keys up to its own position, which is `start_index` for the first.

    Args:
        queries: Their number.
        keys: Their number; the first stands at position 0.
        start_index: An integer, or a tensor of shape ().

    Returns:
        Booleans of shape (queries, keys).
    """
    start = known_index("start_index", start_index)
    if start is not None and isinstance(queries, int) and isinstance(keys, int):
        return np.tri(queries, keys, start, dtype=bool)  # a constant of the graph
    own = ops.arange(queries, dtype="int32") + ops.cast(start_index, "int32")
    return ops.expand_dims(own, -1) >= ops.arange(keys, dtype="int32")


def combined_mask(
    shape: tuple[Any, ...], query_mask: Any, value_mask: Any, key_mask: Any, attention_mask: Any, causal: Any
) -> Any:
    """Where all masks are True.

    Args:
        shape: Of the scores (b, h, q, m), None where it is not known.
        query_mask: Padding (b, q), or None.
        value_mask: Padding (b, m), or None.
        key_mask: Padding (b, m), or None.
        attention_mask: Of shape (q, m), (b, q, m) or (b, h, q, m), lengths of 1 standing for all; or None.
        causal: Of shape (q, m), or None.

    Returns:
        A mask that broadcasts to the scores; None if there is no mask.
    """
    masks = [] if causal is None else [causal]
    if query_mask is not None:
        masks.append(_padding("query_mask", query_mask, (shape[0], shape[2]))[:, None, :, None])
    for name, mask in (("value_mask", value_mask), ("key_mask", key_mask)):
        if mask is not None:
            masks.append(_padding(name, mask, (shape[0], shape[3]))[:, None, None, :])
    if attention_mask is not None:
        masks.append(_attention_mask(attention_mask, shape))
    return functools.reduce(ops.logical_and, masks) if masks else None


def _padding(name: str, mask: Any, wanted: tuple[Any, ...]) -> Any:
    if differ(tuple(mask.shape), wanted):
        raise ValueError(f"`{name}` must have shape (batch, length), {wanted}. Received: shape {tuple(mask.shape)}.")
    return ops.cast(mask, "bool")


def _attention_mask(mask: Any, shape: tuple[Any, ...]) -> Any:
    given = tuple(mask.shape)
    wanted = {2: shape[2:], 3: (shape[0], *shape[2:]), 4: shape}.get(len(given))
    if wanted is None or differ(tuple(None if size == 1 else size for size in given), wanted):
        raise ValueError(
            f"`attention_mask` must have the shape of the scores (batch, heads, queries, keys), {shape}, without the "
            f"heads or without batch and heads, or 1 for a length. Received: shape {given}."
        )
    mask = ops.cast(mask, "bool")
    return mask if len(given) == 4 else ops.expand_dims(mask, -3)
