"""Rules for attention and its parts: matrix products of two tensors (`matmul`, `einsum`) and softmax."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_notes._shared.types import Tensor, Tree
from keras_notes.compression.quantization._affine import Grid
from keras_notes.compression.quantization._evaluator import (
    FINEST,
    Evaluator,
    Operand,
    OperandOrConstant,
    Rounded,
    Unrounded,
    grid_of,
    is_operand,
    tensor_of,
)
from keras_notes.compression.quantization._integer_kernels import matmul_int
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import masked_softmax, multiply
from keras_notes.compression.quantization.rules._dense_and_conv import matrix

__all__ = ["ATTENTION_OPERATIONS"]


def _matmul(evaluator: Evaluator, step: Step, a: OperandOrConstant, b: OperandOrConstant) -> Operand:
    if not is_operand(b):
        kernel = ops.convert_to_tensor(b)
        if len(kernel.shape) == 2:
            return matrix(evaluator, step.name, a, kernel, None, variable=_variable_of(b))
    return _matrix_product(evaluator, step.name, a, b)


def _matrix_product(evaluator: Evaluator, name: str, a: OperandOrConstant, b: OperandOrConstant) -> Unrounded:
    x, y = (evaluator.operand(value, name) for value in (a, b))

    def round_product(grid: Grid) -> Tensor:
        return matmul_int(x.tensor, grid_of(x), y.tensor, grid_of(y), grid)

    def finest() -> Tensor | None:
        return None if x.grid is None or y.grid is None else x.grid.scale * y.grid.scale * FINEST

    return Unrounded(name, lambda: ops.matmul(x.tensor, y.tensor), rounding=round_product, finest=finest)


def _variable_of(constant: Tensor) -> keras.Variable | None:
    return constant if isinstance(constant, keras.Variable) else None


def _attention(
    evaluator: Evaluator,
    step: Step,
    query: Operand,
    key: Operand,
    value: Operand,
    bias: Tensor | None = None,
    mask: Rounded | Tensor | None = None,
    scale: float | None = None,
    **kwargs: Tree,
) -> Rounded:
    """Computes softmax(q k^T scale) v for tensors of shape (batch, length, heads, size)."""
    operation = step.operation
    if bias is not None:
        raise ValueError(f"An attention must have no bias. Received: {step.name!r} with one. Give it in `skip`.")
    scale = operation.scale if scale is None else scale
    q, k, v = (_permute(evaluator, operand, (0, 2, 1, 3)) for operand in (query, key, value))
    scale = float(q.shape[-1] or 1) ** -0.5 if scale is None else scale
    scaled = evaluator.materialize(multiply(evaluator, f"{step.name}/scale", q, float(scale)))
    keys = evaluator.same_grid(ops.transpose(k.tensor, (0, 1, 3, 2)), k.grid)
    scores = _matrix_product(evaluator, f"{step.name}/scores", scaled, keys)
    if operation.is_causal:
        causal = np.tril(np.ones((int(q.shape[-2] or 1), int(k.shape[-2] or 1)), bool))
        mask = causal if mask is None else ops.logical_and(tensor_of(mask), ops.convert_to_tensor(causal))
    weights = evaluator.materialize(masked_softmax(evaluator, f"{step.name}/softmax", scores, mask))
    return _permute(evaluator, _matrix_product(evaluator, step.name, weights, v), (0, 2, 1, 3))


def _permute(evaluator: Evaluator, value: Operand, axes: tuple[int, ...]) -> Rounded:
    x = evaluator.to_grid(value)
    return evaluator.same_grid(ops.transpose(x.tensor, axes), x.grid)


def _einsum(evaluator: Evaluator, step: Step, *operands: OperandOrConstant) -> Operand:
    """Computes a transposition, a projection by a matrix of weights, or a matrix product of two tensors."""
    letters, result = _subscripts(step.operation.subscripts)
    terms = letters.split(",")
    is_named = all(len(set(term)) == len(term) for term in (*terms, result))  # no "..." and no diagonal
    if len(terms) == 1 and is_named and sorted(letters) == sorted(result):
        return _permute(evaluator, operands[0], tuple(letters.index(letter) for letter in result))
    a, b = terms if len(terms) == 2 else ("", "")
    common = [letter for letter in a if letter in b and letter in result]
    summed = [letter for letter in a if letter in b and letter not in result]
    rows = [letter for letter in a if letter not in b]
    columns = [letter for letter in b if letter not in a]
    is_projection = a[-1:] in summed and len(summed) == 1 and result == "".join((*a[:-1], *columns))
    if is_projection and len(columns) == 1 and not is_operand(operands[1]):
        kernel = ops.transpose(operands[1], [b.index(letter) for letter in (*summed, *columns)])
        return matrix(evaluator, step.name, operands[0], kernel, None, variable=_variable_of(operands[1]))
    product_letters = (*common, *rows, *columns)
    is_product = (
        is_named and len(summed) == len(rows) == len(columns) == 1 and sorted(product_letters) == sorted(result)
    )
    if not is_product or not all(map(is_operand, operands)):
        raise ValueError(
            f"An einsum must be a matrix product of two results or of a result and a matrix, or a transposition. "
            f"Received: {step.name!r} with {step.operation.subscripts!r}. Give the layer around it in `skip`."
        )
    x = _permute(evaluator, operands[0], tuple(a.index(letter) for letter in (*common, *rows, *summed)))
    y = _permute(evaluator, operands[1], tuple(b.index(letter) for letter in (*common, *summed, *columns)))
    result_product = _matrix_product(evaluator, step.name, x, y)
    return _permute(evaluator, result_product, tuple(product_letters.index(letter) for letter in result))


def _subscripts(subscripts: str) -> tuple[str, str]:
    """Splits an einsum at "->"; without it the result has the letters that occur once, in alphabetical order."""
    letters, arrow, result = subscripts.replace(" ", "").partition("->")
    if not arrow:
        names = letters.replace(",", "").replace(".", "")
        result = "..." * ("..." in letters) + "".join(sorted(name for name in names if names.count(name) == 1))
    return letters, result


def _softmax(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    if step.operation.axis != -1:
        raise ValueError(f"A softmax must be over the last axis. Received: {step.name!r}. Give it in `skip`.")
    return masked_softmax(evaluator, step.name, value, None)


# Rules by the names of operation classes, which Keras does not export.
ATTENTION_OPERATIONS: dict[str, Rule] = {
    "Matmul": _matmul,
    "Einsum": _einsum,
    "DotProductAttention": _attention,
    "Softmax": _softmax,
}
