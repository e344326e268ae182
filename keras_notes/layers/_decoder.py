"""The block of a Transformer's decoder."""

from __future__ import annotations

import keras

from keras_notes._shared.checks import differ
from keras_notes._shared.keras_internals import get_mask
from keras_notes._shared.types import Tensor, Tree
from keras_notes.layers._block import Block
from keras_notes.layers._cache import Cache
from keras_notes.layers._initializers import derive_seeds
from keras_notes.layers._inputs import Index, Shape
from keras_notes.layers._multi_head_attention import MultiHeadAttention

__all__ = ["TransformerDecoder"]


@keras.saving.register_keras_serializable(package="keras_notes")
class TransformerDecoder(Block):
    """One block of a Transformer's decoder: causal self-attention, attention to a memory, and a feed-forward network.

        x = norm(x + attention(x, x up to itself))
        x = norm(x + attention(x, memory))            if the block was built with a memory
        outputs = norm(x + feed_forward(x))

    With `norm_first`, the normalizations are placed as in `TransformerEncoder`. A block whose first call has no memory
    is the block of a decoder-only network. Step by step, with a cache, the outputs are those of the whole sequence.

    Args:
        num_heads: Number of heads of each attention, >= 1; must divide the width.
        hidden_width: Width of the hidden vectors of the feed-forward network, >= 1.
        dropout: Dropout rate in training, of the scores and of the outputs of all sublayers; in [0, 1].
        activation: Activation of the feed-forward network; see `TransformerEncoder`.
        normalization: Type of the normalizations: "layer", or "rms".
        norm_first: Whether to normalize the inputs of the sublayers, or the sums behind them.
        num_key_value_heads: Number of heads of keys and values, a divisor of `num_heads`. Defaults to `num_heads`.
        rotary: Whether the self-attention encodes positions by `apply_rotary`; the width of a head must be even then.
        rotary_base: Base of `rotary_angles`, > 0.
        use_bias: Whether projections and dense layers add a bias.
        epsilon: Number that the normalizations add to the variance, > 0.
        kernel_initializer: Initializer of the kernels.
        seed: Seed of all dropout layers. None for a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequence of shape (batch, length, width).
        memory: Outputs of an encoder, of shape (batch, memory length, memory width).
        mask: Padding of shape (batch, length): no position attends to another where it is False. Not with a cache.
        memory_mask: Padding of the memory, of shape (batch, memory length).
        attention_mask: Mask that is True where a position may attend to another; later positions are masked in any
            case. See `MultiHeadAttention`.
        return_attention_scores: Whether to return the scores: of the self-attention, of shape (batch, heads, length,
            length or max_length), and with a memory also of the attention to it, (batch, heads, length, memory length).
        training: Whether to apply dropout.
        cache: Keys and values of earlier positions, from `empty_cache` or the step before. Those of the inputs are
            written at `start_index`.
        memory_cache: Keys and values of the memory, from `project_memory`, in place of `memory`.
        start_index: Position of the first input: an integer, or a tensor of shape ().

    Returns:
        The outputs of shape (batch, length, width). With scores or a cache a tuple: `(outputs, scores)`,
        `(outputs, cache)` or `(outputs, scores, cache)`, where scores is a tuple of one or two.

    Masking:
        Keras masks of inputs and memory count as `mask` and `memory_mask`. The mask of the inputs is passed on.

    LiteRT:
        The operators of `TransformerEncoder`; SELECT_V2 for the causal mask, DYNAMIC_UPDATE_SLICE for the cache.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If an argument is out of its range, if shapes do not fit together, if known positions reach past
            the cache, or if the memory is missing although the block was built with one, or the other way round.

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

    def build(self, inputs_shape: Shape, memory_shape: Shape | None = None) -> None:
        seeds = derive_seeds(self.seed, 5)
        self.attention = self._create_attention("attention", inputs_shape, inputs_shape, seeds[0], rotary=self.rotary)
        self.attention_norm, self.attention_dropout = self._create_norm_and_dropout("attention", inputs_shape, seeds[1])
        self.memory_attention: MultiHeadAttention | None = None
        if memory_shape is not None:
            self.memory_attention = self._create_attention(
                "memory_attention", inputs_shape, memory_shape, seeds[2], rotary=False
            )
            self.memory_norm, self.memory_dropout = self._create_norm_and_dropout("memory", inputs_shape, seeds[3])
        self.feed_forward = self._create_feed_forward(inputs_shape)
        self.feed_forward_norm, self.feed_forward_dropout = self._create_norm_and_dropout(
            "feed_forward", inputs_shape, seeds[4]
        )

    def call(
        self,
        inputs: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        *,
        cache: Cache | None = None,
        memory_cache: Cache | None = None,
        start_index: Index = 0,
    ) -> Tree:
        self._check_memory(inputs, memory, memory_cache)
        # Keras fills in `mask` only for layers with a single input.
        mask = get_mask(inputs) if mask is None else mask

        def attend(x):
            masks = {"query_mask": mask, "value_mask": mask, "attention_mask": attention_mask, "use_causal_mask": True}
            position = {"cache": cache, "start_index": start_index}
            return self.attention(x, x, **masks, **position, return_attention_scores=True, training=training)

        x, self_scores, *next_cache = self._apply_sublayer(
            inputs, attend, self.attention_norm, self.attention_dropout, training
        )
        scores: tuple[Tensor, ...] = (self_scores,)
        if self.memory_attention is not None:
            masks = {"query_mask": mask, "value_mask": memory_mask}
            x, memory_scores = self._attend_to_memory(self.memory_attention, x, memory, memory_cache, masks, training)
            scores = (self_scores, memory_scores)
        outputs = self._apply_feed_forward(x, training)
        others = (*((scores,) if return_attention_scores else ()), *next_cache)
        return (outputs, *others) if others else outputs

    def empty_cache(self, batch_size: int, max_length: int) -> Cache:
        """Returns the cache for the first step of decoding; see `MultiHeadAttention.empty_cache`.

        Args:
            batch_size: Number of sequences.
            max_length: Number of positions.

        Returns:
            Zeros `(keys, values)`, each of shape (batch_size, key-value heads, max_length, width / heads).

        Example:
            >>> import numpy as np
            >>> block = TransformerDecoder(2, 16)
            >>> outputs = block(np.ones((1, 3, 8)))  # builds the block
            >>> keys, values = block.empty_cache(1, 9)
            >>> tuple(keys.shape), tuple(values.shape)
            ((1, 2, 9, 4), (1, 2, 9, 4))
        """
        return self.attention.empty_cache(batch_size, max_length)

    def project_memory(self, memory: Tensor) -> Cache:
        """Projects the memory once for all steps of decoding; see `MultiHeadAttention.project_memory`.

        Args:
            memory: Outputs of an encoder, of shape (batch, memory length, memory width).

        Returns:
            `(keys, values)`, each of shape (batch, key-value heads, memory length, width / heads): the `memory_cache`
            of further calls.

        Raises:
            ValueError: If the block was built without a memory.

        Example:
            >>> import numpy as np
            >>> block, x, memory = TransformerDecoder(2, 16), np.ones((1, 3, 8)), np.ones((1, 5, 6))
            >>> whole = block(x, memory)
            >>> outputs = block(x, memory_cache=block.project_memory(memory))
            >>> bool((np.asarray(outputs) == np.asarray(whole)).all())
            True
        """
        if self.memory_attention is None:
            raise ValueError(_BUILT_WITHOUT_MEMORY)
        return self.memory_attention.project_memory(memory)

    def _attend_to_memory(
        self,
        attention: MultiHeadAttention,
        x: Tensor,
        memory: Tensor | None,
        memory_cache: Cache | None,
        masks: dict[str, Tensor | None],
        training: bool | None,
    ) -> tuple[Tensor, Tensor]:
        """Applies the attention to the memory, or to its cache; returns outputs and scores."""
        value = memory if memory_cache is None else None

        def attend(x):
            options = {"return_attention_scores": True, "training": training, "cache": memory_cache}
            return attention(x, value, **masks, **options)

        outputs, scores = self._apply_sublayer(x, attend, self.memory_norm, self.memory_dropout, training)
        return outputs, scores

    def _check_memory(self, inputs: Tensor, memory: Tensor | None, memory_cache: Cache | None) -> None:
        has_memory = memory is not None or memory_cache is not None
        if has_memory and self.memory_attention is None:
            raise ValueError(_BUILT_WITHOUT_MEMORY)
        if not has_memory and self.memory_attention is not None:
            raise ValueError(
                "`memory` or `memory_cache` must be given to a block that was built with a memory. Received: neither."
            )
        if memory is not None and differ(memory.shape[:1], inputs.shape[:1]):
            raise ValueError(
                f"`inputs` and `memory` must have the same batch. Received: shapes {tuple(inputs.shape)} and "
                f"{tuple(memory.shape)}."
            )


_BUILT_WITHOUT_MEMORY = (
    "The block must be built with a memory to attend to one. Received: a memory, after a first call without. "
    "Make another block for it."
)
