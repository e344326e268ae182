"""Rules for activations, and sums and products of two tensors, of which some activations consist.

The device computes an activation fused to the operator before it, from a table, or by several operators.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.compression.quantization._affine import Grid, fake_quantize
from keras_notes.compression.quantization._evaluator import (
    FINEST,
    Evaluator,
    Function,
    Operand,
    OperandOrConstant,
    Rounded,
    Unrounded,
    tensor_of,
)
from keras_notes.compression.quantization._integer_kernels import (
    abs_int,
    add_int,
    leaky_relu_int,
    multiply_int,
    prelu_int,
    rescale_int,
)
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule

__all__ = [
    "ACTIVATION_LAYERS",
    "FUNCTIONS",
    "absolute",
    "add",
    "apply_activation",
    "leaky_relu",
    "lookup",
    "masked_softmax",
    "multiply",
    "subtract",
]

_Binary: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_BinaryKernel: TypeAlias = Callable[[Tensor, Grid, Tensor, Grid, Grid], Tensor]
_Activation: TypeAlias = Callable[[Evaluator, str, Operand], Operand]

# The grids that LiteRT prescribes for results, as scale and zero point by bits.
_UNIT = {8: (1.0 / 256.0, -128), 16: (1.0 / 32768.0, 0)}
_SIGNED_UNIT = {8: (1.0 / 128.0, 0), 16: (1.0 / 32768.0, 0)}


def apply_activation(evaluator: Evaluator, name: str, value: Operand, function: Function | str | None) -> Operand:
    """Applies an activation to a value.

    Args:
        evaluator: Evaluator that calibrates, simulates or emits the step.
        name: Name of the point where the result is rounded.
        value: Value before the activation.
        function: Activation function of Keras, its name, or None.

    Raises:
        ValueError: If the device has no integer operator for it.
    """
    function = keras.activations.get(function)
    if function not in FUNCTIONS:
        raise ValueError(
            f"An activation must have an integer operator on the device: {', '.join(sorted(_NAMES))}. Received: "
            f"{getattr(function, '__name__', function)!r} in {name!r}. Take another, or give the layer in `skip`."
        )
    return FUNCTIONS[function](evaluator, name, value)


def add(evaluator: Evaluator, name: str, a: OperandOrConstant, b: OperandOrConstant) -> Unrounded:
    """Adds two operands, or an operand and a constant."""
    return _binary(evaluator, name, a, b, ops.add, add_int, ops.maximum)


def subtract(evaluator: Evaluator, name: str, a: OperandOrConstant, b: OperandOrConstant) -> Unrounded:
    """Subtracts two operands, or an operand and a constant."""
    return _binary(evaluator, name, a, b, ops.subtract, functools.partial(add_int, sign=-1), ops.maximum)


def multiply(evaluator: Evaluator, name: str, a: OperandOrConstant, b: OperandOrConstant) -> Unrounded:
    """Multiplies two operands, or an operand and a constant, elementwise."""
    return _binary(evaluator, name, a, b, ops.multiply, multiply_int, ops.multiply)


def masked_softmax(evaluator: Evaluator, name: str, scores: Operand, mask: Rounded | Tensor | None) -> Operand:
    """Applies a softmax over the last axis, with scores just below all others where the mask is False."""
    if mask is None:
        return softmax(evaluator, name, scores)
    unmasked = ops.cast(ops.convert_to_tensor(tensor_of(mask)), "bool")
    return softmax(evaluator, name, evaluator.mask_scores(scores, unmasked, f"{name}/masked"))


def _binary(
    evaluator: Evaluator,
    name: str,
    a: OperandOrConstant,
    b: OperandOrConstant,
    function: _Binary,
    kernel: _BinaryKernel,
    step: _Binary,
) -> Unrounded:
    """Merges two values; `step` gives the step of the merged integers from those of the values."""
    x, y = (evaluator.operand(value, name) for value in (a, b))
    compute = lambda: function(x.tensor, y.tensor)  # noqa: E731
    if x.grid is None or y.grid is None:
        return Unrounded(name, compute, fuses=True)
    scales = x.grid.scale, y.grid.scale
    rounding = functools.partial(kernel, x.tensor, x.grid, y.tensor, y.grid)
    return Unrounded(name, compute, fuses=True, rounding=rounding, finest=lambda: step(*scales) * FINEST)


def _finest_of(x: Rounded) -> Callable[[], Tensor | None]:
    """Returns the function of the smallest scale that an operator on single values can give its result."""
    return lambda: None if x.grid is None else x.grid.scale * FINEST


def _linear(evaluator: Evaluator, name: str, value: Operand) -> Operand:
    return value


def _fused(function: Function) -> _Activation:
    """An activation that LiteRT fuses to the operator before it, where that is possible."""

    def rule(evaluator: Evaluator, name: str, value: Operand) -> Unrounded:
        if not isinstance(value, Rounded) and value.fuses:
            return value.then(name, function)
        x = evaluator.to_grid(value)
        if x.grid is None:
            return Unrounded(name, lambda: function(x.tensor))
        before = x.grid

        def round_alone(grid: Grid) -> Tensor:
            return fake_quantize(function(rescale_int(x.tensor, before, grid)), grid)

        return Unrounded(name, lambda: function(x.tensor), rounding=round_alone, finest=_finest_of(x))

    return rule


def _table(function: Function, fixed: dict[int, tuple[float, int]] | None = None) -> _Activation:
    """An activation whose operator looks up each integer in a table."""

    def rule(evaluator: Evaluator, name: str, value: Operand) -> Unrounded:
        x = evaluator.to_grid(value)
        return Unrounded(name, lambda: function(x.tensor), fixed=fixed, finest=_finest_of(x))

    return rule


relu = _fused(ops.relu)
relu6 = _fused(ops.relu6)
sigmoid = _table(ops.sigmoid, _UNIT)
tanh = _table(ops.tanh, _SIGNED_UNIT)
softmax = _table(ops.softmax, _UNIT)


def _silu(evaluator: Evaluator, name: str, value: Operand) -> Unrounded:
    x = evaluator.to_grid(value)
    return multiply(evaluator, name, x, sigmoid(evaluator, f"{name}/sigmoid", x))


def _hard_sigmoid(evaluator: Evaluator, name: str, value: Operand) -> Unrounded:
    shifted = relu6(evaluator, f"{name}/relu6", add(evaluator, f"{name}/add", value, 3.0))
    return multiply(evaluator, name, shifted, 1.0 / 6.0)


def _hard_silu(evaluator: Evaluator, name: str, value: Operand) -> Unrounded:
    x = evaluator.to_grid(value)
    return multiply(evaluator, name, x, _hard_sigmoid(evaluator, f"{name}/hard_sigmoid", x))


def leaky_relu(evaluator: Evaluator, name: str, value: Operand, slope: float = 0.2) -> Unrounded:
    """Applies a LeakyReLU with one slope."""
    x = evaluator.to_grid(value)
    rounding = None
    if x.grid is not None:
        rounding = functools.partial(leaky_relu_int, x.tensor, x.grid, slope)
    return Unrounded(name, lambda: ops.leaky_relu(x.tensor, slope), rounding=rounding, finest=_finest_of(x))


def absolute(evaluator: Evaluator, name: str, value: Operand) -> Unrounded:
    """Computes the absolute value."""
    x = evaluator.to_grid(value)
    rounding = None if x.grid is None else functools.partial(abs_int, x.tensor, x.grid)
    return Unrounded(name, lambda: ops.abs(x.tensor), rounding=rounding, finest=_finest_of(x))


def lookup(function: Function) -> _Activation:
    """Returns the activation that looks up a function of one tensor: the nearest integer to each value."""
    return _table(function)


def _parametric_relu(evaluator: Evaluator, name: str, value: Operand, slopes: Tensor) -> Unrounded:
    x, alpha = evaluator.to_grid(value), evaluator.constant(slopes, name)
    rounding = None
    if x.grid is not None and alpha.grid is not None:
        rounding = functools.partial(prelu_int, x.tensor, x.grid, alpha.tensor, alpha.grid)
    # In the form of Keras, which the converter recognizes as PRELU.
    compute = lambda: ops.relu(x.tensor) + -alpha.tensor * ops.relu(-x.tensor)  # noqa: E731
    return Unrounded(name, compute, rounding=rounding, finest=_finest_of(x))


FUNCTIONS: dict[Function, _Activation] = {
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
    keras.activations.leaky_relu: leaky_relu,
    # Functions without an operator of their own in LiteRT: the converter's file looks them up.
    **{
        function: _table(function)
        for function in (
            keras.activations.celu, keras.activations.elu, keras.activations.exponential,
            keras.activations.hard_shrink, keras.activations.hard_tanh, keras.activations.log_sigmoid,
            keras.activations.mish, keras.activations.selu, keras.activations.soft_shrink,
            keras.activations.softplus, keras.activations.softsign, keras.activations.sparse_plus,
            keras.activations.sparse_sigmoid, keras.activations.squareplus, keras.activations.tanh_shrink,
        )
    },
}  # fmt: skip
_NAMES = {function.__name__ for function in FUNCTIONS}


def _activation_layer(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    return apply_activation(evaluator, step.name, value, step.operation.activation)


def _relu_layer(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    if layer.threshold == 0.0 and layer.max_value in (None, 6.0):
        if layer.negative_slope == 0.0:
            return (relu if layer.max_value is None else relu6)(evaluator, step.name, value)
        if layer.max_value is None:
            return leaky_relu(evaluator, step.name, value, float(layer.negative_slope))
    return _table(layer)(evaluator, step.name, value)


def _softmax_layer(evaluator: Evaluator, step: Step, value: Operand, mask: Tensor | None = None) -> Operand:
    rank = len(evaluator.materialize(value).shape)
    if step.operation.axis not in (-1, rank - 1):
        raise ValueError(
            f"A softmax must be over the last axis, as that of the device is. Received: {step.name!r} with "
            f"axis={step.operation.axis}. Permute before it, or give it in `skip`."
        )
    return masked_softmax(evaluator, step.name, value, mask)


def _leaky_relu_layer(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    return leaky_relu(evaluator, step.name, value, float(step.operation.negative_slope))


def _prelu_layer(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    return _parametric_relu(evaluator, step.name, value, ops.convert_to_tensor(step.operation.alpha))


def _elu_layer(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    alpha = float(step.operation.alpha)
    return _table(lambda x: ops.elu(x, alpha=alpha))(evaluator, step.name, value)


ACTIVATION_LAYERS: dict[type[keras.Layer], Rule] = {
    keras.layers.Activation: _activation_layer,
    keras.layers.ReLU: _relu_layer,
    keras.layers.Softmax: _softmax_layer,
    keras.layers.LeakyReLU: _leaky_relu_layer,
    keras.layers.PReLU: _prelu_layer,
    keras.layers.ELU: _elu_layer,
}
