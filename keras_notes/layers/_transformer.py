"""The Transformer of encoder and decoder, for sequences of ids."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_integer, received
from keras_notes.layers._block import normalization_layer
from keras_notes.layers._cache import Cache
from keras_notes.layers._decoder import TransformerDecoder
from keras_notes.layers._encoder import TransformerEncoder
from keras_notes.layers._initializers import seeds_from
from keras_notes.layers._inputs import check_ids, check_integer_dtype, check_within
from keras_notes.layers._positional_encoding import PositionalEncoding

__all__ = ["Transformer"]


@keras.saving.register_keras_serializable(package="keras_notes")
class Transformer(keras.Model):
    """Encoder and decoder, from ids of a source and of the target so far to logits of the target's next ids.

        x = embedding[ids] * sqrt(width) + positions
        memory = encoder blocks(x_source);  logits = decoder blocks(x_target, memory) W

    with a normalization behind each stack if `norm_first`. All weights are created at once.

    Args:
        source_vocabulary_size: Number of source ids, >= 1.
        target_vocabulary_size: Number of target ids, >= 1.
        num_layers: Blocks of encoder and decoder, >= 1 each: one number, or a pair.
        width: Of the vectors, >= 1; `num_heads` must divide it.
        num_heads: Of each attention, >= 1.
        hidden_width: Of the feed-forward networks, >= 1.
        max_length: Positions of source and target, >= 1, and size of the caches.
        dropout: In training, also of the embedded sequences; in [0, 1].
        norm_first: See `TransformerEncoder`.
        activation: See there.
        normalization: See there.
        num_key_value_heads: See there.
        rotary: Whether self-attention knows positions by turning, in place of sines that are added to the embeddings.
        share_embeddings: Whether source and target have one embedding.
        tie_output: Whether W is the target's embedding; else a dense layer with a bias.
        pad_id: Of the source, what nobody looks at. Of the target it stands at the end, where nobody is who looks.
        seed: Of all dropout.
        **kwargs: As in `keras.Model`.

    Call arguments:
        inputs: A pair of integers: source ids (batch, source length) and target ids (batch, target length).
        training: Whether to drop.

    Returns:
        Logits of shape (batch, target length, target_vocabulary_size), each of the id that comes next.

    Masking:
        By `pad_id`. The outputs have no Keras mask: leave padding out of the loss by `ignore_class` or weights.

    LiteRT:
        GATHER for the embeddings (with LESS, ADD and SELECT, which Keras has for ids below 0), those of the blocks, and
        FULLY_CONNECTED for the logits.

    Raises:
        TypeError: If ids are no integers.
        ValueError: If an argument is out of its range, if ids that can be seen are, or if a sequence is longer than
            `max_length`.

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
        activation: Any = "relu",
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
        self.num_layers = _checked_pair("num_layers", num_layers)
        self.width = check_at_least("width", width, 1)
        self.max_length = check_at_least("max_length", max_length, 1)
        self.rotary = bool(rotary)
        self.share_embeddings = bool(share_embeddings)
        self.tie_output = bool(tie_output)
        self.pad_id = check_integer("pad_id", pad_id)
        self.seed = seed
        self._check_shared()
        self._arguments = {
            "num_heads": num_heads,
            "hidden_width": hidden_width,
            "dropout": dropout,
            "activation": activation,
            "normalization": normalization,
            "norm_first": norm_first,
            "num_key_value_heads": num_key_value_heads,
        }
        self._make_layers()
        self._build_layers()
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        source_ids, target_ids = inputs
        memory = self.encode(source_ids, training=training)
        return self.decode(target_ids, memory, self.source_mask(source_ids), training=training)

    def source_mask(self, source_ids: Any) -> Any:
        """True where the source is no padding: shape (batch, source length)."""
        return ops.not_equal(source_ids, self.pad_id)

    def encode(self, source_ids: Any, *, training: bool | None = None) -> Any:
        """The memory: shape (batch, source length, width)."""
        mask = self.source_mask(source_ids)
        x = self._embedded(source_ids, self.source_embedding, 0, training)
        for block in self.encoder_blocks:
            x = block(x, mask=mask, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def decode(self, target_ids: Any, memory: Any, source_mask: Any = None, *, training: bool | None = None) -> Any:
        """The logits of a whole target: shape (batch, target length, target_vocabulary_size).

        Args:
            target_ids: Shape (batch, target length).
            memory: What `encode` gives.
            source_mask: What `source_mask` gives; None if there is no padding.
            training: Whether to drop.
        """
        x = self._embedded(target_ids, self.target_embedding, 0, training)
        for block in self.decoder_blocks:
            x = block(x, memory, memory_mask=source_mask, training=training)
        return self._logits(x)

    def start_caches(self, batch_size: int) -> tuple[Cache, ...]:
        """The caches to begin decoding with, one a decoder block: zeros for `max_length` positions."""
        return tuple(block.empty_cache(batch_size, self.max_length) for block in self.decoder_blocks)

    def memory_caches(self, memory: Any) -> tuple[Cache, ...]:
        """Keys and values of the memory, one pair a decoder block: what all steps of decoding look at."""
        return tuple(block.project_memory(memory) for block in self.decoder_blocks)

    def step(
        self,
        target_ids: Any,
        caches: tuple[Cache, ...],
        memory_caches: tuple[Cache, ...],
        start_index: Any,
        source_mask: Any = None,
    ) -> tuple[Any, tuple[Cache, ...]]:
        """The logits of one or more further positions, as `decode` would give them for the whole target.

        Args:
            target_ids: Shape (batch, length): the ids from position `start_index` on.
            caches: Those of the step before, or `start_caches`.
            memory_caches: What `memory_caches` gives.
            start_index: An integer, or a tensor of shape ().
            source_mask: What `source_mask` gives; None if there is no padding.

        Returns:
            Logits of shape (batch, length, target_vocabulary_size), and the caches for the next step.
        """
        x = self._embedded(target_ids, self.target_embedding, start_index, False)
        after = []
        for block, cache, memory in zip(self.decoder_blocks, caches, memory_caches, strict=True):
            x, cache = block(
                x, memory_mask=source_mask, cache=cache, memory_cache=memory, start_index=start_index, training=False
            )
            after.append(cache)
        return self._logits(x), tuple(after)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[1], self.target_vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        names = ("source_vocabulary_size", "target_vocabulary_size", "num_layers", "width", "max_length", "rotary",
                 "share_embeddings", "tie_output", "pad_id", "seed")  # fmt: skip
        block = self.encoder_blocks[0].get_config()
        own = {"name": self.name, "trainable": self.trainable, "dtype": block["dtype"]}
        return {
            **own,
            **{name: getattr(self, name) for name in names},
            **{name: block[name] for name in self._arguments},
        }

    def _make_layers(self) -> None:
        dtype, (encoders, decoders) = self.dtype_policy, self.num_layers
        seeds = iter(seeds_from(self.seed, encoders + decoders + 1))
        self.source_embedding = self._embedding("source_embedding", self.source_vocabulary_size)
        self.target_embedding = self.source_embedding
        if not self.share_embeddings:
            self.target_embedding = self._embedding("target_embedding", self.target_vocabulary_size)
        self.positions = self._positions(self.width**0.5)
        dropout = self._arguments["dropout"]
        self.embedding_dropout = keras.layers.Dropout(dropout, seed=next(seeds), dtype=dtype, name="embedding_dropout")
        self.encoder_blocks = [self._block(TransformerEncoder, f"encoder_{i}", next(seeds)) for i in range(encoders)]
        self.decoder_blocks = [self._block(TransformerDecoder, f"decoder_{i}", next(seeds)) for i in range(decoders)]
        self.encoder_norm, self.decoder_norm = self._norm("encoder_norm"), self._norm("decoder_norm")
        self.output_dense = None
        if not self.tie_output:
            self.output_dense = keras.layers.Dense(self.target_vocabulary_size, dtype=dtype, name="output")

    def _block(self, kind: Any, name: str, seed: int | None) -> Any:
        return kind(**self._arguments, rotary=self.rotary, seed=seed, dtype=self.dtype_policy, name=name)

    def _norm(self, name: str) -> keras.Layer | None:
        """What a stack of blocks ends in, for only `norm_first` leaves it a sum."""
        if not self._arguments["norm_first"]:
            return None
        return normalization_layer(self._arguments["normalization"], epsilon=1e-5, dtype=self.dtype_policy, name=name)

    def _positions(self, scale: float) -> keras.Layer:
        if self.rotary:
            return keras.layers.Rescaling(scale, dtype=self.dtype_policy, name="scale")
        return PositionalEncoding(self.max_length, scale=scale, dtype=self.dtype_policy, name="positions")

    def _build_layers(self) -> None:
        shape = (None, None, self.width)
        for embedding in {id(one): one for one in (self.source_embedding, self.target_embedding)}.values():
            embedding.build((None, None))
        for block in self.encoder_blocks:
            block.build(shape)
        for block in self.decoder_blocks:
            block.build(shape, shape)
        for layer in (self.positions, self.encoder_norm, self.decoder_norm, self.output_dense):
            if layer is not None:
                layer.build(shape)

    def _embedding(self, name: str, size: int) -> keras.layers.Embedding:
        # Times sqrt(width), the vectors have elements of the size of the positions'.
        initializer = keras.initializers.RandomNormal(stddev=self.width**-0.5)
        return keras.layers.Embedding(size, self.width, initializer, dtype=self.dtype_policy, name=name)

    def _embedded(self, ids: Any, embedding: keras.layers.Embedding, start_index: Any, training: bool | None) -> Any:
        ids = ids if hasattr(ids, "dtype") else ops.convert_to_tensor(ids)
        check_integer_dtype(ids)
        check_ids(ids, embedding.input_dim, "Give a larger vocabulary size, or the id of an unknown word.")
        check_within(self.max_length, start_index, ids.shape[1])
        x = embedding(ids)
        x = self.positions(x) if self.rotary else self.positions(x, start_index=start_index)
        return self.embedding_dropout(x, training=training)

    def _logits(self, x: Any) -> Any:
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        if self.output_dense is not None:
            return self.output_dense(x)
        return ops.einsum("blw,vw->blv", x, self.target_embedding.embeddings)

    def _check_shared(self) -> None:
        sizes = {"source_vocabulary_size": self.source_vocabulary_size,
                 "target_vocabulary_size": self.target_vocabulary_size}  # fmt: skip
        if self.share_embeddings and len(set(sizes.values())) != 1:
            raise ValueError(f"The vocabularies must be of one size for share_embeddings=True. {received(**sizes)}")


def _checked_pair(name: str, value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    return check_at_least(name, first, 1), check_at_least(name, second, 1)
