"""A block of a Transformer's decoder."""

from __future__ import annotations

from typing import Any

import keras
from keras.src import backend as keras_backend

from keras_notes._shared.checks import differ
from keras_notes.layers._block import Block
from keras_notes.layers._cache import Cache
from keras_notes.layers._initializers import seeds_from
from keras_notes.layers._multi_head_attention import MultiHeadAttention

__all__ = ["TransformerDecoder"]


@keras.saving.register_keras_serializable(package="keras_notes")
class TransformerDecoder(Block):
    """One block of a Transformer's decoder: causal self-attention, attention to a memory, a network for each position.

        x = norm(x + attention(x, x up to itself))
        x = norm(x + attention(x, memory))            if it was built with a memory
        outputs = norm(x + feed_forward(x))

    and with `norm_first` as in `TransformerEncoder`. Called without a memory at first, it is the block of a
    decoder-only network. Step by step, with a cache, it gives what it gives for the whole sequence.

    Args:
        num_heads: As all further arguments, of `TransformerEncoder`. `rotary` is of the self-attention.
        hidden_width: See there.
        **kwargs: See there, and `keras.layers.Layer`.

    Call arguments:
        inputs: Shape (batch, length, width), as the outputs.
        memory: Outputs of an encoder, of shape (batch, memory length, memory width).
        mask: Padding of shape (batch, length): False where nobody looks. Not with a cache.
        memory_mask: Padding of the memory, of shape (batch, memory length).
        attention_mask: True where a position may look at another, besides being no later; see `MultiHeadAttention`.
        return_attention_scores: Whether to return the scores: of the self-attention, of shape (batch, heads, length,
            length or max_length), and with a memory those on it (batch, heads, length, memory length).
        training: Whether to drop.
        cache: Keys and values of the positions so far, from `empty_cache`. Those of the inputs are written at
            `start_index`.
        memory_cache: Keys and values of the memory, from `project_memory`, in place of `memory`.
        start_index: Position of the first input: an integer, or a tensor of shape ().

    Returns:
        The outputs. With scores or a cache a tuple: `(outputs, scores)`, `(outputs, cache)` or
        `(outputs, scores, cache)`, where scores is a tuple of one or two.

    Masking:
        Keras masks of inputs and memory count as `mask` and `memory_mask`. That of the inputs is handed on.

    LiteRT:
        Those of `TransformerEncoder`; and SELECT_V2 for the causal mask, DYNAMIC_UPDATE_SLICE for the cache.

    Raises:
        ValueError: If an argument is out of its range, if shapes do not fit together, if positions reach past the
            cache, where they can be seen, or if the memory is missing or was not there when the block was built.

    Example:
        >>> import numpy as np
        >>> block, x = TransformerDecoder(2, 16), np.random.default_rng(0).normal(size=(1, 3, 8))
        >>> whole = block(x)
        >>> _, cache = block(x[:, :2], cache=block.empty_cache(1, 3))
        >>> last, cache = block(x[:, 2:], cache=cache, start_index=2)
        >>> bool(np.allclose(np.asarray(last), np.asarray(whole)[:, 2:], atol=1e-6))
        True

    References:
        Vaswani et al. 2017, section 3.1 (https://arxiv.org/abs/1706.03762).
    """

    def build(self, inputs_shape: Any, memory_shape: Any = None) -> None:
        seeds = seeds_from(self.seed, 5)
        rotary = {"rotary": self.rotary, "rotary_base": self.rotary_base}
        self.attention = self._attention("attention", inputs_shape, seeds[0], **rotary)
        self.attention.build(inputs_shape, inputs_shape)
        self.attention_norm, self.attention_dropout = self._around("attention", inputs_shape, seeds[1])
        self.memory_attention: MultiHeadAttention | None = None
        if memory_shape is not None:
            self.memory_attention = self._attention("memory_attention", inputs_shape, seeds[2])
            self.memory_attention.build(inputs_shape, memory_shape)
            self.memory_norm, self.memory_dropout = self._around("memory", inputs_shape, seeds[3])
        self.feed_forward = self._feed_forward(inputs_shape)
        self.feed_forward_norm, self.feed_forward_dropout = self._around("feed_forward", inputs_shape, seeds[4])

    def call(
        self,
        inputs: Any,
        memory: Any = None,
        mask: Any = None,
        memory_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        *,
        cache: Cache | None = None,
        memory_cache: Cache | None = None,
        start_index: Any = 0,
    ) -> Any:
        self._check_memory(inputs, memory, memory_cache)
        # Keras fills in `mask` for layers of one input only.
        mask = keras_backend.get_keras_mask(inputs) if mask is None else mask

        def attend(x):
            return self.attention(
                x,
                x,
                query_mask=mask,
                value_mask=mask,
                attention_mask=attention_mask,
                return_attention_scores=True,
                training=training,
                use_causal_mask=True,
                cache=cache,
                start_index=start_index,
            )

        def attend_memory(x):
            assert self.memory_attention is not None
            masks = {"query_mask": mask, "value_mask": memory_mask}
            options = {"return_attention_scores": True, "training": training, "cache": memory_cache}
            return self.memory_attention(x, memory if memory_cache is None else None, **masks, **options)

        x, *given = self._residual(inputs, attend, self.attention_norm, self.attention_dropout, training)
        scores: tuple[Any, ...] = (given[0],)
        if self.memory_attention is not None:
            x, on_memory = self._residual(x, attend_memory, self.memory_norm, self.memory_dropout, training)
            scores = (*scores, on_memory)
        (outputs,) = self._residual(
            x, lambda x: (self.feed_forward(x),), self.feed_forward_norm, self.feed_forward_dropout, training
        )
        more = (*((scores,) if return_attention_scores else ()), *given[1:])
        return (outputs, *more) if more else outputs

    def empty_cache(self, batch_size: int, max_length: int) -> Cache:
        """The cache to begin decoding with; see `MultiHeadAttention.empty_cache`."""
        return self.attention.empty_cache(batch_size, max_length)

    def project_memory(self, memory: Any) -> Cache:
        """What all steps of decoding look at, as `memory_cache`; see `MultiHeadAttention.project_memory`."""
        if self.memory_attention is None:
            raise ValueError(_BUILT_WITHOUT)
        return self.memory_attention.project_memory(memory)

    def _check_memory(self, inputs: Any, memory: Any, memory_cache: Cache | None) -> None:
        is_given = memory is not None or memory_cache is not None
        if is_given and self.memory_attention is None:
            raise ValueError(_BUILT_WITHOUT)
        if not is_given and self.memory_attention is not None:
            raise ValueError(
                "`memory` or `memory_cache` must be given to a block that was built with a memory. Received: neither."
            )
        if memory is not None and differ(memory.shape[:1], inputs.shape[:1]):
            raise ValueError(
                f"`inputs` and `memory` must have the same batch. Received: shapes {tuple(inputs.shape)} and "
                f"{tuple(memory.shape)}."
            )


_BUILT_WITHOUT = (
    "The block must be built with a memory to look at one. Received: a memory, after a first call without. "
    "Make another block for it."
)
