"""The LSTM: its cell as a function, its parameters counted, and the layer."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_choice, received

__all__ = ["LSTM", "count_lstm_params", "lstm_step"]


def lstm_step(projected, hidden, carry, recurrent_kernel, activation=ops.tanh, recurrent_activation=ops.sigmoid):
    """One step of the LSTM, the cell that every step of a sequence uses again.

        i, f, g, o = split(projected + h R)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
        projected: The input's part of the four gates, x W + b, of shape (batch, 4 * units): input gate, forget gate,
            candidate, output gate. It needs no state, so that of all steps is one matrix product.
        hidden: The last output h, of shape (batch, units).
        carry: The last cell state c, of shape (batch, units).
        recurrent_kernel: R, of shape (units, 4 * units).
        activation: Of the candidate and of the cell state.
        recurrent_activation: Of the gates.

    Returns:
        (h', c'), each of shape (batch, units). h' is the output of the step.

    Example:
        >>> import numpy as np
        >>> h, c = lstm_step(np.zeros((1, 8)), np.zeros((1, 2)), np.ones((1, 2)), np.zeros((2, 8)))
        >>> float(c[0, 0])  # a gate of 0 is half open
        0.5

    References:
        Hochreiter & Schmidhuber 1997, Long Short-Term Memory, section 4; with the forget gate of Gers et al. 2000,
        Learning to Forget, section 3 (https://doi.org/10.1162/089976600300015015).
    """
    gates = ops.add(projected, ops.matmul(hidden, recurrent_kernel))
    write, forget, candidate, output = ops.split(gates, 4, axis=-1)
    kept = ops.multiply(recurrent_activation(forget), carry)
    carry = kept + recurrent_activation(write) * activation(candidate)
    return recurrent_activation(output) * activation(carry), carry


def count_lstm_params(units: int, inputs: int, use_bias: bool = True) -> int:
    """The parameters of an LSTM layer: 4 * (units * (units + inputs) + units).

    Each of three gates and the candidate has a matrix for the input, one for the last output, and a bias. The number of
    steps does not count: all use the same cell.

    Args:
        units: Size of the output h and of the cell state c, >= 1.
        inputs: Features of a step, >= 1.
        use_bias: Whether there are biases.

    Raises:
        ValueError: If a size is < 1.

    Example:
        >>> count_lstm_params(units=64, inputs=6)
        18176
    """
    units, inputs = check_at_least("units", units, 1), check_at_least("inputs", inputs, 1)
    return 4 * (units * (units + inputs) + (units if use_bias else 0))


@keras.saving.register_keras_serializable(package="keras_notes")
class LSTM(keras.layers.LSTM):
    """`keras.layers.LSTM`, which knows how it shall reach the device.

    It trains and predicts by Keras's own loop (or cuDNN), with the same weights and the same results to the last bit;
    all of Keras's arguments, states, masks, `Bidirectional` and mixed precision are Keras's. A step is `lstm_step`, and
    the parameters are `count_lstm_params(units, inputs)`.

    Args:
        units: Size of the output h and of the cell state c, >= 1.
        lowering: What `keras_notes.convert` makes of it, unless its own argument `lowering` says otherwise:

            - "loop": the inputs of all steps in one matrix product, then a WHILE over blocks of steps. It runs in
              every runtime and leaves no state behind; weights float32, float16 or int8, activations float32.
            - "unrolled": every step written out, for sequences of some 32 steps at most; also in int8 and int16.
            - "fused": one UNIDIRECTIONAL_SEQUENCE_LSTM, in float32 or int8, for microcontrollers and the classic
              interpreter. It keeps its state from one call to the next, which the caller must reset; LiteRT's
              CompiledModel and its runtime for browsers refuse it.
            - "auto": a loop, or unrolled where the recipe wants integers.
        **kwargs: As in `keras.layers.LSTM`.

    Call arguments:
        sequence: Of shape (batch, steps, features).
        initial_state: [h, c] before the first step, each of shape (batch, units); zeros if None.
        mask: Of shape (batch, steps); a step that is False leaves the state as it is.
        training: Whether dropout applies.

    Masking:
        As in Keras: takes the mask of its input, and passes it on if `return_sequences`.

    LiteRT:
        FULLY_CONNECTED, LOGISTIC, TANH, MUL, ADD, SPLIT; in a loop WHILE, GATHER, and for sequences
        DYNAMIC_UPDATE_SLICE; with a mask SELECT_V2. Or one UNIDIRECTIONAL_SEQUENCE_LSTM.

    Raises:
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
        for name in ("dropout", "recurrent_dropout"):  # Keras clips them without a word
            if not 0 <= kwargs.get(name, 0.0) < 1:
                raise ValueError(f"`{name}` must be in [0, 1). {received(**{name: kwargs[name]})}")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lowering": self.lowering}
