"""Rules for recurrent layers, which are unrolled; all steps round at the same points and so share their ranges."""

from __future__ import annotations

import keras
from keras import ops

from keras_notes import layers
from keras_notes._shared.types import Tensor, Tree
from keras_notes.compression.quantization._evaluator import Evaluator, Function, Operand, OperandOrConstant, Rounded
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import add, apply_activation, multiply, subtract
from keras_notes.compression.quantization.rules._dense_and_conv import matrix
from keras_notes.compression.quantization.rules._shapes import concatenate

__all__ = ["LONGEST", "RECURRENT_LAYERS"]

# The largest number of steps that are written out: operators grow with them, and so does the time to compile the
# training. Higher than the limit of `convert`, 32, which can fall back to a loop: here no loop computes in integers.
LONGEST = 64


class _Cell:
    """A recurrent layer that is computed step by step.

    Args:
        evaluator: Evaluator that calibrates, simulates or emits the step.
        name: Prefix of the names of the layer's points.
        layer: Recurrent layer.
        x: Inputs of shape (batch, steps, features).

    Attributes:
        inputs: Inputs of all steps, multiplied by the kernel, of shape (batch, steps, gates * units).
    """

    inputs: Rounded

    def __init__(self, evaluator: Evaluator, name: str, layer: keras.Layer, x: Rounded) -> None:
        self.evaluator = evaluator
        self.name = name
        self.layer = layer
        self.units = layer.units
        self._recurrent_mask = self._mask(layer.recurrent_dropout, (1, self.units), x)
        mask = self._mask(layer.dropout, (1, *x.shape[2:]), x)
        self.x = x if mask is None else Rounded(x.tensor * mask, x.grid)

    def step(self, inputs: Rounded, states: list[Rounded] | None) -> list[Operand]:
        """Computes the states after a step, the output first, from the states before it; None if these are zero."""
        raise NotImplementedError

    def project(self, x: Rounded, bias: Tensor | None, suffix: str = "") -> Rounded:
        """Multiplies inputs by the kernel, those of all steps at once."""
        kernel = self.layer.cell.kernel
        name = f"{self.name}/input{suffix}"
        return self.evaluator.materialize(matrix(self.evaluator, name, x, kernel, bias, variable=kernel))

    def recur(self, state: Rounded, columns: slice, bias: Tensor | None, suffix: str = "") -> Rounded:
        """Multiplies a state by some columns of the recurrent kernel."""
        if self._recurrent_mask is not None:
            state = Rounded(state.tensor * self._recurrent_mask, state.grid)
        variable = self.layer.cell.recurrent_kernel
        kernel = ops.convert_to_tensor(variable)[:, columns]
        name = f"{self.name}/recurrent{suffix}"
        return self.evaluator.materialize(matrix(self.evaluator, name, state, kernel, bias, variable=variable))

    def slice(self, value: Rounded, index: int) -> Rounded:
        """Returns the columns of a gate."""
        return self.evaluator.same_grid(value.tensor[..., index * self.units : (index + 1) * self.units], value.grid)

    def gate(self, suffix: str, value: Operand, function: Function | str | None) -> Rounded:
        return self.evaluator.materialize(apply_activation(self.evaluator, f"{self.name}/{suffix}", value, function))

    def times(self, suffix: str, a: OperandOrConstant, b: OperandOrConstant) -> Rounded:
        return self.evaluator.materialize(multiply(self.evaluator, f"{self.name}/{suffix}", a, b))

    def plus(self, suffix: str, a: OperandOrConstant, b: OperandOrConstant) -> Rounded:
        return self.evaluator.materialize(add(self.evaluator, f"{self.name}/{suffix}", a, b))

    def minus(self, suffix: str, a: Rounded, b: Rounded) -> Rounded:
        return self.evaluator.materialize(subtract(self.evaluator, f"{self.name}/{suffix}", a, b))

    def _mask(self, rate: float, shape: tuple[int, ...], x: Rounded) -> Tensor | None:
        """Returns the factors of dropout, the same for all steps; None without dropout."""
        if not (self.evaluator.training and rate):
            return None
        ones = ops.ones_like(x.tensor[:, :1, :1])
        ones = ops.broadcast_to(ones, (ops.shape(x.tensor)[0], *shape)) if len(shape) == 2 else ones
        mask = keras.random.dropout(ones, rate, seed=self.layer.cell.seed_generator)
        return mask if shape[-1] == x.shape[-1] and len(x.shape) == 3 else mask[:, 0]


