"""Multi-head attention as a layer: projections, masks, positions and caches around the formula.

b batch, h heads, q queries, m keys, k width of a head.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_between, check_positive, differ, received
from keras_notes._shared.types import Config, Tensor, Tree
from keras_notes.layers._attention import scaled_dot_product_attention
from keras_notes.layers._cache import Cache, check_memory, empty_cache, update_cache
from keras_notes.layers._initializers import Constraint, Initializer, Regularizer, clone_initializer
from keras_notes.layers._inputs import Index, Shape
from keras_notes.layers._masks import causal_mask, combine_masks
from keras_notes.layers._rotary import check_rotary_width, rotary_waves, rotated

__all__ = ["MultiHeadAttention", "check_groups"]


@keras.saving.register_keras_serializable(package="keras_notes")
class MultiHeadAttention(keras.Layer):
    """Attention of several heads, in place of `keras.layers.MultiHeadAttention` and `GroupQueryAttention`.

        outputs = concat over heads of attention(x_q W_q, x_k W_k, x_v W_v)  W_o

    The weights have the shapes and the order of those layers, so `set_weights(other.get_weights())` works both ways.
    The differences: a query that may attend to no key attends to nothing (in Keras, to all keys alike), an explicit
    `query_mask` counts (Keras ignores it), keys and values can come from a cache, and positions can be rotary.

    Args:
        num_heads: Number of query heads, >= 1.
        key_dim: Width of a head of queries and keys, >= 1.
        value_dim: Width of a head of values, >= 1. Defaults to `key_dim`.
        dropout: Dropout rate of the scores in training, in [0, 1].
        use_bias: Whether the four projections add a bias.
        output_shape: Width of the outputs, >= 1. Defaults to the width of the queries.
        num_key_value_heads: Number of heads of keys and values, a divisor of `num_heads` (grouped queries). Defaults to
            `num_heads`.
        rotary: Whether queries and keys are rotated by their positions, as by `apply_rotary`.
        rotary_base: Base of `rotary_angles`, > 0.
        kernel_initializer: Initializer of the kernels.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Regularizer of the kernels.
        bias_regularizer: Regularizer of the biases.
        kernel_constraint: Constraint of the kernels.
        bias_constraint: Constraint of the biases.
        seed: Seed of the dropout. None for a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        query: Queries of shape (batch, queries, width).
        value: Values of shape (batch, keys, width); or None, to attend to the keys and values of `cache` as they are.
        key: Keys of shape (batch, keys, width). Defaults to `value`.
        query_mask: Padding of shape (batch, queries): a query attends to nothing where it is False.
        value_mask: Padding of shape (batch, keys): no query attends to a key where it is False.
        key_mask: Padding of shape (batch, keys), combined with `value_mask`: both must be True.
        attention_mask: Mask that is True where a query may attend to a key, of shape (batch, queries, keys), with or
            without heads after the batch; or (queries, keys). A length of 1 stands for all.
        return_attention_scores: Whether to return the scores, too.
        training: Whether to apply dropout to the scores.
        use_causal_mask: Whether a query attends to keys up to its own position only.
        cache: Keys and values of earlier positions, `(keys, values)` of shapes (batch, key-value heads, max_length,
            key_dim and value_dim), zeros at first. The keys and values of this call are written at `start_index`, and
            each query attends to keys up to its own position. For all masks, `max_length` is the number of keys.
        start_index: Position of the first query (and of the first key, unless keys come from a cache): an integer, or a
            tensor of shape ().

    Returns:
        The outputs (batch, queries, width). With `return_attention_scores` or a cache that was written, a tuple:
        `(outputs, scores)`, `(outputs, cache)` or `(outputs, scores, cache)`; scores are (batch, heads, queries, keys).

    Masking:
        Keras masks of query, value and key count as the explicit ones do. The mask of the query is passed on.

    LiteRT:
        FULLY_CONNECTED, RESHAPE, TRANSPOSE, MUL, BATCH_MATMUL, SOFTMAX; SELECT_V2 and LOGICAL_AND for masks; SLICE or
        STRIDED_SLICE, SUB, ADD and CONCATENATION for rotary positions; DYNAMIC_UPDATE_SLICE for the cache.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If an argument is out of its range, if shapes do not fit together, or if known positions reach past
            the cache.

    Example:
        >>> import numpy as np
        >>> layer, x = MultiHeadAttention(2, 4), np.ones((1, 3, 8), "float32")
        >>> outputs, scores = layer(x, x, use_causal_mask=True, return_attention_scores=True)
        >>> print(np.asarray(scores)[0, 0].round(2))
        [[1.   0.   0.  ]
         [0.5  0.5  0.  ]
         [0.33 0.33 0.33]]

    References:
        Vaswani et al. 2017, section 3.2.2 (https://arxiv.org/abs/1706.03762).
        Ainslie et al. 2023, GQA, section 2.2 (https://arxiv.org/abs/2305.13245).
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | None = None,
        *,
        num_key_value_heads: int | None = None,
        rotary: bool = False,
        rotary_base: float = 10000.0,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer | None = None,
        bias_regularizer: Regularizer | None = None,
        kernel_constraint: Constraint | None = None,
        bias_constraint: Constraint | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = check_at_least("num_heads", num_heads, 1)
        self.key_dim = check_at_least("key_dim", key_dim, 1)
        self.value_dim = self.key_dim if value_dim is None else check_at_least("value_dim", value_dim, 1)
        self.dropout = check_between("dropout", dropout, 0.0, 1.0)
        self.use_bias = bool(use_bias)
        self.output_width = None if output_shape is None else check_at_least("output_shape", output_shape, 1)
        self.num_key_value_heads = check_groups(num_key_value_heads, self.num_heads)
        self.rotary = bool(rotary)
        self.rotary_base = check_positive("rotary_base", rotary_base)
        if self.rotary:
            check_rotary_width("key_dim", self.key_dim)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.seed = seed
        self.supports_masking = True

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        key_shape = value_shape if key_shape is None else key_shape
        _check_shapes(query_shape, value_shape, key_shape)
        groups = self.num_key_value_heads
        width = query_shape[-1] if self.output_width is None else self.output_width
        self.query_dense = self._projection("query", "abc,cde->abde", (None, self.num_heads, self.key_dim))
        self.key_dense = self._projection("key", "abc,cde->abde", (None, groups, self.key_dim))
        self.value_dense = self._projection("value", "abc,cde->abde", (None, groups, self.value_dim))
        self.output_dense = self._projection("attention_output", "abcd,cde->abe", (None, width))
        self.query_dense.build(query_shape)
        self.key_dense.build(key_shape)
        self.value_dense.build(value_shape)
        self.output_dense.build((*query_shape[:-1], self.num_heads, self.value_dim))
        self.softmax = keras.layers.Softmax(dtype=self.dtype_policy, name="softmax")
        self.dropout_layer = keras.layers.Dropout(self.dropout, seed=self.seed, dtype=self.dtype_policy, name="dropout")

    def call(
        self,
        query: Tensor,
        value: Tensor | None,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
        *,
        cache: Cache | None = None,
        start_index: Index = 0,
    ) -> Tree:
        is_writing = cache is not None and value is not None
        queries = self._rotate(_project_heads(self.query_dense, query), start_index, cache)
        keys, values = self._keys_and_values(value, key, cache, start_index)
        shape = (query.shape[0], self.num_heads, query.shape[1], keys.shape[2])
        causal = None
        if use_causal_mask or is_writing:
            causal = causal_mask(ops.shape(query)[1], ops.shape(keys)[2], 0 if cache is None else start_index)
        mask = combine_masks(shape, query_mask, value_mask, key_mask, attention_mask, causal)
        dropout = functools.partial(self.dropout_layer, training=training) if self.dropout else None
        outputs_bhqv, scores = scaled_dot_product_attention(
            queries, keys, values, mask, softmax=self.softmax, dropout=dropout
        )
        outputs = _restore_length(query, self.output_dense(ops.transpose(outputs_bhqv, (0, 2, 1, 3))))
        others = (*((scores,) if return_attention_scores else ()), *(((keys, values),) if is_writing else ()))
        return (outputs, *others) if others else outputs

    def project_memory(self, value: Tensor, key: Tensor | None = None) -> Cache:
        """Projects a sequence that several calls attend to, for calls with `value=None` and this cache.

        Args:
            value: Values of shape (batch, keys, width).
            key: Keys of shape (batch, keys, width). Defaults to `value`.

        Returns:
            `(keys, values)` of shapes (batch, key-value heads, keys, key_dim and value_dim).

        Example:
            >>> import numpy as np
            >>> layer, x, memory = MultiHeadAttention(2, 4), np.ones((1, 3, 8)), np.ones((1, 5, 6))
            >>> whole = layer(x, memory)
            >>> bool((np.asarray(layer(x, None, cache=layer.project_memory(memory))) == np.asarray(whole)).all())
            True
        """
        keys = _project_heads(self.key_dense, value if key is None else key)
        return self._rotate(keys, 0, None), _project_heads(self.value_dense, value)

    def empty_cache(self, batch_size: int, max_length: int) -> Cache:
        """Returns the cache for the first step of decoding.

        Args:
            batch_size: Number of sequences.
            max_length: Number of positions.

        Returns:
            Zeros `(keys, values)` of shapes (batch_size, key-value heads, max_length, key_dim and value_dim).

        Example:
            >>> keys, values = MultiHeadAttention(2, 4, value_dim=3).empty_cache(1, 9)
            >>> tuple(keys.shape), tuple(values.shape)
            ((1, 2, 9, 4), (1, 2, 9, 3))
        """
        shape = (batch_size, self.num_key_value_heads, max_length)
        return empty_cache(shape, self.key_dim, self.value_dim, self.compute_dtype)

    def compute_output_shape(
        self, query_shape: Shape, value_shape: Shape | None = None, key_shape: Shape | None = None
    ) -> Shape:
        return (*query_shape[:-1], query_shape[-1] if self.output_width is None else self.output_width)

    def compute_output_spec(self, *args: Tree, **kwargs: Tree) -> Tree:
        # From a symbolic call: the results may include scores and a cache.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> Config:
        names = ("num_heads", "key_dim", "value_dim", "dropout", "use_bias", "num_key_value_heads", "rotary",
                 "rotary_base", "seed")  # fmt: skip
        initializers = ("kernel_initializer", "bias_initializer")
        regularizers = ("kernel_regularizer", "bias_regularizer")
        constraints = ("kernel_constraint", "bias_constraint")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "output_shape": self.output_width,
            **{name: keras.initializers.serialize(getattr(self, name)) for name in initializers},
            **{name: keras.regularizers.serialize(getattr(self, name)) for name in regularizers},
            **{name: keras.constraints.serialize(getattr(self, name)) for name in constraints},
        }

    def _projection(self, name: str, equation: str, output_shape: tuple[int | None, ...]) -> keras.layers.EinsumDense:
        bias_axes = equation.split("->")[1][2:]
        projection = keras.layers.EinsumDense(
            equation,
            output_shape,
            bias_axes=bias_axes if self.use_bias else None,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=clone_initializer(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name=name,
        )
        projection.supports_masking = True  # this layer applies the masks; Keras would warn that they are lost
        return projection

    def _keys_and_values(
        self, value: Tensor | None, key: Tensor | None, cache: Cache | None, start_index: Index
    ) -> Cache:
        if value is None:
            return check_memory(cache)
        key = value if key is None else key
        keys = self._rotate(_project_heads(self.key_dense, key), start_index, cache)
        values = _project_heads(self.value_dense, value)
        return (keys, values) if cache is None else update_cache(cache, keys, values, start_index)

    def _rotate(self, x_bhqk: Tensor, start_index: Index, cache: Cache | None) -> Tensor:
        if not self.rotary:
            return x_bhqk
        max_length = None if cache is None else cache[0].shape[2]
        waves = rotary_waves(start_index, ops.shape(x_bhqk)[2], max_length, self.key_dim, self.rotary_base)
        return rotated(x_bhqk, *waves)


def _project_heads(projection: keras.layers.EinsumDense, x: Tensor) -> Tensor:
    """Projects a sequence to heads, of shape (b, h, q, k)."""
    return ops.transpose(_restore_length(x, projection(x)), (0, 2, 1, 3))


def _restore_length(x: Tensor, projected: Tensor) -> Tensor:
    """Restores the length of a projected sequence, which EinsumDense loses if its inputs are symbolic."""
    if projected.shape[1] is not None or x.shape[1] is None:
        return projected
    return ops.reshape(projected, (-1, x.shape[1], *projected.shape[2:]))


def check_groups(num_key_value_heads: int | None, num_heads: int) -> int:
    """Returns the number of heads of keys and values, which must divide `num_heads`; `num_heads` if it is None."""
    if num_key_value_heads is None:
        return num_heads
    groups = check_at_least("num_key_value_heads", num_key_value_heads, 1)
    if num_heads % groups:
        raise ValueError(
            f"`num_key_value_heads` must divide `num_heads`. "
            f"{received(num_key_value_heads=groups, num_heads=num_heads)}"
        )
    return groups


def _check_shapes(query_shape: Shape, value_shape: Shape, key_shape: Shape) -> None:
    for name, shape in (("query", query_shape), ("value", value_shape), ("key", key_shape)):
        if len(shape) != 3:
            raise ValueError(f"`{name}` must have shape (batch, length, width). Received: shape {tuple(shape)}.")
    if differ(value_shape[:-1], key_shape[:-1]):
        raise ValueError(
            f"`value` and `key` must have the same batch and length. Received: shapes {tuple(value_shape)} and "
            f"{tuple(key_shape)}."
        )
