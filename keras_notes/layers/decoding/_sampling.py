"""Choosing the next id: the likeliest, or one drawn from the likeliest."""

from __future__ import annotations

from typing import Any

from keras import ops

__all__ = ["drawn_ids", "likeliest_ids"]


def likeliest_ids(logits: Any) -> Any:
    """The id of the largest of the logits (..., vocabulary): shape (...). Of equal ones the first."""
    return ops.cast(ops.argmax(logits, axis=-1), "int32")


def drawn_ids(
    logits: Any, uniform: Any, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Any:
    """Draws ids from a softmax whose unlikely part is cut off.

        p = softmax over the top_k largest of  logits / temperature
        kept: of these, the fewest, likeliest first, with a sum of p of at least top_p
        id = the first of them at which the running sum of p exceeds  uniform * (the sum over all kept)

    Args:
        logits: Shape (batch, vocabulary).
        uniform: What chance gives, in [0, 1): shape (batch,). The same numbers give the same ids.
        temperature: > 0. Below 1 what is likely becomes likelier.
        top_k: >= 1; None for all.
        top_p: In (0, 1]; None for all.

    Returns:
        Ids of shape (batch,), int32.

    Example:
        >>> import numpy as np
        >>> logits = np.log([[0.1, 0.6, 0.3]] * 3).astype("float32")
        >>> np.asarray(drawn_ids(logits, np.array([0.0, 0.5, 0.8], "float32"), top_k=2)).tolist()
        [1, 1, 2]

    References:
        Fan et al. 2018, Hierarchical Neural Story Generation, section 5.4 (https://arxiv.org/abs/1805.04833).
        Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section 3.1, equations 2 and 3
        (https://arxiv.org/abs/1904.09751).
    """
    probs = ops.softmax(ops.cast(logits, "float32") / temperature)
    probs, ids = ops.top_k(probs, logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1]))
    if top_p is not None:
        running = ops.cumsum(probs, axis=-1)
        before = running - probs
        probs = ops.where((before < top_p * running[:, -1:]) | (before <= 0.0), probs, 0.0)
    running = ops.cumsum(probs, axis=-1)
    uniform = ops.convert_to_tensor(uniform, "float32")
    place = ops.sum(ops.cast(running <= uniform[:, None] * running[:, -1:], "int32"), axis=-1)
    # A product that is rounded up to the whole sum would lie behind all that is kept.
    place = ops.minimum(place, ops.sum(ops.cast(probs > 0.0, "int32"), axis=-1) - 1)
    return ops.cast(ops.take_along_axis(ids, place[:, None], axis=-1)[:, 0], "int32")