class _LstmCell(_Cell):
    def __init__(self, evaluator: Evaluator, name: str, layer: keras.Layer, x: Rounded) -> None:
        super().__init__(evaluator, name, layer, x)
        self.inputs = self.project(self.x, self.layer.cell.bias if self.layer.use_bias else None)

    def step(self, inputs: Rounded, states: list[Rounded] | None) -> list[Operand]:
        cell = self.layer.cell
        gates = inputs if states is None else self.plus("gates", inputs, self.recur(states[0], slice(None), None))
        parts = [self.slice(gates, index) for index in range(4)]
        write = self.gate("input_gate", parts[0], cell.recurrent_activation)
        candidate = self.gate("candidate", parts[2], cell.activation)
        output = self.gate("output_gate", parts[3], cell.recurrent_activation)
        written = multiply(self.evaluator, f"{self.name}/{'cell' if states is None else 'written'}", write, candidate)
        carry = self.evaluator.materialize(written)
        if states is not None:
            forget = self.gate("forget_gate", parts[1], cell.recurrent_activation)
            carry = self.plus("cell", self.times("kept", forget, states[1]), carry)
        squashed = self.gate("squashed", carry, cell.activation)
        return [multiply(self.evaluator, self.name, output, squashed), carry]


class _GruCell(_Cell):
    def __init__(self, evaluator: Evaluator, name: str, layer: keras.Layer, x: Rounded) -> None:
        super().__init__(evaluator, name, layer, x)
        cell = self.layer.cell
        both = ops.convert_to_tensor(cell.bias) if self.layer.use_bias else ops.zeros((2, 3 * self.units))
        if not self.layer.reset_after:
            raise ValueError(
                f"A GRU must have reset_after=True. Received: {self.name!r} with reset_after=False. Give it in `skip`."
            )
        self.recurrent_bias = both[1]
        self.inputs = self.project(self.x, both[0])
        # At the first step the state is zero, and only the bias remains of its product.
        first = ops.concatenate([both[1, : 2 * self.units], ops.zeros((self.units,))])
        index = -1 if self.layer.go_backwards else 0
        inputs = self.evaluator.same_grid(self.x.tensor[:, index], self.x.grid)
        self.first = self.project(inputs, both[0] + first, "/first")

    def step(self, inputs: Rounded, states: list[Rounded] | None) -> list[Operand]:
        cell = self.layer.cell
        if states is None:
            update, reset, new = (self.slice(self.first, index) for index in range(3))
            remembered: OperandOrConstant = self.recurrent_bias[2 * self.units :]
        else:
            recurrent = self.recur(states[0], slice(None), self.recurrent_bias)
            gates = self.plus("gates", self._two_gates(inputs), self._two_gates(recurrent))
            update, reset = self.slice(gates, 0), self.slice(gates, 1)
            new, remembered = self.slice(inputs, 2), self.slice(recurrent, 2)
        keep = self.gate("update_gate", update, cell.recurrent_activation)
        reset = self.gate("reset_gate", reset, cell.recurrent_activation)
        candidate = self.gate(
            "candidate", self.plus("new", new, self.times("remembered", reset, remembered)), cell.activation
        )
        if states is None:
            removed = self.times("kept", keep, candidate)
            return [subtract(self.evaluator, self.name, candidate, removed)]
        shift = self.times("moved", keep, self.minus("difference", states[0], candidate))
        return [add(self.evaluator, self.name, candidate, shift)]

    def _two_gates(self, value: Rounded) -> Rounded:
        return self.evaluator.same_grid(value.tensor[..., : 2 * self.units], value.grid)


class _SimpleCell(_Cell):
    def __init__(self, evaluator: Evaluator, name: str, layer: keras.Layer, x: Rounded) -> None:
        super().__init__(evaluator, name, layer, x)
        self.inputs = self.project(self.x, self.layer.cell.bias if self.layer.use_bias else None)

    def step(self, inputs: Rounded, states: list[Rounded] | None) -> list[Operand]:
        if states is not None:
            inputs = self.plus("sum", inputs, self.recur(states[0], slice(None), None))
        return [apply_activation(self.evaluator, self.name, inputs, self.layer.cell.activation)]


