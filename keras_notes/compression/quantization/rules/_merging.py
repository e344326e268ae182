"""Rules for elementwise merging of tensors, and for functions of a single tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
from keras import ops

from keras_notes._shared.types import Tree
from keras_notes.compression.quantization._evaluator import (
    Evaluator,
    Function,
    Operand,
    OperandOrConstant,
    Rounded,
    Unrounded,
    WeightedSum,
    is_operand,
    operands_of,
)
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import (
    FUNCTIONS,
    absolute,
    add,
    apply_activation,
    leaky_relu,
    lookup,
    multiply,
    subtract,
)
from keras_notes.compression.quantization.rules._shapes import reduce_mean

__all__ = ["OPERATIONS", "OPERATION_LAYERS"]

_LAYERS = keras.layers
_Merge: TypeAlias = Callable[[Evaluator, str, OperandOrConstant, OperandOrConstant], Unrounded]


def _sum(evaluator: Evaluator, step: Step, *values: OperandOrConstant) -> Operand:
    """Adds values; a constant with a number for each channel becomes the bias of a weighted sum."""
    operands = operands_of(values)
    if len(operands) == 2:
        for operand, other in (operands, operands[::-1]):
            if isinstance(operand, WeightedSum) and operand.bias is None and not is_operand(other):
                bias = ops.convert_to_tensor(other, "float32")
                if operand.is_per_channel(bias.shape):
                    return operand.scaled(step.name, ops.ones_like(bias), bias)
    return _chain(evaluator, step, operands, add)


def _difference(evaluator: Evaluator, step: Step, *values: OperandOrConstant) -> Unrounded:
    return subtract(evaluator, step.name, *operands_of(values))


def _product(evaluator: Evaluator, step: Step, *values: OperandOrConstant) -> Operand:
    return _chain(evaluator, step, operands_of(values), multiply)


def _average(evaluator: Evaluator, step: Step, values: Sequence[OperandOrConstant]) -> Unrounded:
    total = _chain(evaluator, step, list(values), add, f"{step.name}/sum")
    return multiply(evaluator, step.name, total, 1.0 / len(values))


def _chain(
    evaluator: Evaluator, step: Step, values: list[OperandOrConstant], function: _Merge, name: str | None = None
) -> Operand:
    """Merges values from left to right; the last result is rounded at the point `name`, by default that of the step."""
    result = values[0]
    for number, value in enumerate(values[1:], 1):
        is_last = number == len(values) - 1
        result = function(evaluator, (name or step.name) if is_last else f"{step.name}/{number}", result, value)
    return result


def _quotient(evaluator: Evaluator, step: Step, value: OperandOrConstant, divisor: OperandOrConstant) -> Operand:
    if is_operand(divisor) and not is_operand(value) and _is_number(value):
        return lookup(lambda x: value / x)(evaluator, step.name, divisor)
    if is_operand(divisor):
        raise ValueError(
            f"A divisor must be a constant, because the device has no operator that divides integers. Received: "
            f"{step.name!r}. Give the layer around it in `skip`."
        )
    return multiply(evaluator, step.name, value, 1.0 / ops.convert_to_tensor(divisor, "float32"))


def _mean(evaluator: Evaluator, step: Step, value: Operand) -> Unrounded:
    return reduce_mean(evaluator, step.name, value, step.operation.axis, step.operation.keepdims)


def _function(function: Function) -> Rule:
    def rule(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
        return apply_activation(evaluator, step.name, value, function)

    return rule


def _leaky_relu(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    return leaky_relu(evaluator, step.name, value, float(step.operation.negative_slope))


def _absolute(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    return absolute(evaluator, step.name, value)


def _negative(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    return multiply(evaluator, step.name, value, -1.0)


def _is_number(value: OperandOrConstant) -> bool:
    """Whether a value is a constant of one element."""
    return not is_operand(value) and math.prod(getattr(value, "shape", ())) == 1


def _elementwise(evaluator: Evaluator, step: Step, value: OperandOrConstant, *args: Tree, **kwargs: Tree) -> Operand:
    """Looks up any function of one tensor; other arguments must be numbers."""
    others = [leaf for leaf in keras.tree.flatten((args, kwargs)) if leaf is not None]
    if not is_operand(value) or any(not _is_number(other) for other in others):
        raise ValueError(
            f"An operation must be a function of one tensor and of numbers, because the device looks it up in a table. "
            f"Received: {step.name!r} with other arguments. Give the layer around it in `skip`."
        )
    return lookup(lambda x: step.operation(x, *args, **kwargs))(evaluator, step.name, value)


def _square(evaluator: Evaluator, step: Step, value: Operand) -> Unrounded:
    x = evaluator.to_grid(value)
    return multiply(evaluator, step.name, x, x)


def _cast(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    if "float" in step.operation.dtype:
        return evaluator.to_float(value)
    return Rounded(ops.cast(evaluator.materialize(value).tensor, step.operation.dtype))


# Functions of one tensor that LiteRT can compute in floating point.
_ELEMENTWISE = (
    "Ceil", "Celu", "Clip", "Cos", "Elu", "Exp", "Expm1", "Floor", "HardShrink", "HardTanh", "Log", "Log1p",
    "LogSigmoid", "Power", "Reciprocal", "Round", "Selu", "Sign", "Sin", "SoftShrink", "Softplus", "Softsign",
    "SparsePlus", "SparseSigmoid", "Sqrt", "Squareplus", "TanhShrink", "Threshold",
)  # fmt: skip

OPERATION_LAYERS: dict[type[keras.Layer], Rule] = {
    _LAYERS.Add: _sum,
    _LAYERS.Subtract: _difference,
    _LAYERS.Multiply: _product,
    _LAYERS.Average: _average,
}

# Rules by the names of operation classes, which Keras does not export.
OPERATIONS: dict[str, Rule] = {
    "Add": _sum,
    "Subtract": _difference,
    "Multiply": _product,
    "Divide": _quotient,
    "TrueDivide": _quotient,
    "Mean": _mean,
    "Square": _square,
    "Cast": _cast,
    "LeakyRelu": _leaky_relu,
    "Abs": _absolute,
    "Absolute": _absolute,
    "Negative": _negative,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **{
        name: _function(function)
        for name, function in (
            ("Relu", keras.activations.relu),
            ("Relu6", keras.activations.relu6),
            ("Sigmoid", keras.activations.sigmoid),
            ("Tanh", keras.activations.tanh),
            ("Silu", keras.activations.silu),
            ("Gelu", keras.activations.gelu),
            ("HardSigmoid", keras.activations.hard_sigmoid),
            ("HardSilu", keras.activations.hard_silu),
        )
        if function in FUNCTIONS
    },
}
