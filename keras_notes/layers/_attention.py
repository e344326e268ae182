"""Scaled dot-product attention, the formula.

b batch, h heads, g heads of keys and values, q queries, m keys, k and v widths of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_notes._shared.types import Tensor

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query_bhqk: Tensor,
    key_bgmk: Tensor,
    value_bgmv: Tensor,
    mask: Tensor | None = None,
    *,
    softmax: Callable | None = None,
    dropout: Callable | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes attention: the mean of the values, weighted by how well query and key match.

        scores = softmax over m of  (q / sqrt(k)) . key
        outputs = scores . values

    Queries are scaled before the product, because in 16 bits the product would overflow earlier. A query that may
    attend to no key has scores and outputs of exactly 0. Masked keys have scores of exactly 0.

    Args:
        query_bhqk: Queries of shape (batch, heads, queries, k).
        key_bgmk: Keys of shape (batch, g, keys, k), where g divides heads: the query heads
            [i heads / g, (i + 1) heads / g) share key head i.
        value_bgmv: Values of shape (batch, g, keys, v).
        mask: Mask that is True where a query may attend to a key, of a shape that broadcasts to the scores. None if
            all queries may attend to all keys.
        softmax: Function called as `softmax(scores, mask=mask)`; it may return any finite value for masked scores.
            Defaults to a `keras.layers.Softmax`.
        dropout: Function called with the scores before they weight the values. None for no dropout.

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
    logits = ops.matmul(_regroup(scaled, groups), ops.transpose(key_bgmk, (0, 1, 3, 2)))
    logits = _regroup(logits, heads)
    # Keras warns about a softmax over one element, which here is a single key.
    scores = ops.ones_like(logits) if logits.shape[-1] == 1 else softmax(logits, mask=mask)
    if not _surely_allows_a_key(mask):
        scores = ops.where(mask, scores, 0.0)
    weights = scores if dropout is None else dropout(scores)
    return _regroup(ops.matmul(_regroup(weights, groups), value_bgmv), heads), scores


def _regroup(x_bhqk: Tensor, groups: int) -> Tensor:
    """Puts the rows of the heads of a group below each other, to shape (b, g, h q / g, k); and back to h heads.

    Each group is then one product; repeating keys and values for each head would copy them.
    """
    heads, rows, width = ops.shape(x_bhqk)[1:]
    return x_bhqk if heads == groups else ops.reshape(x_bhqk, (-1, groups, heads * rows // groups, width))


def _surely_allows_a_key(mask: Tensor | None) -> bool:
    """Returns whether each query is known to have a key; its scores then need no correction to 0."""
    return mask is None or (isinstance(mask, np.ndarray) and bool(mask.any(axis=-1).all()))
