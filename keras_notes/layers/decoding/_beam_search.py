"""Beam search.

b batch, k hypotheses of each sample, t ids of a hypothesis, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.layers._cache import Cache

__all__ = ["BeamSearch", "length_penalty"]

# The log-probability of an impossible hypothesis: below all others, and finite, because 0 * inf is NaN.
_IMPOSSIBLE = -1e30


def length_penalty(length: Tensor, alpha: float) -> Tensor:
    """Computes the divisor of the log-probability of `length` ids in their score: ((5 + length) / 6) ^ alpha.

    References:
        Wu et al. 2016, Google's Neural Machine Translation System, section 7, equation 14
        (https://arxiv.org/abs/1609.08144).
    """
    return ((5.0 + length) / 6.0) ** alpha


class _State(NamedTuple):
    """The variables of the loop over the positions of a target."""

    position: Tensor
    """Number of ids so far, of shape ()."""
    ids: Tensor
    """Ids of the unfinished hypotheses, of shape (b, k, t)."""
    last_ids: Tensor
    """Last id of each unfinished hypothesis, of shape (b, k)."""
    log_probs: Tensor
    """Log-probability of each unfinished hypothesis, of shape (b, k)."""
    best_ids: Tensor
    """Ids of the best finished hypothesis, of shape (b, t)."""
    best_score: Tensor
    """Score of the best finished hypothesis, of shape (b,)."""
    caches: tuple[Cache, ...]
    """Caches of the unfinished hypotheses: arrays of b k rows."""


class _Candidates(NamedTuple):
    """The most probable continuations of the unfinished hypotheses, 2 k or all: c of them for each sample."""

    log_probs: Tensor
    """Log-probability of the whole hypothesis, of shape (b, c), in descending order."""
    ids: Tensor
    """Ids of the hypothesis, of shape (b, c, t)."""
    new_ids: Tensor
    """Last id of the hypothesis, of shape (b, c)."""
    parents: Tensor
    """Index of the hypothesis that was continued, in [0, k), of shape (b, c)."""


@dataclass(frozen=True)
class BeamSearch:
    """A search for the hypothesis with the largest score, through the `width` most probable unfinished hypotheses.

    At each step, the `width` most probable unfinished hypotheses are continued by every id. A hypothesis is finished if
    `end_id` is among the `width` most probable of all these continuations, or at `max_length`. The search stops when no
    unfinished hypothesis can exceed the best score so far, whatever follows.

    Attributes:
        step: Function called as `step(ids (b k,), caches, position)`; returns log-probabilities (b k, v) and the next
            caches.
        batch_size: Number of samples b.
        width: Number of unfinished hypotheses k, >= 1.
        start_id: Id before the first id of a target.
        end_id: Id that ends a hypothesis; it counts in length and score.
        pad_id: Id behind the end.
        max_length: Largest number of ids t.
        alpha: Exponent of `length_penalty`, >= 0.
    """

    step: Callable
    batch_size: int
    width: int
    start_id: int
    end_id: int
    pad_id: int
    max_length: int
    alpha: float

    def run(self, caches: tuple[Cache, ...]) -> tuple[Tensor, Tensor]:
        """Searches.

        Args:
            caches: Caches for the first step: arrays of b k rows, with the k rows of a sample next to each other.

        Returns:
            Ids of shape (b, max_length), and scores of shape (b,): log-probability / length_penalty.
        """
        state = _State(*ops.while_loop(self._can_improve, self._advance, tuple(self._first_state(caches))))
        return state.best_ids, state.best_score

    def _first_state(self, caches: tuple[Cache, ...]) -> _State:
        batch_size, width, max_length = self.batch_size, self.width, self.max_length
        # All but one hypothesis are impossible at first: k equal ones would stay equal.
        log_probs = ops.where(ops.arange(width) == 0, 0.0, _IMPOSSIBLE)
        return _State(
            position=ops.convert_to_tensor(0, "int32"),
            ids=ops.full((batch_size, width, max_length), self.pad_id, "int32"),
            last_ids=ops.full((batch_size, width), self.start_id, "int32"),
            log_probs=ops.tile(log_probs[None], (batch_size, 1)),
            best_ids=ops.full((batch_size, max_length), self.pad_id, "int32"),
            best_score=ops.full((batch_size,), _IMPOSSIBLE, "float32"),
            caches=caches,
        )

    def _can_improve(self, *variables: Tensor) -> Tensor:
        """Returns whether an unfinished hypothesis may still exceed the best score."""
        state = _State(*variables)
        bound = ops.max(state.log_probs, axis=-1) / length_penalty(float(self.max_length), self.alpha)
        return (state.position < self.max_length) & ops.any(bound > state.best_score)

    def _advance(self, *variables: Tensor) -> tuple:
        """Continues the hypotheses by one id."""
        state = _State(*variables)
        next_log_probs, caches = self.step(ops.reshape(state.last_ids, (-1,)), state.caches, state.position)
        candidates = self._continue(state, next_log_probs)
        best_ids, best_score = self._update_best(state, candidates)

        is_end = candidates.new_ids == self.end_id
        log_probs, survivors = ops.top_k(ops.where(is_end, _IMPOSSIBLE, candidates.log_probs), self.width)
        first_rows = ops.arange(self.batch_size, dtype="int32")[:, None] * self.width
        rows = ops.reshape(first_rows + ops.take_along_axis(candidates.parents, survivors, axis=1), (-1,))
        return tuple(
            _State(
                position=state.position + 1,
                ids=ops.take_along_axis(candidates.ids, survivors[:, :, None], axis=1),
                last_ids=ops.take_along_axis(candidates.new_ids, survivors, axis=1),
                log_probs=log_probs,
                best_ids=best_ids,
                best_score=best_score,
                caches=keras.tree.map_structure(lambda cache: ops.take(cache, rows, axis=0), caches),
            )
        )

    def _continue(self, state: _State, next_log_probs: Tensor) -> _Candidates:
        """Returns the most probable continuations, from log-probabilities (b k, v) of the next id."""
        width, vocabulary = self.width, next_log_probs.shape[-1]
        totals = state.log_probs[:, :, None] + ops.reshape(next_log_probs, (-1, width, vocabulary))
        # Each of the k hypotheses has one continuation that ends, so 2 k contain k that do not.
        log_probs, indices = ops.top_k(ops.reshape(totals, (self.batch_size, -1)), min(2 * width, width * vocabulary))
        indices = ops.cast(indices, "int32")
        parents, new_ids = indices // vocabulary, indices % vocabulary
        ids = ops.take_along_axis(state.ids, parents[:, :, None], axis=1)
        positions = ops.arange(self.max_length, dtype="int32")
        ids = ops.where(positions == state.position, new_ids[:, :, None], ids)
        return _Candidates(log_probs, ids, new_ids, parents)

    def _update_best(self, state: _State, candidates: _Candidates) -> tuple[Tensor, Tensor]:
        """Returns ids and score of the best finished hypothesis, with those that the candidates finish."""
        penalty = length_penalty(ops.cast(state.position + 1, "float32"), self.alpha)
        is_among_best = ops.arange(candidates.new_ids.shape[1]) < self.width
        is_last = (candidates.new_ids == self.end_id) | (state.position + 1 == self.max_length)
        is_finished = is_among_best & is_last & (candidates.log_probs > _IMPOSSIBLE / 2)
        scores = ops.where(is_finished, candidates.log_probs / penalty, _IMPOSSIBLE)
        winner = ops.argmax(scores, axis=-1)[:, None]
        score = ops.take_along_axis(scores, winner, axis=1)[:, 0]
        winner_ids = ops.take_along_axis(candidates.ids, winner[:, :, None], axis=1)[:, 0]
        is_better = score > state.best_score
        return ops.where(is_better[:, None], winner_ids, state.best_ids), ops.where(is_better, score, state.best_score)
