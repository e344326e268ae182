"""The cells of recurrent layers for the device: a step in as few operators as possible.

The gates that share an activation lie side by side, so that one operator computes them all. The inputs' part of the
gates is computed for all steps at once, before the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_notes import layers
from keras_notes._shared.types import Tensor

__all__ = ["RecurrentCell", "cell_class_of"]


class RecurrentCell:
    """A cell with its weights as constants.

    Args:
        cell: The trained cell.
    """

    def __init__(self, cell: keras.Layer) -> None:
        self._activation = cell.activation
        self._units = cell.units
        self.kernel = ops.convert_to_numpy(cell.kernel)
        self.recurrent_kernel = ops.convert_to_numpy(cell.recurrent_kernel)
        self.bias = ops.convert_to_numpy(cell.bias) if cell.use_bias else None

    def project(self, rows: Tensor) -> Tensor:
        """Returns the inputs' part of the gates, for rows of shape (rows, features)."""
        projected = ops.matmul(rows, self.kernel)
        return projected if self.bias is None else projected + self.bias

    def step(self, projected: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """Returns the states after a step, the output first; all of shape (batch, units)."""
        raise NotImplementedError


class _SimpleCell(RecurrentCell):
    def step(self, projected: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        return [self._activation(projected + ops.matmul(states[0], self.recurrent_kernel))]


class _LstmCell(RecurrentCell):
    """`keras_notes.layers.lstm_step`, with its three gates side by side and the candidate last."""

    def __init__(self, cell: keras.Layer) -> None:
        super().__init__(cell)
        self._gate_activation = cell.recurrent_activation
        write, forget, candidate, output = np.split(np.arange(4 * self._units), 4)
        order = np.concatenate([write, forget, output, candidate])
        self.kernel, self.recurrent_kernel = self.kernel[:, order], self.recurrent_kernel[:, order]
        self.bias = None if self.bias is None else self.bias[order]

    def step(self, projected: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        gates = projected + ops.matmul(states[0], self.recurrent_kernel)
        opened = self._gate_activation(gates[:, : 3 * self._units])
        write, forget, output = ops.split(opened, 3, axis=-1)
        carry = forget * states[1] + write * self._activation(gates[:, 3 * self._units :])
        return [output * self._activation(carry), carry]


class _GruCell(RecurrentCell):
    """Update gate, reset gate and candidate, in Keras's order."""

    def __init__(self, cell: keras.Layer) -> None:
        super().__init__(cell)
        self._gate_activation = cell.recurrent_activation
        self._resets_after = cell.reset_after
        self._recurrent_bias = None
        if self._resets_after and self.bias is not None:
            self.bias, self._recurrent_bias = self.bias

    def step(self, projected: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        (hidden,) = states
        gates = 2 * self._units
        kernel = self.recurrent_kernel if self._resets_after else self.recurrent_kernel[:, :gates]
        recurrent = ops.matmul(hidden, kernel)
        if self._recurrent_bias is not None:
            recurrent = recurrent + self._recurrent_bias
        opened = self._gate_activation(projected[:, :gates] + recurrent[:, :gates])
        update, reset = ops.split(opened, 2, axis=-1)
        if self._resets_after:
            remembered = reset * recurrent[:, gates:]
        else:
            remembered = ops.matmul(reset * hidden, self.recurrent_kernel[:, gates:])
        candidate = self._activation(projected[:, gates:] + remembered)
        return [candidate + update * (hidden - candidate)]


_CELLS: dict[type, type[RecurrentCell]] = {
    keras.layers.SimpleRNN: _SimpleCell,
    keras.layers.LSTM: _LstmCell,
    layers.LSTM: _LstmCell,
    keras.layers.GRU: _GruCell,
}


def cell_class_of(layer: keras.Layer) -> type[RecurrentCell] | None:
    """Returns the class of cells that compute what the layer computes; None for other classes, and for subclasses."""
    return _CELLS.get(type(layer))
