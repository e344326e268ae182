"""The position-wise network of a Transformer."""

from __future__ import annotations

from typing import Any

import keras

from keras_notes._shared.checks import check_at_least, received
from keras_notes.layers._initializers import another

__all__ = ["FeedForward", "checked_activation"]

_GATED = "swiglu"


def checked_activation(activation: Any) -> str | dict[str, Any]:
    """The activation as what a config holds: "swiglu", or what Keras makes of its own and of registered functions."""
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
    """Two dense layers, the same at every position; three for SwiGLU.

        outputs = activation(x W_1 + b_1) W_2 + b_2
        "swiglu":  (silu(x W_gate + b_gate) * (x W_1 + b_1)) W_2 + b_2

    Args:
        hidden_width: Of the vectors between the layers, >= 1. For as many weights as the others have, SwiGLU takes two
            thirds of it.
        activation: "swiglu", or an activation of Keras by name or as a function.
        use_bias: Whether the layers add a bias.
        kernel_initializer: Of the kernels.
        **kwargs: As in `keras.layers.Layer`.

    Call arguments:
        inputs: Shape (batch, length, width), as the outputs.

    Masking:
        A Keras mask is handed on.

    LiteRT:
        FULLY_CONNECTED, fused with ReLU; GELU; LOGISTIC and MUL for SwiGLU.

    Raises:
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
        activation: Any = "relu",
        *,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_width = check_at_least("hidden_width", hidden_width, 1)
        self.activation = checked_activation(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        hidden_shape = (*input_shape[:-1], self.hidden_width)
        is_gated = self.activation == _GATED
        if is_gated:
            self.gate_dense = self._dense("gate", self.hidden_width, "silu")
            self.gate_dense.build(input_shape)
        self.hidden_dense = self._dense("hidden", self.hidden_width, None if is_gated else self.activation)
        self.hidden_dense.build(input_shape)
        self.output_dense = self._dense("output", input_shape[-1], None)
        self.output_dense.build(hidden_shape)

    def call(self, inputs: Any) -> Any:
        hidden = self.hidden_dense(inputs)
        if self.activation == _GATED:
            hidden = self.gate_dense(inputs) * hidden
        return self.output_dense(hidden)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_width": self.hidden_width,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def _dense(self, name: str, units: int, activation: Any) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            activation=activation,
            use_bias=self.use_bias,
            kernel_initializer=another(self.kernel_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
