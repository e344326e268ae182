"""What computes of several tensors, and layers of several operators: sums, attention, normalization of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes.compression.quantization._affine import Grid, product_on_grid
from keras_notes.compression.quantization._evaluator import Arithmetic, Pending, Product, Value, is_result, several
from keras_notes.compression.quantization.rules._activations import (
    FUNCTIONS,
    activated,
    added,
    masked_softmax,
    multiplied,
    subtracted,
)
from keras_notes.compression.quantization.rules._dense_and_conv import matrix
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


def _matmul(arithmetic: Arithmetic, step: Any, a: Any, b: Any) -> Any:
    if not is_result(b):
        kernel = ops.convert_to_tensor(b)
        if len(kernel.shape) == 2:
            return matrix(arithmetic, step.name, a, kernel, None)
    return _matrix_product(arithmetic, step.name, a, b)


def _matrix_product(arithmetic: Arithmetic, name: str, a: Any, b: Any) -> Pending:
    x, y = (arithmetic.operand(one, name) for one in (a, b))

    def on_grid(grid: Grid) -> Any:
        assert x.grid is not None
        assert y.grid is not None
        return product_on_grid(x.tensor, x.grid, y.tensor, y.grid, grid)

    return Pending(name, lambda: ops.matmul(x.tensor, y.tensor), rounding=on_grid)


def _attention(arithmetic: Arithmetic, step: Any, query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None,
               scale: Any = None, **kwargs: Any) -> Value:  # fmt: skip
    """softmax(q k^T scale) v, of tensors of shape (batch, length, heads, size)."""
    operation = step.operation
    if bias is not None:
        raise ValueError(f"An attention must have no bias. Received: {step.name!r} with one. Give it in `skip`.")
    scale = operation.scale if scale is None else scale
    q, k, v = (_permuted(arithmetic, one, (0, 2, 1, 3)) for one in (query, key, value))
    scale = float(q.shape[-1] or 1) ** -0.5 if scale is None else scale
    scaled = arithmetic.settled(multiplied(arithmetic, f"{step.name}/scale", q, float(scale)))
    keys = arithmetic.moved(ops.transpose(k.tensor, (0, 1, 3, 2)), k.grid)
    scores = _matrix_product(arithmetic, f"{step.name}/scores", scaled, keys)
    if operation.is_causal:
        causal = np.tril(np.ones((int(q.shape[-2] or 1), int(k.shape[-2] or 1)), bool))
        given = None if mask is None else (mask.tensor if isinstance(mask, Value) else mask)
        mask = causal if given is None else ops.logical_and(given, ops.convert_to_tensor(causal))
    weights = arithmetic.settled(masked_softmax(arithmetic, f"{step.name}/softmax", scores, mask))
    return _permuted(arithmetic, _matrix_product(arithmetic, step.name, weights, v), (0, 2, 1, 3))


def _permuted(arithmetic: Arithmetic, value: Any, axes: tuple[int, ...]) -> Value:
    x = arithmetic.quantized(value)
    return arithmetic.moved(ops.transpose(x.tensor, axes), x.grid)


def _einsum(arithmetic: Arithmetic, step: Any, *operands: Any) -> Any:
    """A transposition, a projection by a matrix of weights, or a matrix product of two tensors."""
    letters, result = _subscripts(step.operation.subscripts)
    terms = letters.split(",")
    is_named = all(len(set(term)) == len(term) for term in (*terms, result))  # no "..." and no diagonal
    if len(terms) == 1 and is_named and sorted(letters) == sorted(result):
        return _permuted(arithmetic, operands[0], tuple(letters.index(letter) for letter in result))
    a, b = terms if len(terms) == 2 else ("", "")
    common = [letter for letter in a if letter in b and letter in result]
    summed = [letter for letter in a if letter in b and letter not in result]
    rows = [letter for letter in a if letter not in b]
    columns = [letter for letter in b if letter not in a]
    is_projection = a[-1:] in summed and len(summed) == 1 and result == "".join((*a[:-1], *columns))
    if is_projection and len(columns) == 1 and not is_result(operands[1]):
        kernel = ops.transpose(operands[1], [b.index(letter) for letter in (*summed, *columns)])
        return matrix(arithmetic, step.name, operands[0], kernel, None)
    product = (*common, *rows, *columns)
    is_product = is_named and len(summed) == len(rows) == len(columns) == 1 and sorted(product) == sorted(result)
    if not is_product or not all(map(is_result, operands)):
        raise ValueError(
            f"An einsum must be a matrix product of two results or of a result and a matrix, or a transposition. "
            f"Received: {step.name!r} with {step.operation.subscripts!r}. Give the layer around it in `skip`."
        )
    x = _permuted(arithmetic, operands[0], tuple(a.index(letter) for letter in (*common, *rows, *summed)))
    y = _permuted(arithmetic, operands[1], tuple(b.index(letter) for letter in (*common, *summed, *columns)))
    pending = _matrix_product(arithmetic, step.name, x, y)
    return _permuted(arithmetic, pending, tuple(product.index(letter) for letter in result))


def _subscripts(subscripts: str) -> tuple[str, str]:
    """Both sides of an einsum; without "->" the result has the letters that occur once, in alphabetical order."""
    letters, arrow, result = subscripts.replace(" ", "").partition("->")
    if not arrow:
        names = letters.replace(",", "").replace(".", "")
        result = "..." * ("..." in letters) + "".join(sorted(name for name in names if names.count(name) == 1))
    return letters, result


def _mean(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    return averaged(arithmetic, step.name, value, step.operation.axis, step.operation.keepdims)


def _function(function: Any) -> Callable:
    def rule(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
        return activated(arithmetic, step.name, value, function)

    return rule


def _softmax(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    if step.operation.axis != -1:
        raise ValueError(f"A softmax must be over the last axis. Received: {step.name!r}. Give it in `skip`.")
    return masked_softmax(arithmetic, step.name, value, None)


def _inverse_root(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    return arithmetic.inverse_root(step.name, arithmetic.quantized(value))


def _square(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    x = arithmetic.quantized(value)
    return multiplied(arithmetic, step.name, x, x)


def _cast(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    if "float" in step.operation.dtype:
        return arithmetic.floating(value)
    return Value(ops.cast(arithmetic.settled(value).tensor, step.operation.dtype))


def _layer_normalization(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    """As conversion lowers it: (x - mean) * rsqrt(mean((x - mean)^2) + epsilon) * gamma + beta."""
    layer = step.operation
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    x = arithmetic.quantized(value)
    if isinstance(layer, _LAYERS.LayerNormalization) and not layer.rms_scaling:
        x = _deviation(arithmetic, step.name, x, axes)
    scale = _inverse_deviation(arithmetic, step.name, x, axes, layer.epsilon)
    gamma = layer.gamma if isinstance(layer, _LAYERS.LayerNormalization) else layer.scale
    beta = layer.beta if isinstance(layer, _LAYERS.LayerNormalization) else None
    return _scaled(arithmetic, step.name, multiplied(arithmetic, f"{step.name}/normalized", x, scale), gamma, beta)


def _deviation(arithmetic: Arithmetic, name: str, x: Value, axes: list[int]) -> Value:
    mean = arithmetic.settled(averaged(arithmetic, f"{name}/mean", x, axes, True))
    return arithmetic.settled(subtracted(arithmetic, f"{name}/deviation", x, mean))


def _inverse_deviation(arithmetic: Arithmetic, name: str, x: Value, axes: list[int], epsilon: float) -> Value:
    squares = arithmetic.settled(multiplied(arithmetic, f"{name}/square", x, x))
    variance = averaged(arithmetic, f"{name}/variance", squares, axes, True)
    shifted = arithmetic.settled(added(arithmetic, f"{name}/epsilon", variance, epsilon))
    return arithmetic.inverse_root(f"{name}/rsqrt", shifted)


def _scaled(arithmetic: Arithmetic, name: str, value: Any, gamma: Any, beta: Any) -> Any:
    if gamma is not None:
        value = multiplied(arithmetic, name if beta is None else f"{name}/scaled", value, gamma)
    return value if beta is None else added(arithmetic, name, value, beta)


OPERATION_LAYERS: dict[Any, Callable] = {
    _LAYERS.Add: _sum,
    _LAYERS.Subtract: _difference,
    _LAYERS.Multiply: _times,
    _LAYERS.Average: _mean_of,
    _LAYERS.LayerNormalization: _layer_normalization,
    _LAYERS.RMSNormalization: _layer_normalization,
}

# By the names of their classes, which Keras does not export.
OPERATIONS: dict[str, Callable] = {
    "Add": _sum,
    "Subtract": _difference,
    "Multiply": _times,
    "Divide": _quotient,
    "TrueDivide": _quotient,
    "Matmul": _matmul,
    "Einsum": _einsum,
    "DotProductAttention": _attention,
    "Mean": _mean,
    "Softmax": _softmax,
    "Rsqrt": _inverse_root,
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