_CELLS: dict[type[keras.Layer], type[_Cell]] = {
    keras.layers.LSTM: _LstmCell,
    layers.LSTM: _LstmCell,
    keras.layers.GRU: _GruCell,
    keras.layers.SimpleRNN: _SimpleCell,
}


def _recurrent(
    evaluator: Evaluator, step: Step, value: Operand, initial_state: Tree = None, mask: Tensor | None = None
) -> Operand | list[Operand]:
    results = _unroll(evaluator, step.name, step.operation, evaluator.to_grid(value), initial_state, mask)
    return results if step.operation.return_state else results[0]


def _unroll(
    evaluator: Evaluator,
    name: str,
    layer: keras.Layer,
    x: Rounded,
    initial_state: Tree,
    mask: Tensor | None,
    in_order_of_inputs: bool = False,
) -> list[Operand]:
    """Computes all steps of a recurrent layer; returns its output, followed by its states if it returns them."""
    steps = x.shape[1]
    if layer.stateful or mask is not None or not steps or steps > LONGEST:
        raise ValueError(
            f"A recurrent layer must have stateful=False, no mask, and at most {LONGEST} steps, which are "
            f"unrolled. Received: {name!r} with {steps} steps, stateful={layer.stateful}"
            f"{', a mask' if mask is not None else ''}. Give it in `skip`."
        )
    cell = _CELLS[type(layer)](evaluator, name, layer, x)
    before: list[Rounded] | None = None
    if initial_state is not None:
        initial_states = initial_state if isinstance(initial_state, (list, tuple)) else [initial_state]
        before = [evaluator.to_grid(state) for state in initial_states]
    indices = list(reversed(range(steps)) if layer.go_backwards else range(steps))
    history: list[list[Rounded]] = []
    for index in indices:
        states = cell.step(evaluator.same_grid(cell.inputs.tensor[:, index], cell.inputs.grid), before)
        if index == indices[-1] and not (layer.return_sequences or layer.return_state):
            return states[:1]  # not rounded yet: the next layer may have a grid of its own
        before = [evaluator.materialize(state) for state in states]
        history.append(before)
    result = history[-1][0]
    if layer.return_sequences:
        outputs = [states[0].tensor for states in history]
        if in_order_of_inputs and layer.go_backwards:
            outputs.reverse()
        result = evaluator.same_grid(ops.stack(outputs, axis=1), result.grid)
    return [result, *history[-1]] if layer.return_state else [result]


def _bidirectional(
    evaluator: Evaluator, step: Step, value: Operand, initial_state: Tree = None, mask: Tensor | None = None
) -> Operand:
    layer = step.operation
    x = evaluator.to_grid(value)
    if initial_state is not None or layer.return_state or layer.merge_mode not in ("concat", "sum", "mul", "ave"):
        raise ValueError(
            f"A Bidirectional must merge its outputs, without states given or returned. Received: {step.name!r}. Give "
            f"it in `skip`."
        )
    (forward,) = _unroll(evaluator, f"{step.name}/forward", layer.forward_layer, x, None, mask)
    # Stacked in order: LiteRT's quantizer leaves REVERSE_V2 in floating point.
    (backward,) = _unroll(
        evaluator, f"{step.name}/backward", layer.backward_layer, x, None, mask, in_order_of_inputs=True
    )
    if layer.merge_mode == "concat":
        return concatenate(evaluator, step.name, [forward, backward], -1)
    if layer.merge_mode == "mul":
        return multiply(evaluator, step.name, forward, backward)
    if layer.merge_mode == "sum":
        return add(evaluator, step.name, forward, backward)
    total = add(evaluator, f"{step.name}/sum", forward, backward)
    return multiply(evaluator, step.name, total, 0.5)


RECURRENT_LAYERS: dict[type[keras.Layer], Rule] = {
    **dict.fromkeys(_CELLS, _recurrent),
    keras.layers.Bidirectional: _bidirectional,
}
