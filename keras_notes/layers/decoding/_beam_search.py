"""Beam search.

b batch, k hypotheses of each, t ids of a hypothesis, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

__all__ = ["beam_search", "length_penalty"]

# The log-probability of what is no hypothesis: below that of every one, and finite, for 0 * inf is NaN.
_NONE = -1e30


def length_penalty(length: Any, alpha: float) -> Any:
    """What a log-probability of `length` ids is divided by to be a score: ((5 + length) / 6) ^ alpha.

    References:
        Wu et al. 2016, Google's Neural Machine Translation System, section 7, equation 14
        (https://arxiv.org/abs/1609.08144).
    """
    return ((5.0 + length) / 6.0) ** alpha


def beam_search(
    step: Callable,
    caches: Any,
    *,
    batch_size: int,
    width: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    max_length: int,
    alpha: float,
) -> tuple[Any, Any]:
    """The hypothesis of the largest score that a search through the `width` likeliest beginnings finds.

    At each step the `width` likeliest beginnings that have not ended go on by every id. A hypothesis ends where
    `end_id` is among the `width` likeliest of all these continuations, or at `max_length`. The search stops when no
    beginning can become better than the best hypothesis so far, whatever follows.

    Args:
        step: Called as `step(ids (b k,), caches, position)`; gives log-probabilities (b k, v) and the next caches.
        caches: To begin with: arrays of b k rows, the k of a sample one after the other.
        batch_size: b.
        width: k, >= 1.
        start_id: What stands before the first id.
        end_id: What ends a hypothesis; counts in its length and score.
        pad_id: What stands behind the end.
        max_length: The most ids.
        alpha: Exponent of `length_penalty`, >= 0.

    Returns:
        Ids of shape (b, max_length), and scores of shape (b,): log-probability / length_penalty.
    """
    places = ops.arange(max_length, dtype="int32")
    first_row = ops.arange(batch_size, dtype="int32")[:, None] * width

    def can_improve(position, ids, last, log_probs, best_ids, best_score, caches):
        bound = ops.max(log_probs, axis=-1) / length_penalty(float(max_length), alpha)
        return (position < max_length) & ops.any(bound > best_score)

    def lengthen(position, ids, last, log_probs, best_ids, best_score, caches):
        further, caches = step(ops.reshape(last, (-1,)), caches, position)
        vocabulary = further.shape[-1]
        totals = ops.reshape(log_probs[:, :, None] + ops.reshape(further, (-1, width, vocabulary)), (batch_size, -1))
        # Of twice as many the k that do not end are known, for each of the k beginnings has one end only.
        totals, flat = ops.top_k(totals, min(2 * width, width * vocabulary))
        flat = ops.cast(flat, "int32")
        beam, new = flat // vocabulary, flat % vocabulary
        ids = ops.take_along_axis(ids, beam[:, :, None], axis=1)
        ids = ops.where(places == position, new[:, :, None], ids)

        penalty = length_penalty(ops.cast(position + 1, "float32"), alpha)
        is_among_best = ops.arange(new.shape[1]) < width
        ends = is_among_best & ((new == end_id) | (position + 1 == max_length)) & (totals > _NONE / 2)
        scores = ops.where(ends, totals / penalty, _NONE)
        winner = ops.argmax(scores, axis=-1)[:, None]
        score = ops.take_along_axis(scores, winner, axis=1)[:, 0]
        is_better = score > best_score
        best_ids = ops.where(is_better[:, None], ops.take_along_axis(ids, winner[:, :, None], axis=1)[:, 0], best_ids)
        best_score = ops.where(is_better, score, best_score)

        log_probs, kept = ops.top_k(ops.where(new == end_id, _NONE, totals), width)
        ids = ops.take_along_axis(ids, kept[:, :, None], axis=1)
        last = ops.take_along_axis(new, kept, axis=1)
        rows = ops.reshape(first_row + ops.take_along_axis(beam, kept, axis=1), (-1,))
        caches = keras.tree.map_structure(lambda cache: ops.take(cache, rows, axis=0), caches)
        return position + 1, ids, last, log_probs, best_ids, best_score, caches

    start = (
        ops.convert_to_tensor(0, "int32"),
        ops.full((batch_size, width, max_length), pad_id, "int32"),
        ops.full((batch_size, width), start_id, "int32"),
        # Only one beginning is there at first: k equal ones would stay equal.
        ops.tile(ops.where(ops.arange(width) == 0, 0.0, _NONE)[None], (batch_size, 1)),
        ops.full((batch_size, max_length), pad_id, "int32"),
        ops.full((batch_size,), _NONE, "float32"),
        caches,
    )
    _, _, _, _, ids, scores, _ = ops.while_loop(can_improve, lengthen, start)
    return ids, scores
