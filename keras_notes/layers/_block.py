"""Base class of the blocks of encoder and decoder: arguments, and sublayers with a residual connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_notes._shared.checks import check_at_least, check_between, check_choice, check_positive, received
from keras_notes._shared.types import Config, DType, Tensor, Tree
from keras_notes.layers._feed_forward import FeedForward, serialize_activation
from keras_notes.layers._initializers import Activation, Initializer, clone_initializer
from keras_notes.layers._inputs import Shape
from keras_notes.layers._multi_head_attention import MultiHeadAttention, check_groups

__all__ = ["NORMALIZATIONS", "Block", "create_normalization"]

NORMALIZATIONS = {"layer": keras.layers.LayerNormalization, "rms": keras.layers.RMSNormalization}


def create_normalization(normalization: str, epsilon: float, dtype: DType, name: str) -> keras.Layer:
    """Creates a normalization over the last axis: "layer" or "rms"."""
    layer = NORMALIZATIONS[normalization](epsilon=epsilon, dtype=dtype, name=name)
    layer.supports_masking = True  # true of every layer that treats positions alike; Keras lacks it for RMS
    return layer


class Block(keras.Layer):
    """Base class of the blocks of a Transformer; see `TransformerEncoder` for the arguments."""

    def __init__(
        self,
        num_heads: int,
        hidden_width: int,
        *,
        dropout: float = 0.0,
        activation: Activation = "relu",
        normalization: str = "layer",
        norm_first: bool = False,
        num_key_value_heads: int | None = None,
        rotary: bool = False,
        rotary_base: float = 10000.0,
        use_bias: bool = True,
        epsilon: float = 1e-5,
        kernel_initializer: Initializer = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = check_at_least("num_heads", num_heads, 1)
        self.hidden_width = check_at_least("hidden_width", hidden_width, 1)
        self.dropout = check_between("dropout", dropout, 0.0, 1.0)
        self.activation = serialize_activation(activation)
        self.normalization = check_choice("normalization", normalization, tuple(NORMALIZATIONS))
        self.norm_first = bool(norm_first)
        self.num_key_value_heads = check_groups(num_key_value_heads, self.num_heads)
        self.rotary = bool(rotary)
        self.rotary_base = check_positive("rotary_base", rotary_base)
        self.use_bias = bool(use_bias)
        self.epsilon = check_positive("epsilon", epsilon)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.supports_masking = True

    def compute_output_shape(self, inputs_shape: Shape, memory_shape: Shape | None = None) -> Shape:
        return tuple(inputs_shape)

    def compute_output_spec(self, *args: Tree, **kwargs: Tree) -> Tree:
        # From a symbolic call: the results may include scores and a cache.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> Config:
        names = ("num_heads", "hidden_width", "dropout", "activation", "normalization", "norm_first",
                 "num_key_value_heads", "rotary", "rotary_base", "use_bias", "epsilon", "seed")  # fmt: skip
        initializer = {"kernel_initializer": keras.initializers.serialize(self.kernel_initializer)}
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, **initializer}

    def _create_attention(
        self, name: str, inputs_shape: Shape, memory_shape: Shape, seed: int | None, *, rotary: bool
    ) -> MultiHeadAttention:
        """Creates an attention whose heads share the width of the inputs."""
        if len(inputs_shape) != 3 or inputs_shape[-1] is None or inputs_shape[-1] % self.num_heads:
            raise ValueError(
                f"The inputs must have shape (batch, length, width) with a width that `num_heads` divides. "
                f"{received(num_heads=self.num_heads)} The inputs have shape {tuple(inputs_shape)}."
            )
        attention = MultiHeadAttention(
            self.num_heads,
            inputs_shape[-1] // self.num_heads,
            dropout=self.dropout,
            use_bias=self.use_bias,
            num_key_value_heads=self.num_key_value_heads,
            rotary=rotary,
            rotary_base=self.rotary_base,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            seed=seed,
            dtype=self.dtype_policy,
            name=name,
        )
        attention.build(inputs_shape, memory_shape)
        return attention

    def _create_feed_forward(self, inputs_shape: Shape) -> FeedForward:
        layer = FeedForward(
            self.hidden_width,
            self.activation,
            use_bias=self.use_bias,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        layer.build(inputs_shape)
        return layer

    def _create_norm_and_dropout(
        self, name: str, inputs_shape: Shape, seed: int | None
    ) -> tuple[keras.Layer, keras.layers.Dropout]:
        """Creates the normalization and the dropout around a sublayer."""
        norm = create_normalization(self.normalization, self.epsilon, self.dtype_policy, f"{name}_norm")
        norm.build(inputs_shape)
        return norm, keras.layers.Dropout(self.dropout, seed=seed, dtype=self.dtype_policy, name=f"{name}_dropout")

    def _apply_sublayer(
        self,
        x: Tensor,
        sublayer: Callable[[Tensor], tuple],
        norm: keras.Layer,
        dropout: keras.layers.Dropout,
        training: bool | None,
    ) -> tuple:
        """Applies a sublayer with its residual connection.

        `norm_first`: x + dropout(sublayer(norm(x))); else norm(x + dropout(sublayer(x))).

        Args:
            x: Inputs of shape (batch, length, width).
            sublayer: Function that returns a tuple: outputs of the shape of `x`, and further results.
            norm: Normalization.
            dropout: Dropout of the outputs.
            training: Whether to apply the dropout.

        Returns:
            A tuple: the sum, and the further results of the sublayer.
        """
        outputs, *others = sublayer(norm(x) if self.norm_first else x)
        total = x + dropout(outputs, training=training)
        return (total if self.norm_first else norm(total), *others)

    def _apply_feed_forward(self, x: Tensor, training: bool | None) -> Tensor:
        """Applies the feed-forward network, the last sublayer of every block."""

        def feed_forward(x):
            return (self.feed_forward(x),)

        (outputs,) = self._apply_sublayer(x, feed_forward, self.feed_forward_norm, self.feed_forward_dropout, training)
        return outputs
