"""The Transformer: encoder and decoder, from sequences of ids to logits."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_between, check_choice, check_integer, received
from keras_notes._shared.types import Config, Tensor
from keras_notes.layers._block import NORMALIZATIONS, Block, create_normalization
from keras_notes.layers._cache import Cache
from keras_notes.layers._decoder import TransformerDecoder
from keras_notes.layers._encoder import TransformerEncoder
from keras_notes.layers._feed_forward import serialize_activation
from keras_notes.layers._initializers import Activation, derive_seeds
from keras_notes.layers._inputs import Index, Shape, check_ids, check_integer_dtype, check_within
from keras_notes.layers._multi_head_attention import check_groups
from keras_notes.layers._positional_encoding import PositionalEncoding

__all__ = ["Transformer"]

# Arguments that all blocks of encoder and decoder share.
_BLOCK_ARGUMENTS = ("num_heads", "hidden_width", "dropout", "activation", "normalization", "norm_first",
                    "num_key_value_heads")  # fmt: skip


@keras.saving.register_keras_serializable(package="keras_notes")
class Transformer(keras.Model):
    """Encoder and decoder, from ids of a source and of the target so far to logits of the target's next ids.

        x = embedding[ids] * sqrt(width) + positions
        memory = encoder blocks(x_source);  logits = decoder blocks(x_target, memory) W

    With `norm_first`, a normalization follows each stack of blocks. The constructor creates all weights.

    Args:
        source_vocabulary_size: Number of source ids, >= 1.
        target_vocabulary_size: Number of target ids, >= 1.
        num_layers: Number of blocks of encoder and decoder, >= 1 each: an integer for both, or a pair.
        width: Width of the vectors, >= 1; `num_heads` must divide it.
        num_heads: Number of heads of each attention, >= 1.
        hidden_width: Width of the hidden vectors of the feed-forward networks, >= 1.
        max_length: Largest length of source and target, >= 1, and size of the caches.
        dropout: Dropout rate in training, of the embedded sequences and in all blocks; in [0, 1].
        norm_first: Whether to normalize the inputs of the sublayers, or the sums behind them; see `TransformerEncoder`.
        activation: Activation of the feed-forward networks; see `TransformerEncoder`.
        normalization: Type of the normalizations: "layer", or "rms".
        num_key_value_heads: Number of heads of keys and values, a divisor of `num_heads`. Defaults to `num_heads`.
        rotary: Whether self-attention encodes positions by `apply_rotary`; else sines are added to the embeddings.
        share_embeddings: Whether source and target have a single embedding.
        tie_output: Whether W is the target's embedding; else the logits come from a dense layer with a bias.
        pad_id: Id of padding. Padded source positions are masked; target padding must be at the end, where causal
            masking hides it.
        seed: Seed of all dropout layers. None for a random one.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Pair of integers: source ids (batch, source length) and target ids (batch, target length).
        training: Whether to apply dropout.

    Returns:
        Logits of shape (batch, target length, target_vocabulary_size): those at a position are for the next id.

    Masking:
        Masks the source where it is `pad_id`. The outputs have no Keras mask: exclude padding from the loss by
        `ignore_class` or by weights.

    LiteRT:
        GATHER for the embeddings (with LESS, ADD and SELECT, by which Keras supports negative ids), the operators of
        the blocks, and FULLY_CONNECTED for the logits.

    Raises:
        TypeError: If ids are not integers, or a number has the wrong type.
        ValueError: If an argument is out of its range, if known ids are, or if a sequence is longer than `max_length`.

    Example:
        >>> import numpy as np
        >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
        >>> source, target = np.array([[3, 8, 0]]), np.array([[1, 4]])
        >>> logits = model((source, target))
        >>> memory = model.encode(source)
        >>> caches, memory_caches = model.start_caches(1), model.memory_caches(memory)
        >>> for position in range(2):
        ...     ids = target[:, position : position + 1]
        ...     step, caches = model.step(ids, caches, memory_caches, position, model.source_mask(source))
        >>> bool(np.allclose(np.asarray(step)[:, 0], np.asarray(logits)[:, 1], atol=1e-5))
        True

    References:
        Vaswani et al. 2017, section 3 (https://arxiv.org/abs/1706.03762).
        Press and Wolf 2017, Using the Output Embedding to Improve Language Models (https://arxiv.org/abs/1608.05859).
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        *,
        num_layers: int | tuple[int, int] = 6,
        width: int = 512,
        num_heads: int = 8,
        hidden_width: int = 2048,
        max_length: int = 512,
        dropout: float = 0.0,
        norm_first: bool = False,
        activation: Activation = "relu",
        normalization: str = "layer",
        num_key_value_heads: int | None = None,
        rotary: bool = False,
        share_embeddings: bool = False,
        tie_output: bool = True,
        pad_id: int = 0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_vocabulary_size = check_at_least("source_vocabulary_size", source_vocabulary_size, 1)
        self.target_vocabulary_size = check_at_least("target_vocabulary_size", target_vocabulary_size, 1)
        self.num_layers = _check_pair("num_layers", num_layers)
        self.width = check_at_least("width", width, 1)
        self.num_heads = check_at_least("num_heads", num_heads, 1)
        self.hidden_width = check_at_least("hidden_width", hidden_width, 1)
        self.max_length = check_at_least("max_length", max_length, 1)
        self.dropout = check_between("dropout", dropout, 0.0, 1.0)
        self.norm_first = bool(norm_first)
        self.activation = serialize_activation(activation)
        self.normalization = check_choice("normalization", normalization, tuple(NORMALIZATIONS))
        self.num_key_value_heads = check_groups(num_key_value_heads, self.num_heads)
        self.rotary = bool(rotary)
        self.share_embeddings = bool(share_embeddings)
        self.tie_output = bool(tie_output)
        self.pad_id = check_integer("pad_id", pad_id)
        self.seed = seed
        self._check_vocabularies()
        self._create_layers()
        self._build_layers()
        self.built = True

    def call(self, inputs: tuple[Tensor, Tensor], training: bool | None = None) -> Tensor:
        source_ids, target_ids = inputs
        memory = self.encode(source_ids, training=training)
        return self.decode(target_ids, memory, self.source_mask(source_ids), training=training)

    def source_mask(self, source_ids: Tensor) -> Tensor:
        """Computes the mask of the source: True where it is not padding.

        Args:
            source_ids: Integers of shape (batch, source length).

        Returns:
            Booleans of shape (batch, source length).

        Example:
            >>> import numpy as np
            >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
            >>> np.asarray(model.source_mask(np.array([[3, 8, 0]]))).tolist()
            [[True, True, False]]
        """
        return ops.not_equal(source_ids, self.pad_id)

    def encode(self, source_ids: Tensor, *, training: bool | None = None) -> Tensor:
        """Computes the memory of a source.

        Args:
            source_ids: Integers of shape (batch, source length).
            training: Whether to apply dropout.

        Returns:
            The memory, of shape (batch, source length, width).

        Raises:
            TypeError: If the ids are not integers.
            ValueError: If known ids are out of their range, or the source is longer than `max_length`.

        Example:
            >>> import numpy as np
            >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
            >>> model.encode(np.array([[3, 8, 0]])).shape == (1, 3, 8)
            True
        """
        mask = self.source_mask(source_ids)
        x = self._embed(source_ids, self.source_embedding, 0, training)
        for block in self.encoder_blocks:
            x = block(x, mask=mask, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def decode(
        self, target_ids: Tensor, memory: Tensor, source_mask: Tensor | None = None, *, training: bool | None = None
    ) -> Tensor:
        """Computes the logits of a whole target.

        Args:
            target_ids: Integers of shape (batch, target length).
            memory: Memory from `encode`.
            source_mask: Mask from `source_mask`; None if the source has no padding.
            training: Whether to apply dropout.

        Returns:
            Logits of shape (batch, target length, target_vocabulary_size).

        Raises:
            TypeError: If the ids are not integers.
            ValueError: If known ids are out of their range, or the target is longer than `max_length`.

        Example:
            >>> import numpy as np
            >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
            >>> source, target = np.array([[3, 8, 0]]), np.array([[1, 4]])
            >>> logits = model.decode(target, model.encode(source), model.source_mask(source))
            >>> bool((np.asarray(logits) == np.asarray(model((source, target)))).all())
            True
        """
        x = self._embed(target_ids, self.target_embedding, 0, training)
        for block in self.decoder_blocks:
            x = block(x, memory, memory_mask=source_mask, training=training)
        return self._logits(x)

    def start_caches(self, batch_size: int) -> tuple[Cache, ...]:
        """Returns the caches for the first step of decoding.

        Args:
            batch_size: Number of sequences.

        Returns:
            For each decoder block, zeros `(keys, values)` of shape (batch_size, key-value heads, max_length,
            width / heads).

        Example:
            >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
            >>> ((keys, values),) = model.start_caches(1)
            >>> tuple(keys.shape), tuple(values.shape)
            ((1, 2, 6, 4), (1, 2, 6, 4))
        """
        return tuple(block.empty_cache(batch_size, self.max_length) for block in self.decoder_blocks)

    def memory_caches(self, memory: Tensor) -> tuple[Cache, ...]:
        """Projects the memory once for all steps of decoding.

        Args:
            memory: Memory from `encode`.

        Returns:
            For each decoder block, `(keys, values)` of shape (batch, key-value heads, source length, width / heads).

        Example:
            >>> import numpy as np
            >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
            >>> ((keys, values),) = model.memory_caches(model.encode(np.array([[3, 8, 0]])))
            >>> tuple(keys.shape), tuple(values.shape)
            ((1, 2, 3, 4), (1, 2, 3, 4))
        """
        return tuple(block.project_memory(memory) for block in self.decoder_blocks)

    def step(
        self,
        target_ids: Tensor,
        caches: tuple[Cache, ...],
        memory_caches: tuple[Cache, ...],
        start_index: Index,
        source_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Cache, ...]]:
        """Computes the logits of one or more further positions, as `decode` computes them for the whole target.

        Args:
            target_ids: Integers of shape (batch, length): the ids from position `start_index` on.
            caches: Caches from the step before, or from `start_caches`.
            memory_caches: Caches from `memory_caches`.
            start_index: Position of the first id: an integer, or a tensor of shape ().
            source_mask: Mask from `source_mask`; None if the source has no padding.

        Returns:
            Logits of shape (batch, length, target_vocabulary_size), and the caches for the next step.

        Raises:
            TypeError: If the ids are not integers.
            ValueError: If known ids are out of their range, or known positions reach past `max_length`.

        Example:
            >>> import numpy as np
            >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
            >>> caches, memory = model.start_caches(1), model.memory_caches(model.encode(np.array([[3, 8]])))
            >>> logits, caches = model.step(np.array([[1]]), caches, memory, 0)
            >>> logits, caches = model.step(np.array([[4]]), caches, memory, 1)
            >>> logits.shape == (1, 1, 7)
            True
        """
        x = self._embed(target_ids, self.target_embedding, start_index, False)
        next_caches = []
        for block, cache, memory in zip(self.decoder_blocks, caches, memory_caches, strict=True):
            x, cache = block(
                x, memory_mask=source_mask, cache=cache, memory_cache=memory, start_index=start_index, training=False
            )
            next_caches.append(cache)
        return self._logits(x), tuple(next_caches)

    def compute_output_shape(self, input_shape: tuple[Shape, Shape]) -> Shape:
        return (*input_shape[1], self.target_vocabulary_size)

    def get_config(self) -> Config:
        names = ("source_vocabulary_size", "target_vocabulary_size", "num_layers", "width", "max_length", "rotary",
                 "share_embeddings", "tie_output", "pad_id", "seed", *_BLOCK_ARGUMENTS)  # fmt: skip
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            **{name: getattr(self, name) for name in names},
        }

    def _create_layers(self) -> None:
        dtype, (encoders, decoders) = self.dtype_policy, self.num_layers
        seeds = iter(derive_seeds(self.seed, encoders + decoders + 1))
        self.source_embedding = self._create_embedding("source_embedding", self.source_vocabulary_size)
        self.target_embedding = self.source_embedding
        if not self.share_embeddings:
            self.target_embedding = self._create_embedding("target_embedding", self.target_vocabulary_size)
        self.positions = self._create_positions(self.width**0.5)
        self.embedding_dropout = keras.layers.Dropout(
            self.dropout, seed=next(seeds), dtype=dtype, name="embedding_dropout"
        )
        self.encoder_blocks = [
            self._create_block(TransformerEncoder, f"encoder_{i}", next(seeds)) for i in range(encoders)
        ]
        self.decoder_blocks = [
            self._create_block(TransformerDecoder, f"decoder_{i}", next(seeds)) for i in range(decoders)
        ]
        self.encoder_norm = self._create_final_norm("encoder_norm")
        self.decoder_norm = self._create_final_norm("decoder_norm")
        self.output_dense = None
        if not self.tie_output:
            self.output_dense = keras.layers.Dense(self.target_vocabulary_size, dtype=dtype, name="output")

    def _create_block(self, block_class: type[Block], name: str, seed: int | None) -> Block:
        arguments = {argument: getattr(self, argument) for argument in _BLOCK_ARGUMENTS}
        return block_class(**arguments, rotary=self.rotary, seed=seed, dtype=self.dtype_policy, name=name)

    def _create_final_norm(self, name: str) -> keras.Layer | None:
        """Creates the normalization behind a stack of blocks, which only `norm_first` needs."""
        if not self.norm_first:
            return None
        return create_normalization(self.normalization, 1e-5, self.dtype_policy, name)

    def _create_positions(self, scale: float) -> keras.Layer:
        if self.rotary:
            return keras.layers.Rescaling(scale, dtype=self.dtype_policy, name="scale")
        return PositionalEncoding(self.max_length, scale=scale, dtype=self.dtype_policy, name="positions")

    def _build_layers(self) -> None:
        shape = (None, None, self.width)
        self.source_embedding.build((None, None))
        if not self.share_embeddings:
            self.target_embedding.build((None, None))
        for block in self.encoder_blocks:
            block.build(shape)
        for block in self.decoder_blocks:
            block.build(shape, shape)
        for layer in (self.positions, self.encoder_norm, self.decoder_norm, self.output_dense):
            if layer is not None:
                layer.build(shape)

    def _create_embedding(self, name: str, size: int) -> keras.layers.Embedding:
        # Multiplied by sqrt(width), the elements of the vectors have the standard deviation 1, similar to the sines.
        initializer = keras.initializers.RandomNormal(stddev=self.width**-0.5)
        return keras.layers.Embedding(size, self.width, initializer, dtype=self.dtype_policy, name=name)

    def _embed(
        self, ids: Tensor, embedding: keras.layers.Embedding, start_index: Index, training: bool | None
    ) -> Tensor:
        ids = ids if hasattr(ids, "dtype") else ops.convert_to_tensor(ids)
        check_integer_dtype(ids)
        check_ids(ids, embedding.input_dim, "Give a larger vocabulary size, or the id of an unknown word.")
        check_within(self.max_length, start_index, ids.shape[1])
        x = embedding(ids)
        x = self.positions(x) if self.rotary else self.positions(x, start_index=start_index)
        return self.embedding_dropout(x, training=training)

    def _logits(self, x: Tensor) -> Tensor:
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        if self.output_dense is not None:
            return self.output_dense(x)
        return ops.einsum("blw,vw->blv", x, self.target_embedding.embeddings)

    def _check_vocabularies(self) -> None:
        sizes = {"source_vocabulary_size": self.source_vocabulary_size,
                 "target_vocabulary_size": self.target_vocabulary_size}  # fmt: skip
        if self.share_embeddings and len(set(sizes.values())) != 1:
            raise ValueError(f"The vocabularies must be of one size for share_embeddings=True. {received(**sizes)}")


def _check_pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    first, second = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    return check_at_least(name, first, 1), check_at_least(name, second, 1)
