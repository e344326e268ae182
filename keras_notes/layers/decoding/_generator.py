"""Decoding as a model: a batch of sources in, ids and scores out, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.layers._cache import Cache
from keras_notes.layers._inputs import Index
from keras_notes.layers.decoding._beam_search import BeamSearch, length_penalty
from keras_notes.layers.decoding._sampling import likeliest_ids, sample_ids

__all__ = ["DecodingModel", "Generator", "SearchOptions"]


class DecodingModel(Protocol):
    """The part of a `Transformer` that decoding uses; see its methods."""

    max_length: int
    pad_id: int
    variables: Sequence[keras.Variable]

    def source_mask(self, source_ids: Tensor) -> Tensor: ...

    def encode(self, source_ids: Tensor, *, training: bool | None = None) -> Tensor: ...

    def memory_caches(self, memory: Tensor) -> tuple[Cache, ...]: ...

    def start_caches(self, batch_size: int) -> tuple[Cache, ...]: ...

    def step(
        self,
        target_ids: Tensor,
        caches: tuple[Cache, ...],
        memory_caches: tuple[Cache, ...],
        start_index: Index,
        source_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Cache, ...]]: ...


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search for the ids: the arguments of `generate`."""

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
    """From source ids (batch, length), and uniform numbers (batch, max_length) if it samples, to ids and scores."""

    def __init__(self, transformer: DecodingModel, options: SearchOptions) -> None:
        super().__init__(name="generator")
        self.transformer = transformer
        self.options = options
        self.built = True

    def call(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        source_ids, *uniform = inputs
        options, batch_size = self.options, source_ids.shape[0]
        step = self._make_step(source_ids)
        # Not longer than needed, because each step attends to all positions.
        caches = keras.tree.map_structure(
            lambda cache: cache[:, :, : options.max_length],
            self.transformer.start_caches(batch_size * options.beam_width),
        )
        arguments = {
            "batch_size": batch_size,
            "start_id": options.start_id,
            "end_id": options.end_id,
            "pad_id": self.transformer.pad_id,
            "max_length": options.max_length,
            "alpha": options.length_penalty,
        }
        if options.beam_width > 1:
            ids, scores = BeamSearch(step, width=options.beam_width, **arguments).run(caches)
        else:
            ids, scores = SinglePathSearch(step, self._make_choice(*uniform), **arguments).run(caches)
        return {"ids": ids, "scores": scores}

    def _make_step(self, source_ids: Tensor) -> Callable:
        """Returns a function from ids (rows,), caches and a position to log-probabilities (rows, v) and next caches."""
        model, width = self.transformer, self.options.beam_width
        memory = model.memory_caches(model.encode(source_ids, training=False))
        mask = model.source_mask(source_ids)
        memory, mask = keras.tree.map_structure(lambda array: ops.repeat(array, width, axis=0), (memory, mask))

        def step(ids, caches, position):
            logits, caches = model.step(ids[:, None], caches, memory, position, mask)
            return ops.log_softmax(ops.cast(logits[:, 0], "float32")), caches

        return step

    def _make_choice(self, *uniform: Tensor) -> Callable:
        """Returns a function from log-probabilities (rows, v) and a position to ids (rows,)."""
        options = self.options
        if not options.is_sampling:
            return lambda log_probs, position: likeliest_ids(log_probs)
        (numbers,) = uniform

        def sample(log_probs, position):
            numbers_at_position = ops.take(numbers, position, axis=1)
            return sample_ids(
                log_probs,
                numbers_at_position,
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
            )

        return sample


class _State(NamedTuple):
    """The variables of the loop over the positions of a target, for b samples of t ids."""

    position: Tensor
    """Number of ids so far, of shape ()."""
    ids: Tensor
    """Ids so far, of shape (b, t)."""
    last_ids: Tensor
    """Last id of each sample, of shape (b,)."""
    has_ended: Tensor
    """Whether a sample has its last id, of shape (b,)."""
    log_prob: Tensor
    """Log-probability of the ids, of shape (b,)."""
    length: Tensor
    """Number of ids without padding, of shape (b,)."""
    caches: tuple[Cache, ...]
    """Caches of the samples."""


@dataclass(frozen=True)
class SinglePathSearch:
    """A search that appends the id of `choose(log_probs, position)` until all samples have ended.

    The other arguments and the results are those of `BeamSearch` with a width of 1.
    """

    step: Callable
    choose: Callable
    batch_size: int
    start_id: int
    end_id: int
    pad_id: int
    max_length: int
    alpha: float

    def run(self, caches: tuple[Cache, ...]) -> tuple[Tensor, Tensor]:
        """Searches; returns ids of shape (b, max_length), and scores of shape (b,)."""
        batch_size = self.batch_size
        first_state = _State(
            position=ops.convert_to_tensor(0, "int32"),
            ids=ops.full((batch_size, self.max_length), self.pad_id, "int32"),
            last_ids=ops.full((batch_size,), self.start_id, "int32"),
            has_ended=ops.zeros((batch_size,), "bool"),
            log_prob=ops.zeros((batch_size,), "float32"),
            length=ops.zeros((batch_size,), "float32"),
            caches=caches,
        )
        state = _State(*ops.while_loop(self._is_unfinished, self._advance, tuple(first_state)))
        return state.ids, state.log_prob / length_penalty(state.length, self.alpha)

    def _is_unfinished(self, *variables: Tensor) -> Tensor:
        state = _State(*variables)
        return (state.position < self.max_length) & ops.logical_not(ops.all(state.has_ended))

    def _advance(self, *variables: Tensor) -> tuple:
        """Appends an id to each sample."""
        state = _State(*variables)
        log_probs, caches = self.step(state.last_ids, state.caches, state.position)
        new_ids = ops.where(state.has_ended, self.pad_id, self.choose(log_probs, state.position))
        new_log_probs = ops.take_along_axis(log_probs, new_ids[:, None], axis=1)[:, 0]
        positions = ops.arange(self.max_length, dtype="int32")
        return tuple(
            _State(
                position=state.position + 1,
                ids=ops.where(positions == state.position, new_ids[:, None], state.ids),
                last_ids=new_ids,
                has_ended=state.has_ended | (new_ids == self.end_id),
                log_prob=state.log_prob + ops.where(state.has_ended, 0.0, new_log_probs),
                length=state.length + ops.where(state.has_ended, 0.0, 1.0),
                caches=caches,
            )
        )
