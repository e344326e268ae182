"""What the blocks of encoder and decoder share: arguments, and sublayers with a residual connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_notes._shared.checks import check_at_least, check_between, check_choice, check_positive, received
from keras_notes.layers._feed_forward import FeedForward, checked_activation
from keras_notes.layers._initializers import another
from keras_notes.layers._multi_head_attention import MultiHeadAttention, checked_groups

__all__ = ["Block", "normalization_layer"]

_NORMALIZATIONS = {"layer": keras.layers.LayerNormalization, "rms": keras.layers.RMSNormalization}


def normalization_layer(kind: str, **arguments: Any) -> keras.Layer:
    """A normalization over the last axis: "layer" or "rms"."""
    layer = _NORMALIZATIONS[kind](**arguments)
    layer.supports_masking = True  # as every layer that treats positions alike; of RMSNormalization, Keras forgot it
    return layer


class Block(keras.Layer):
    """Base of the blocks of a Transformer; see `TransformerEncoder` for the arguments."""

    def __init__(
        self,
        num_heads: int,
        hidden_width: int,
        *,
        dropout: float = 0.0,
        activation: Any = "relu",
        normalization: str = "layer",
        norm_first: bool = False,
        num_key_value_heads: int | None = None,
        rotary: bool = False,
        rotary_base: float = 10000.0,
        use_bias: bool = True,
        epsilon: float = 1e-5,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = check_at_least("num_heads", num_heads, 1)
        self.hidden_width = check_at_least("hidden_width", hidden_width, 1)
        self.dropout = check_between("dropout", dropout, 0.0, 1.0)
        self.activation = checked_activation(activation)
        self.normalization = check_choice("normalization", normalization, tuple(_NORMALIZATIONS))
        self.norm_first = bool(norm_first)
        self.num_key_value_heads = checked_groups(num_key_value_heads, self.num_heads)
        self.rotary = bool(rotary)
        self.rotary_base = check_positive("rotary_base", rotary_base)
        self.use_bias = bool(use_bias)
        self.epsilon = check_positive("epsilon", epsilon)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.supports_masking = True

    def compute_output_shape(self, inputs_shape: Any, memory_shape: Any = None) -> tuple[int | None, ...]:
        return tuple(inputs_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By what the call gives, which may be scores and a cache, too.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        names = ("num_heads", "hidden_width", "dropout", "activation", "normalization", "norm_first",
                 "num_key_value_heads", "rotary", "rotary_base", "use_bias", "epsilon", "seed")  # fmt: skip
        initializer = {"kernel_initializer": keras.initializers.serialize(self.kernel_initializer)}
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, **initializer}

    def _attention(self, name: str, inputs_shape: Any, seed: int | None, **arguments: Any) -> MultiHeadAttention:
        """An unbuilt attention whose heads share the width of the inputs."""
        if len(inputs_shape) != 3 or inputs_shape[-1] is None or inputs_shape[-1] % self.num_heads:
            raise ValueError(
                f"The inputs must have shape (batch, length, width) with a width that `num_heads` divides. "
                f"{received(num_heads=self.num_heads)} The inputs have shape {tuple(inputs_shape)}."
            )
        return MultiHeadAttention(
            self.num_heads,
            inputs_shape[-1] // self.num_heads,
            dropout=self.dropout,
            use_bias=self.use_bias,
            num_key_value_heads=self.num_key_value_heads,
            kernel_initializer=another(self.kernel_initializer),
            seed=seed,
            dtype=self.dtype_policy,
            name=name,
            **arguments,
        )

    def _feed_forward(self, inputs_shape: Any) -> FeedForward:
        layer = FeedForward(
            self.hidden_width,
            self.activation,
            use_bias=self.use_bias,
            kernel_initializer=another(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        layer.build(inputs_shape)
        return layer

    def _around(self, name: str, inputs_shape: Any, seed: int | None) -> tuple[keras.Layer, keras.Layer]:
        """The normalization and the dropout around a sublayer."""
        norm = normalization_layer(
            self.normalization, epsilon=self.epsilon, dtype=self.dtype_policy, name=f"{name}_norm"
        )
        norm.build(inputs_shape)
        return norm, keras.layers.Dropout(self.dropout, seed=seed, dtype=self.dtype_policy, name=f"{name}_dropout")

    def _residual(self, x: Any, function: Callable, norm: Any, dropout: Any, training: bool | None) -> tuple[Any, ...]:
        """A sublayer with its residual connection, and what else it gives.

        `norm_first`: x + dropout(function(norm(x))); else norm(x + dropout(function(x))).
        """
        result, *more = function(norm(x) if self.norm_first else x)
        total = x + dropout(result, training=training)
        return (total if self.norm_first else norm(total), *more)
