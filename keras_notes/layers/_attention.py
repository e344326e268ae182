"""Attention: the formula.

b batch, h heads, g heads of keys and values, q queries, m keys, k and v widths of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query_bhqk: Any,
    key_bgmk: Any,
    value_bgmv: Any,
    mask: Any = None,
    *,
    softmax: Callable | None = None,
    dropout: Callable | None = None,
) -> tuple[Any, Any]:
    """Attention: of the values, the mean by how well query and key match.

        scores = softmax over m of  (q / sqrt(k)) . key
        outputs = scores . values

    Queries are scaled before the product, which in 16 bits would overflow earlier. A query that may look at no key has
    scores and outputs of exactly 0. Keys that are masked have scores of exactly 0.

    Args:
        query_bhqk: Shape (batch, heads, queries, k).
        key_bgmk: Shape (batch, g, keys, k), where g divides heads: query heads [i heads / g, (i + 1) heads / g) share
            key head i.
        value_bgmv: Shape (batch, g, keys, v).
        mask: True where a query may look at a key; of a shape that broadcasts to the scores. None for everywhere.
        softmax: Called as `softmax(scores, mask=mask)`; masked scores may get any finite value. Defaults to a
            `keras.layers.Softmax`.
        dropout: Called with the scores that are about to weight the values.

    Returns:
        Outputs of shape (batch, heads, queries, v), and scores of shape (batch, heads, queries, keys) before `dropout`.

    Example:
        >>> import numpy as np
        >>> query, key, value = np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 2, 2)), np.array([[[[1.0], [3.0]]]])
        >>> outputs, scores = scaled_dot_product_attention(query, key, value)
        >>> np.asarray(outputs).tolist(), np.asarray(scores).tolist()
        ([[[[2.0]]]], [[[[0.5, 0.5]]]])

    References:
        Vaswani et al. 2017, section 3.2.1, equation 1 (https://arxiv.org/abs/1706.03762).
        Ainslie et al. 2023, GQA, section 2.2 (https://arxiv.org/abs/2305.13245).
    """
    if softmax is None:
        softmax = keras.layers.Softmax(dtype=keras.backend.standardize_dtype(query_bhqk.dtype))
    heads, groups = query_bhqk.shape[1], key_bgmk.shape[1]
    scaled = query_bhqk * query_bhqk.shape[-1] ** -0.5
    logits = ops.matmul(_grouped(scaled, groups), ops.transpose(key_bgmk, (0, 1, 3, 2)))
    logits = _grouped(logits, heads)
    # Keras warns of a softmax over one element, which here is one position to look at.
    scores = ops.ones_like(logits) if logits.shape[-1] == 1 else softmax(logits, mask=mask)
    if not _leaves_each_a_key(mask):
        scores = ops.where(mask, scores, 0.0)
    weights = scores if dropout is None else dropout(scores)
    return _grouped(ops.matmul(_grouped(weights, groups), value_bgmv), heads), scores


def _grouped(x_bhqk: Any, groups: int) -> Any:
    """The rows of the heads of a group one below the other, of shape (b, g, h q / g, k); and back to h heads.

    So each group is one product, where repeating keys and values for each head would copy them.
    """
    heads, rows, width = ops.shape(x_bhqk)[1:]
    return x_bhqk if heads == groups else ops.reshape(x_bhqk, (-1, groups, heads * rows // groups, width))


def _leaves_each_a_key(mask: Any) -> bool:
    """Whether each query may look at a key for sure: a softmax of nothing has nothing to be cleared of."""
    return mask is None or (isinstance(mask, np.ndarray) and bool(mask.any(axis=-1).all()))
