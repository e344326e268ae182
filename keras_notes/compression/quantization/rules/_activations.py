"""Activations as the device computes them: fused to what comes before, from a table, or of several operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_notes.compression.quantization._evaluator import Arithmetic, Pending, Value
from keras_notes.compression.quantization._integer_kernels import sum_on_grid, times_on_grid

__all__ = ["ACTIVATION_LAYERS", "FUNCTIONS", "activated", "added", "masked_softmax", "multiplied", "subtracted"]

# The grids that LiteRT prescribes, as scale and zero point by bits.
_UNIT = {8: (1.0 / 256.0, -128), 16: (1.0 / 32768.0, 0)}
_SIGNED_UNIT = {8: (1.0 / 128.0, 0), 16: (1.0 / 32768.0, 0)}


def activated(arithmetic: Arithmetic, name: str, value: Any, function: Any) -> Any:
    """The value after an activation: a function of Keras, its name, or None.

    Raises:
        ValueError: If the device has no integer operator for it.
    """
    function = keras.activations.get(function)
    if function not in FUNCTIONS:
        raise ValueError(
            f"An activation must have an integer operator on the device: {', '.join(sorted(_NAMES))}. Received: "
            f"{getattr(function, '__name__', function)!r} in {name!r}. Take another, or give the layer in `skip`."
        )
    return FUNCTIONS[function](arithmetic, name, value)


def added(arithmetic: Arithmetic, name: str, a: Any, b: Any) -> Pending:
    """A + b, for values or constants."""
    return _binary(arithmetic, name, a, b, ops.add, sum_on_grid)


def subtracted(arithmetic: Arithmetic, name: str, a: Any, b: Any) -> Pending:
    """A - b, for values or constants."""
    return _binary(arithmetic, name, a, b, ops.subtract, functools.partial(sum_on_grid, sign=-1))


def multiplied(arithmetic: Arithmetic, name: str, a: Any, b: Any) -> Pending:
    """A * b, for values or constants."""
    return _binary(arithmetic, name, a, b, ops.multiply, times_on_grid)


def masked_softmax(arithmetic: Arithmetic, name: str, scores: Any, mask: Any) -> Pending:
    """A softmax over the last axis; scores where the mask is False stand just below all others."""
    if mask is None:
        return softmax(arithmetic, name, scores)
    counting = ops.cast(mask.tensor if isinstance(mask, Value) else ops.convert_to_tensor(mask), "bool")
    return softmax(arithmetic, name, arithmetic.masked(scores, counting, f"{name}/masked"))


def _binary(arithmetic: Arithmetic, name: str, a: Any, b: Any, function: Callable, on_grid: Callable) -> Pending:
    x, y = (arithmetic.operand(one, name) for one in (a, b))
    rounding = None
    if x.grid is not None and y.grid is not None:
        rounding = functools.partial(on_grid, x.tensor, x.grid, y.tensor, y.grid)
    return Pending(name, lambda: function(x.tensor, y.tensor), fuses=True, rounding=rounding)


def _linear(arithmetic: Arithmetic, name: str, value: Any) -> Any:
    return value


def _fused(function: Callable) -> Callable:
    def rule(arithmetic: Arithmetic, name: str, value: Any) -> Pending:
        if getattr(value, "fuses", False):
            return value.then(name, function)
        x = arithmetic.quantized(value)
        return Pending(name, lambda: function(x.tensor))

    return rule


def _table(function: Callable, fixed: dict | None = None) -> Callable:
    """Of an operator that looks each integer up."""

    def rule(arithmetic: Arithmetic, name: str, value: Any) -> Pending:
        x = arithmetic.quantized(value)
        return Pending(name, lambda: function(x.tensor), fixed=fixed)

    return rule


relu = _fused(ops.relu)
relu6 = _fused(ops.relu6)
sigmoid = _table(ops.sigmoid, _UNIT)
tanh = _table(ops.tanh, _SIGNED_UNIT)
softmax = _table(ops.softmax, _UNIT)


def _silu(arithmetic: Arithmetic, name: str, value: Any) -> Pending:
    x = arithmetic.quantized(value)
    return multiplied(arithmetic, name, x, sigmoid(arithmetic, f"{name}/sigmoid", x))


def _hard_sigmoid(arithmetic: Arithmetic, name: str, value: Any) -> Pending:
    shifted = relu6(arithmetic, f"{name}/relu6", added(arithmetic, f"{name}/add", value, 3.0))
    return multiplied(arithmetic, name, shifted, 1.0 / 6.0)


def _hard_silu(arithmetic: Arithmetic, name: str, value: Any) -> Pending:
    x = arithmetic.quantized(value)
    return multiplied(arithmetic, name, x, _hard_sigmoid(arithmetic, f"{name}/hard_sigmoid", x))


def _leaky_relu(arithmetic: Arithmetic, name: str, value: Any, slope: Any = 0.2) -> Pending:
    """Computes slope * x + (1 - slope) * relu(x), as conversion does: LEAKY_RELU stays in floating point."""
    x = arithmetic.quantized(value)
    positive = relu(arithmetic, f"{name}/relu", x)
    straight = multiplied(arithmetic, f"{name}/multiply", x, slope)
    return added(arithmetic, name, straight, multiplied(arithmetic, f"{name}/multiply#2", positive, 1.0 - slope))


FUNCTIONS: dict[Any, Callable] = {
    keras.activations.linear: _linear,
    keras.activations.relu: relu,
    keras.activations.relu6: relu6,
    keras.activations.sigmoid: sigmoid,
    keras.activations.tanh: tanh,
    keras.activations.softmax: softmax,
    keras.activations.silu: _silu,
    keras.activations.gelu: _table(lambda x: ops.gelu(x, approximate=False)),
    keras.activations.hard_sigmoid: _hard_sigmoid,
    keras.activations.hard_silu: _hard_silu,
    keras.activations.leaky_relu: _leaky_relu,
}
_NAMES = {function.__name__ for function in FUNCTIONS}


def _activation(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    return activated(arithmetic, step.name, value, step.operation.activation)


def _relu_layer(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    if layer.threshold == 0.0 and layer.max_value in (None, 6.0):
        if layer.negative_slope == 0.0:
            return (relu if layer.max_value is None else relu6)(arithmetic, step.name, value)
        if layer.max_value is None:
            return _leaky_relu(arithmetic, step.name, value, float(layer.negative_slope))
    raise ValueError(
        f"A ReLU must have a threshold of 0 and no or 6.0 as its largest value, for the device has no other. "
        f"Received: {step.name!r} with threshold={layer.threshold}, max_value={layer.max_value}. Give it in `skip`."
    )


def _softmax_layer(arithmetic: Arithmetic, step: Any, value: Any, mask: Any = None) -> Any:
    rank = len((value.tensor if isinstance(value, Value) else arithmetic.settled(value).tensor).shape)
    if step.operation.axis not in (-1, rank - 1):
        raise ValueError(
            f"A softmax must be over the last axis, for the device has no other. Received: {step.name!r} with "
            f"axis={step.operation.axis}. Permute before it, or give it in `skip`."
        )
    return masked_softmax(arithmetic, step.name, value, mask)


def _leaky_layer(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    return _leaky_relu(arithmetic, step.name, value, float(step.operation.negative_slope))


def _parametric_layer(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    return _leaky_relu(arithmetic, step.name, value, ops.convert_to_tensor(step.operation.alpha))


ACTIVATION_LAYERS: dict[Any, Callable] = {
    keras.layers.Activation: _activation,
    keras.layers.ReLU: _relu_layer,
    keras.layers.Softmax: _softmax_layer,
    keras.layers.LeakyReLU: _leaky_layer,
    keras.layers.PReLU: _parametric_layer,
}
