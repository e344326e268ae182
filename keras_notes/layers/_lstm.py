"""The LSTM: one step as a function, the count of its parameters, and the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_choice, received
from keras_notes._shared.types import Config, Tensor

__all__ = ["LSTM", "count_lstm_params", "lstm_step"]


def lstm_step(
    projected: Tensor,
    hidden: Tensor,
    carry: Tensor,
    recurrent_kernel: Tensor,
    activation: Callable[[Tensor], Tensor] = ops.tanh,
    recurrent_activation: Callable[[Tensor], Tensor] = ops.sigmoid,
) -> tuple[Tensor, Tensor]:
    """Computes one step of the LSTM; every step of a sequence uses the same weights.

        i, f, g, o = split(projected + h R)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
        projected: Contribution of the input to the four gates, x W + b, of shape (batch, 4 * units), in the order input
            gate, forget gate, candidate, output gate. It does not depend on the state, so one matrix product computes
            it for all steps.
        hidden: Last output h, of shape (batch, units).
        carry: Last cell state c, of shape (batch, units).
        recurrent_kernel: Kernel R, of shape (units, 4 * units).
        activation: Activation of the candidate and of the cell state.
        recurrent_activation: Activation of the gates.

    Returns:
        (h', c'), each of shape (batch, units). h' is the output of the step.

    Example:
        >>> import numpy as np
        >>> h, c = lstm_step(np.zeros((1, 8)), np.zeros((1, 2)), np.ones((1, 2)), np.zeros((2, 8)))
        >>> float(c[0, 0])  # the forget gate is sigmoid(0)
        0.5

    References:
        Hochreiter & Schmidhuber 1997, Long Short-Term Memory, section 4 (https://doi.org/10.1162/neco.1997.9.8.1735).
        Gers et al. 2000, Learning to Forget, section 3, the forget gate (https://doi.org/10.1162/089976600300015015).
    """
    gates = ops.add(projected, ops.matmul(hidden, recurrent_kernel))
    write, forget, candidate, output = ops.split(gates, 4, axis=-1)
    remembered = ops.multiply(recurrent_activation(forget), carry)
    carry = remembered + recurrent_activation(write) * activation(candidate)
    return recurrent_activation(output) * activation(carry), carry


def count_lstm_params(units: int, inputs: int, use_bias: bool = True) -> int:
    """Counts the parameters of an LSTM layer: 4 * (units * (units + inputs) + units).

    The three gates and the candidate each have a kernel for the input, a kernel for the last output, and a bias. The
    number of steps does not matter, because all steps use the same weights.

    Args:
        units: Size of the output h and of the cell state c, >= 1.
        inputs: Number of features of a step, >= 1.
        use_bias: Whether the layer has biases.

    Returns:
        The number of parameters.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is < 1.

    Example:
        >>> count_lstm_params(units=64, inputs=6)
        18176
    """
    units, inputs = check_at_least("units", units, 1), check_at_least("inputs", inputs, 1)
    return 4 * (units * (units + inputs) + (units if use_bias else 0))


@keras.saving.register_keras_serializable(package="keras_notes")
class LSTM(keras.layers.LSTM):
    """Keras's LSTM with a choice of how it is converted for the device.

    It trains and predicts by Keras's own loop (or cuDNN), with the same weights and the same results to the last bit.
    All arguments, states, masks, `Bidirectional` and mixed precision are those of `keras.layers.LSTM`. A step is
    `lstm_step`, and the number of parameters is `count_lstm_params(units, inputs)`.

    Args:
        units: Size of the output h and of the cell state c, >= 1.
        lowering: Form of the layer after `keras_notes.convert`, which the argument `lowering` of `convert` overrides:

            - "loop": one matrix product of the inputs of all steps, then a WHILE over blocks of steps. It runs in
              every runtime and keeps no state between calls. Weights are float32, float16 or int8; activations float32.
            - "unrolled": each step written out, for sequences of up to about 32 steps; also in int8 and int16.
            - "fused": one UNIDIRECTIONAL_SEQUENCE_LSTM, in float32 or int8, for microcontrollers and the classic
              interpreter. It keeps its state from one call to the next, and the caller must reset it. LiteRT's
              CompiledModel and its runtime for browsers refuse it.
            - "auto": unrolled if the recipe computes in integers, else a loop.
        **kwargs: Arguments of `keras.layers.LSTM`.

    Call arguments:
        sequence: Inputs of shape (batch, steps, features).
        initial_state: State [h, c] before the first step, each of shape (batch, units); zeros if None.
        mask: Mask of shape (batch, steps); a step where it is False leaves the state unchanged.
        training: Whether to apply dropout.

    Masking:
        As in Keras: uses the mask of its input, and passes it on if `return_sequences`.

    LiteRT:
        FULLY_CONNECTED, LOGISTIC, TANH, MUL, ADD, SPLIT; in a loop WHILE, GATHER, and for sequences
        DYNAMIC_UPDATE_SLICE; with a mask SELECT_V2. If "fused", one UNIDIRECTIONAL_SEQUENCE_LSTM.

    Raises:
        TypeError: If `units` is not an integer.
        ValueError: If an argument is out of its range.

    Example:
        >>> model = keras.Sequential([keras.Input((50, 6)), LSTM(64), keras.layers.Dense(3)])
        >>> model.layers[0].count_params() == count_lstm_params(units=64, inputs=6)
        True

    References:
        Hochreiter & Schmidhuber 1997, Long Short-Term Memory, section 4 (https://doi.org/10.1162/neco.1997.9.8.1735).
    """

    LOWERINGS = ("auto", "loop", "unrolled", "fused")

    def __init__(self, units: int, *, lowering: str = "auto", **kwargs: Any) -> None:
        super().__init__(check_at_least("units", units, 1), **kwargs)
        self.lowering = check_choice("lowering", lowering, self.LOWERINGS)
        for name in ("dropout", "recurrent_dropout"):  # Keras clips them silently
            if not 0 <= kwargs.get(name, 0.0) < 1:
                raise ValueError(f"`{name}` must be in [0, 1). {received(**{name: kwargs[name]})}")

    def get_config(self) -> Config:
        return {**super().get_config(), "lowering": self.lowering}
