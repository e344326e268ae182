"""Rules for elementwise merging of tensors, and for functions of a single tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_notes.compression.quantization._evaluator import Arithmetic, Pending, Product, Value, is_result, several
from keras_notes.compression.quantization.rules._activations import (
    FUNCTIONS,
    activated,
    added,
    multiplied,
    subtracted,
)
from keras_notes.compression.quantization.rules._shapes import averaged

__all__ = ["OPERATIONS", "OPERATION_LAYERS"]

_LAYERS = keras.layers


def _sum(arithmetic: Arithmetic, step: Any, *values: Any) -> Any:
    """A sum; the bias of a product, if a vector with a number for each channel is added to it."""
    given = several(values)
    if len(given) == 2:
        for one, other in (given, given[::-1]):
            if isinstance(one, Product) and one.bias is None and not is_result(other):
                bias = ops.convert_to_tensor(other, "float32")
                if one.is_per_channel(bias.shape):
                    return one.scaled(step.name, ops.ones_like(bias), bias)
    return _chain(arithmetic, step, given, added)


def _difference(arithmetic: Arithmetic, step: Any, *values: Any) -> Pending:
    return subtracted(arithmetic, step.name, *several(values))


def _times(arithmetic: Arithmetic, step: Any, *values: Any) -> Any:
    return _chain(arithmetic, step, several(values), multiplied)


def _mean_of(arithmetic: Arithmetic, step: Any, values: Sequence[Any]) -> Pending:
    total = _chain(arithmetic, step, list(values), added, f"{step.name}/sum")
    return multiplied(arithmetic, step.name, total, 1.0 / len(values))


def _chain(arithmetic: Arithmetic, step: Any, values: list[Any], function: Callable, name: str | None = None) -> Any:
    result = values[0]
    for number, value in enumerate(values[1:], 1):
        last = number == len(values) - 1
        result = function(arithmetic, (name or step.name) if last else f"{step.name}/{number}", result, value)
    return result


def _quotient(arithmetic: Arithmetic, step: Any, value: Any, divisor: Any) -> Pending:
    if is_result(divisor):
        raise ValueError(
            f"A divisor must be a constant, for the device divides no integers by each other. Received: "
            f"{step.name!r}. Give the layer around it in `skip`."
        )
    return multiplied(arithmetic, step.name, value, 1.0 / ops.convert_to_tensor(divisor, "float32"))


def _mean(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    return averaged(arithmetic, step.name, value, step.operation.axis, step.operation.keepdims)


def _function(function: Any) -> Callable:
    def rule(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
        return activated(arithmetic, step.name, value, function)

    return rule


def _square(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    x = arithmetic.quantized(value)
    return multiplied(arithmetic, step.name, x, x)


def _cast(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    if "float" in step.operation.dtype:
        return arithmetic.floating(value)
    return Value(ops.cast(arithmetic.settled(value).tensor, step.operation.dtype))


OPERATION_LAYERS: dict[Any, Callable] = {
    _LAYERS.Add: _sum,
    _LAYERS.Subtract: _difference,
    _LAYERS.Multiply: _times,
    _LAYERS.Average: _mean_of,
}

# By the names of their classes, which Keras does not export.
OPERATIONS: dict[str, Callable] = {
    "Add": _sum,
    "Subtract": _difference,
    "Multiply": _times,
    "Divide": _quotient,
    "TrueDivide": _quotient,
    "Mean": _mean,
    "Square": _square,
    "Cast": _cast,
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
