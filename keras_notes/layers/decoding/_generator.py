"""Decoding as a model: a batch of sources in, ids and scores out, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_notes.layers.decoding._beam_search import beam_search, length_penalty
from keras_notes.layers.decoding._sampling import drawn_ids, likeliest_ids

__all__ = ["Generator", "Search"]


@dataclass(frozen=True)
class Search:
    """How to look for the ids: the arguments of `generate`."""

    start_id: int
    end_id: int
    max_length: int
    beam_width: int
    length_penalty: float
    temperature: float
    top_k: int | None
    top_p: float | None
    is_sampling: bool


class Generator(keras.Model):
    """From source ids (batch, length), and what chance gives (batch, max_length) if it samples, to ids and scores."""

    def __init__(self, transformer: Any, search: Search) -> None:
        super().__init__(name="generator")
        self.transformer = transformer
        self.search = search
        self.built = True

    def call(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        source_ids, *uniform = inputs
        search, batch_size = self.search, source_ids.shape[0]
        rows = batch_size * search.beam_width
        step = self._step(source_ids)
        # No longer than needed: each step looks at all of it.
        caches = keras.tree.map_structure(
            lambda cache: cache[:, :, : search.max_length], self.transformer.start_caches(rows)
        )
        ends = {"end_id": search.end_id, "pad_id": self.transformer.pad_id, "max_length": search.max_length}
        begin = {"batch_size": batch_size, "start_id": search.start_id, "alpha": search.length_penalty}
        if search.beam_width > 1:
            ids, scores = beam_search(step, caches, width=search.beam_width, **begin, **ends)
        else:
            ids, scores = one_by_one(step, caches, self._choose(*uniform), **begin, **ends)
        return {"ids": ids, "scores": scores}

    def _step(self, source_ids: Any) -> Callable:
        """From ids (rows,), caches and a position to log-probabilities (rows, vocabulary) and the next caches."""
        model, width = self.transformer, self.search.beam_width
        memory = model.memory_caches(model.encode(source_ids, training=False))
        mask = model.source_mask(source_ids)
        memory, mask = keras.tree.map_structure(lambda array: ops.repeat(array, width, axis=0), (memory, mask))

        def step(ids, caches, position):
            logits, caches = model.step(ids[:, None], caches, memory, position, mask)
            return ops.log_softmax(ops.cast(logits[:, 0], "float32")), caches

        return step

    def _choose(self, *uniform: Any) -> Callable:
        search = self.search
        if not search.is_sampling:
            return lambda log_probs, position: likeliest_ids(log_probs)
        (chances,) = uniform

        def draw(log_probs, position):
            uniform = ops.take(chances, position, axis=1)
            return drawn_ids(log_probs, uniform, temperature=search.temperature, top_k=search.top_k, top_p=search.top_p)

        return draw


def one_by_one(
    step: Callable,
    caches: Any,
    choose: Callable,
    *,
    batch_size: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    max_length: int,
    alpha: float,
) -> tuple[Any, Any]:
    """Appends the id that `choose(log_probs, position)` gives, until all samples have ended.

    The other arguments and the results are those of `beam_search`, of width 1.
    """
    places = ops.arange(max_length, dtype="int32")

    def goes_on(position, ids, last, has_ended, log_prob, length, caches):
        return (position < max_length) & ops.logical_not(ops.all(has_ended))

    def lengthen(position, ids, last, has_ended, log_prob, length, caches):
        log_probs, caches = step(last, caches, position)
        last = ops.where(has_ended, pad_id, choose(log_probs, position))
        chosen = ops.take_along_axis(log_probs, last[:, None], axis=1)[:, 0]
        log_prob = log_prob + ops.where(has_ended, 0.0, chosen)
        length = length + ops.where(has_ended, 0.0, 1.0)
        ids = ops.where(places == position, last[:, None], ids)
        return position + 1, ids, last, has_ended | (last == end_id), log_prob, length, caches

    start = (
        ops.convert_to_tensor(0, "int32"),
        ops.full((batch_size, max_length), pad_id, "int32"),
        ops.full((batch_size,), start_id, "int32"),
        ops.zeros((batch_size,), "bool"),
        ops.zeros((batch_size,), "float32"),
        ops.zeros((batch_size,), "float32"),
        caches,
    )
    _, ids, _, _, log_prob, length, _ = ops.while_loop(goes_on, lengthen, start)
    return ids, log_prob / length_penalty(length, alpha)
