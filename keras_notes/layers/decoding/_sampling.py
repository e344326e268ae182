"""Choice of the next id: the most probable id, or a sample."""

from __future__ import annotations

from keras import ops

from keras_notes._shared.types import Tensor

__all__ = ["likeliest_ids", "sample_ids"]


def likeliest_ids(logits: Tensor) -> Tensor:
    """Returns the id of the largest of the logits (..., vocabulary), of shape (...); the first of equal ones."""
    return ops.cast(ops.argmax(logits, axis=-1), "int32")


def sample_ids(
    logits: Tensor, uniform: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Samples ids from a softmax without its improbable part.

        p = softmax over the top_k largest of  logits / temperature
        candidates: the fewest of these, in descending order of p, whose p sum up to top_p or more
        id = the first candidate at which the running sum of p exceeds  uniform * (the sum over all candidates)

    Args:
        logits: Logits of shape (batch, vocabulary).
        uniform: Random numbers in [0, 1), of shape (batch,). Equal numbers give equal ids.
        temperature: Temperature of the softmax, > 0. Below 1, probable ids become more probable.
        top_k: Number of largest logits to sample from, >= 1; None for all.
        top_p: Sum of the probabilities to sample from, in (0, 1]; None for all.

    Returns:
        Ids of shape (batch,), int32.

    Example:
        >>> import numpy as np
        >>> logits = np.log([[0.1, 0.6, 0.3]] * 3).astype("float32")
        >>> np.asarray(sample_ids(logits, np.array([0.0, 0.5, 0.8], "float32"), top_k=2)).tolist()
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
    index = ops.sum(ops.cast(running <= uniform[:, None] * running[:, -1:], "int32"), axis=-1)
    # The product may round up to the whole sum; the index would then be behind the last candidate.
    index = ops.minimum(index, ops.sum(ops.cast(probs > 0.0, "int32"), axis=-1) - 1)
    return ops.cast(ops.take_along_axis(ids, index[:, None], axis=-1)[:, 0], "int32")
