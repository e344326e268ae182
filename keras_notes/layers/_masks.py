"""Masks of attention: True where a query may attend to a key.

b batch, h heads, q queries, m keys.
"""

from __future__ import annotations

import functools

import numpy as np
from keras import ops

from keras_notes._shared.checks import differ
from keras_notes._shared.types import Tensor
from keras_notes.layers._inputs import Index, Shape, known_index

__all__ = ["causal_mask", "combine_masks"]


def causal_mask(queries: Index, keys: Index, start_index: Index = 0) -> Tensor:
    """Lets each query attend to the keys up to its own position, which is `start_index` for the first.

    Args:
        queries: Number of queries.
        keys: Number of keys; the first is at position 0.
        start_index: Position of the first query: an integer, or a tensor of shape ().

    Returns:
        Booleans of shape (queries, keys).
    """
    start = known_index("start_index", start_index)
    if start is not None and isinstance(queries, int) and isinstance(keys, int):
        return np.tri(queries, keys, start, dtype=bool)  # a constant of the graph
    positions = ops.arange(queries, dtype="int32") + ops.cast(start_index, "int32")
    return ops.expand_dims(positions, -1) >= ops.arange(keys, dtype="int32")


def combine_masks(
    shape: Shape,
    query_mask: Tensor | None,
    value_mask: Tensor | None,
    key_mask: Tensor | None,
    attention_mask: Tensor | None,
    causal: Tensor | None,
) -> Tensor | None:
    """Combines masks: a query may attend to a key where all of them are True.

    Args:
        shape: Shape of the scores (b, h, q, m), None where it is unknown.
        query_mask: Padding (b, q), or None.
        value_mask: Padding (b, m), or None.
        key_mask: Padding (b, m), or None.
        attention_mask: Mask of shape (q, m), (b, q, m) or (b, h, q, m), where a length of 1 broadcasts; or None.
        causal: Mask of shape (q, m), or None.

    Returns:
        A mask that broadcasts to the scores; None if there are only Nones.
    """
    masks = [] if causal is None else [causal]
    if query_mask is not None:
        masks.append(_check_padding("query_mask", query_mask, (shape[0], shape[2]))[:, None, :, None])
    for name, mask in (("value_mask", value_mask), ("key_mask", key_mask)):
        if mask is not None:
            masks.append(_check_padding(name, mask, (shape[0], shape[3]))[:, None, None, :])
    if attention_mask is not None:
        masks.append(_check_attention_mask(attention_mask, shape))
    return functools.reduce(ops.logical_and, masks) if masks else None


def _check_padding(name: str, mask: Tensor, expected_shape: Shape) -> Tensor:
    """Returns the mask as booleans, which must have the expected shape."""
    if differ(tuple(mask.shape), expected_shape):
        raise ValueError(
            f"`{name}` must have shape (batch, length), {expected_shape}. Received: shape {tuple(mask.shape)}."
        )
    return ops.cast(mask, "bool")


def _check_attention_mask(mask: Tensor, scores_shape: Shape) -> Tensor:
    """Returns the mask as booleans that broadcast to the scores."""
    actual_shape = tuple(mask.shape)
    expected_shape = {2: scores_shape[2:], 3: (scores_shape[0], *scores_shape[2:]), 4: scores_shape}.get(
        len(actual_shape)
    )
    if expected_shape is None or differ(tuple(None if size == 1 else size for size in actual_shape), expected_shape):
        raise ValueError(
            f"`attention_mask` must have the shape of the scores (batch, heads, queries, keys), {scores_shape}, "
            f"without the heads or without batch and heads, or 1 for a length. Received: shape {actual_shape}."
        )
    mask = ops.cast(mask, "bool")
    return mask if len(actual_shape) == 4 else ops.expand_dims(mask, -3)
