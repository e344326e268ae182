"""The position-wise feed-forward network of a Transformer."""

from __future__ import annotations

from typing import Any

import keras

from keras_notes._shared.checks import check_at_least, received
from keras_notes._shared.types import Config, Tensor
from keras_notes.layers._initializers import Activation, Initializer, clone_initializer
from keras_notes.layers._inputs import Shape

__all__ = ["FeedForward", "serialize_activation"]

_GATED = "swiglu"


def serialize_activation(activation: Activation) -> str | Config:
    """Returns the activation in the form of a config: "swiglu", or Keras's form of its own and registered functions."""
    if activation == _GATED:
        return _GATED
    try:
        return keras.activations.serialize(keras.activations.get(activation))
    except ValueError as error:
        raise ValueError(
            f"`activation` must be 'swiglu' or an activation of Keras. {received(activation=activation)}"
        ) from error


@keras.saving.register_keras_serializable(package="keras_notes")
class FeedForward(keras.Layer):
    """Applies the same two dense layers at every position; three for SwiGLU.

        outputs = activation(x W_1 + b_1) W_2 + b_2
        "swiglu":  (silu(x W_gate + b_gate) * (x W_1 + b_1)) W_2 + b_2

    Args:
        hidden_width: Width of the vectors between the layers, >= 1. SwiGLU has three kernels: two thirds of the width
            give the number of weights of other activations.
        activation: "swiglu", or an activation of Keras by name or as a function.
        use_bias: Whether the layers add a bias.
        kernel_initializer: Initializer of the kernels.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequence of shape (batch, length, width).

    Returns:
        Outputs of shape (batch, length, width).

    Masking:
        Passes a Keras mask on.

    LiteRT:
        FULLY_CONNECTED, fused with ReLU; GELU; LOGISTIC and MUL for SwiGLU.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> layer = FeedForward(32, "gelu")
        >>> layer(np.ones((1, 3, 8))).shape == (1, 3, 8), layer.count_params() == 2 * 8 * 32 + 32 + 8
        (True, True)

    References:
        Vaswani et al. 2017, section 3.3 (https://arxiv.org/abs/1706.03762).
        Shazeer 2020, GLU Variants Improve Transformer, section 2, equation 6 (https://arxiv.org/abs/2002.05202).
    """

    def __init__(
        self,
        hidden_width: int,
        activation: Activation = "relu",
        *,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_width = check_at_least("hidden_width", hidden_width, 1)
        self.activation = serialize_activation(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        hidden_shape = (*input_shape[:-1], self.hidden_width)
        is_gated = self.activation == _GATED
        if is_gated:
            self.gate_dense = self._dense("gate", self.hidden_width, "silu")
            self.gate_dense.build(input_shape)
        self.hidden_dense = self._dense("hidden", self.hidden_width, None if is_gated else self.activation)
        self.hidden_dense.build(input_shape)
        self.output_dense = self._dense("output", input_shape[-1], None)
        self.output_dense.build(hidden_shape)

    def call(self, inputs: Tensor) -> Tensor:
        hidden = self.hidden_dense(inputs)
        if self.activation == _GATED:
            hidden = self.gate_dense(inputs) * hidden
        return self.output_dense(hidden)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "hidden_width": self.hidden_width,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def _dense(self, name: str, units: int | None, activation: str | Config | None) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            activation=activation,
            use_bias=self.use_bias,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
