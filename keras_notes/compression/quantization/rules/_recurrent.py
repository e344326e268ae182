"""Recurrent layers, step by step; all steps round at the same points, so that they share their ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_notes import layers
from keras_notes.compression.quantization._evaluator import Arithmetic, Value
from keras_notes.compression.quantization.rules._activations import activated, added, multiplied, subtracted
from keras_notes.compression.quantization.rules._dense_and_conv import matrix
from keras_notes.compression.quantization.rules._shapes import concatenated

__all__ = ["LONGEST", "RECURRENT_LAYERS"]

# The largest number of steps that are written out: operators grow with them, and so does the time to compile the
# training. Higher than the limit of `convert`, 32, which can fall back to a loop: here no loop computes in integers.
LONGEST = 64


class _Cell:
    """One recurrent layer at work.

    Args:
        arithmetic: Who computes.
        name: Of the layer's points.
        layer: The layer.
        x: Its inputs, of shape (batch, steps, features).
    """

    inputs: Value

    def __init__(self, arithmetic: Arithmetic, name: str, layer: Any, x: Value) -> None:
        self.arithmetic = arithmetic
        self.name = name
        self.layer = layer
        self.units = layer.units
        self._recurrent_mask = self._mask(layer.recurrent_dropout, (1, self.units), x)
        mask = self._mask(layer.dropout, (1, *x.shape[2:]), x)
        self.x = x if mask is None else Value(x.tensor * mask, x.grid)

    def step(self, inputs: Value, states: list[Value] | None) -> list[Any]:
        """The states after a step, the output first; None for states that are still zero."""
        raise NotImplementedError

    def project(self, x: Value, bias: Any, suffix: str = "") -> Value:
        """Inputs through the kernel, those of all steps at once."""
        kernel = self.layer.cell.kernel
        return self.arithmetic.settled(matrix(self.arithmetic, f"{self.name}/input{suffix}", x, kernel, bias))

    def recur(self, state: Value, columns: slice, bias: Any, suffix: str = "") -> Value:
        """A state through some columns of the recurrent kernel."""
        if self._recurrent_mask is not None:
            state = Value(state.tensor * self._recurrent_mask, state.grid)
        kernel = ops.convert_to_tensor(self.layer.cell.recurrent_kernel)[:, columns]
        return self.arithmetic.settled(matrix(self.arithmetic, f"{self.name}/recurrent{suffix}", state, kernel, bias))

    def slice(self, value: Value, index: int) -> Value:
        """The columns of one gate."""
        return self.arithmetic.moved(value.tensor[..., index * self.units : (index + 1) * self.units], value.grid)

    def gate(self, suffix: str, value: Any, function: Any) -> Value:
        return self.arithmetic.settled(activated(self.arithmetic, f"{self.name}/{suffix}", value, function))

    def times(self, suffix: str, a: Any, b: Any) -> Value:
        return self.arithmetic.settled(multiplied(self.arithmetic, f"{self.name}/{suffix}", a, b))

    def plus(self, suffix: str, a: Any, b: Any) -> Value:
        return self.arithmetic.settled(added(self.arithmetic, f"{self.name}/{suffix}", a, b))

    def minus(self, suffix: str, a: Value, b: Value) -> Value:
        return self.arithmetic.settled(subtracted(self.arithmetic, f"{self.name}/{suffix}", a, b))

    def _mask(self, rate: float, shape: tuple[int, ...], x: Value) -> Any:
        """What dropout multiplies with, the same for all steps."""
        if not (self.arithmetic.training and rate):
            return None
        ones = ops.ones_like(x.tensor[:, :1, :1])
        ones = ops.broadcast_to(ones, (ops.shape(x.tensor)[0], *shape)) if len(shape) == 2 else ones
        mask = keras.random.dropout(ones, rate, seed=self.layer.cell.seed_generator)
        return mask if shape[-1] == x.shape[-1] and len(x.shape) == 3 else mask[:, 0]


class _LstmCell(_Cell):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.inputs = self.project(self.x, self.layer.cell.bias if self.layer.use_bias else None)

    def step(self, inputs: Value, states: list[Value] | None) -> list[Any]:
        cell = self.layer.cell
        gates = inputs if states is None else self.plus("gates", inputs, self.recur(states[0], slice(None), None))
        parts = [self.slice(gates, index) for index in range(4)]
        write = self.gate("input_gate", parts[0], cell.recurrent_activation)
        candidate = self.gate("candidate", parts[2], cell.activation)
        output = self.gate("output_gate", parts[3], cell.recurrent_activation)
        written = multiplied(
            self.arithmetic, f"{self.name}/{'cell' if states is None else 'written'}", write, candidate
        )
        carry = self.arithmetic.settled(written)
        if states is not None:
            forget = self.gate("forget_gate", parts[1], cell.recurrent_activation)
            carry = self.plus("cell", self.times("kept", forget, states[1]), carry)
        squashed = self.gate("squashed", carry, cell.activation)
        return [multiplied(self.arithmetic, self.name, output, squashed), carry]


class _GruCell(_Cell):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        cell = self.layer.cell
        both = ops.convert_to_tensor(cell.bias) if self.layer.use_bias else ops.zeros((2, 3 * self.units))
        if not self.layer.reset_after:
            raise ValueError(
                f"A GRU must have reset_after=True. Received: {self.name!r} with reset_after=False. Give it in `skip`."
            )
        self.recurrent_bias = both[1]
        self.inputs = self.project(self.x, both[0])
        # The first step has no state to multiply: what is left of it is the bias.
        first = ops.concatenate([both[1, : 2 * self.units], ops.zeros((self.units,))])
        index = -1 if self.layer.go_backwards else 0
        inputs = self.arithmetic.moved(self.x.tensor[:, index], self.x.grid)
        self.first = self.project(inputs, both[0] + first, "/first")

    def step(self, inputs: Value, states: list[Value] | None) -> list[Any]:
        cell = self.layer.cell
        if states is None:
            update, reset, given = (self.slice(self.first, index) for index in range(3))
            remembered: Any = self.recurrent_bias[2 * self.units :]
        else:
            recurrent = self.recur(states[0], slice(None), self.recurrent_bias)
            gates = self.plus("gates", self._two(inputs), self._two(recurrent))
            update, reset = self.slice(gates, 0), self.slice(gates, 1)
            given, remembered = self.slice(inputs, 2), self.slice(recurrent, 2)
        keep = self.gate("update_gate", update, cell.recurrent_activation)
        reset = self.gate("reset_gate", reset, cell.recurrent_activation)
        candidate = self.gate(
            "candidate", self.plus("new", given, self.times("remembered", reset, remembered)), cell.activation
        )
        if states is None:
            kept = self.times("kept", keep, candidate)
            return [subtracted(self.arithmetic, self.name, candidate, kept)]
        moved = self.times("moved", keep, self.minus("difference", states[0], candidate))
        return [added(self.arithmetic, self.name, candidate, moved)]

    def _two(self, value: Value) -> Value:
        return self.arithmetic.moved(value.tensor[..., : 2 * self.units], value.grid)


class _SimpleCell(_Cell):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.inputs = self.project(self.x, self.layer.cell.bias if self.layer.use_bias else None)

    def step(self, inputs: Value, states: list[Value] | None) -> list[Any]:
        if states is not None:
            inputs = self.plus("sum", inputs, self.recur(states[0], slice(None), None))
        return [activated(self.arithmetic, self.name, inputs, self.layer.cell.activation)]


_CELLS = {
    keras.layers.LSTM: _LstmCell,
    layers.LSTM: _LstmCell,
    keras.layers.GRU: _GruCell,
    keras.layers.SimpleRNN: _SimpleCell,
}


def _recurrent(arithmetic: Arithmetic, step: Any, value: Any, initial_state: Any = None, mask: Any = None) -> Any:
    return _run(arithmetic, step.name, step.operation, arithmetic.quantized(value), initial_state, mask)


def _run(
    arithmetic: Arithmetic,
    name: str,
    layer: Any,
    x: Value,
    initial_state: Any,
    mask: Any,
    in_order_of_inputs: bool = False,
) -> Any:
    steps = x.shape[1]
    if layer.stateful or mask is not None or steps is None or steps > LONGEST:
        raise ValueError(
            f"A recurrent layer must have no states that last, no mask, and at most {LONGEST} steps, which are written "
            f"out. Received: {name!r} with {steps} steps, stateful={layer.stateful}"
            f"{', a mask' if mask is not None else ''}. Give it in `skip`."
        )
    cell = _CELLS[type(layer)](arithmetic, name, layer, x)
    states = None
    if initial_state is not None:
        given = initial_state if isinstance(initial_state, (list, tuple)) else [initial_state]
        states = [arithmetic.quantized(state) for state in given]
    outputs: list[Value] = []
    for index in reversed(range(steps)) if layer.go_backwards else range(steps):
        if states is not None:
            states = [arithmetic.settled(state) for state in states]
            outputs.append(states[0])
        states = cell.step(arithmetic.moved(cell.inputs.tensor[:, index], cell.inputs.grid), states)
    assert states is not None
    if not (layer.return_sequences or layer.return_state):
        return states[0]  # still pending: what follows may have a grid of its own
    states = [arithmetic.settled(state) for state in states]
    result = states[0]
    if layer.return_sequences:
        sequence = [*outputs[-(steps - 1) :], result] if steps > 1 else [result]
        if in_order_of_inputs and layer.go_backwards:
            sequence.reverse()
        result = arithmetic.moved(ops.stack([output.tensor for output in sequence], axis=1), result.grid)
    return [result, *states] if layer.return_state else result


def _bidirectional(arithmetic: Arithmetic, step: Any, value: Any, initial_state: Any = None, mask: Any = None) -> Any:
    layer = step.operation
    x = arithmetic.quantized(value)
    if initial_state is not None or layer.return_state or layer.merge_mode not in ("concat", "sum", "mul", "ave"):
        raise ValueError(
            f"A Bidirectional must merge its outputs, without states given or returned. Received: {step.name!r}. Give "
            f"it in `skip`."
        )
    forward = _run(arithmetic, f"{step.name}/forward", layer.forward_layer, x, None, mask)
    # Stacked in order: LiteRT's quantizer leaves REVERSE_V2 in floating point.
    backward = _run(arithmetic, f"{step.name}/backward", layer.backward_layer, x, None, mask, in_order_of_inputs=True)
    if layer.merge_mode == "concat":
        return concatenated(arithmetic, step.name, [forward, backward], -1)
    if layer.merge_mode == "mul":
        return multiplied(arithmetic, step.name, forward, backward)
    if layer.merge_mode == "sum":
        return added(arithmetic, step.name, forward, backward)
    total = added(arithmetic, f"{step.name}/sum", forward, backward)
    return multiplied(arithmetic, step.name, total, 0.5)


RECURRENT_LAYERS: dict[Any, Callable] = {
    **dict.fromkeys(_CELLS, _recurrent),
    keras.layers.Bidirectional: _bidirectional,
}
