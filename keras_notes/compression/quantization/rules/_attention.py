"""Rules for matrix products of two tensors: `matmul`, `einsum`, softmax and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_notes.compression.quantization._affine import Grid
from keras_notes.compression.quantization._evaluator import Arithmetic, Pending, Value, is_result
from keras_notes.compression.quantization._integer_kernels import product_on_grid
from keras_notes.compression.quantization.rules._activations import masked_softmax, multiplied
from keras_notes.compression.quantization.rules._dense_and_conv import matrix

__all__ = ["ATTENTION_OPERATIONS"]


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


def _softmax(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    if step.operation.axis != -1:
        raise ValueError(f"A softmax must be over the last axis. Received: {step.name!r}. Give it in `skip`.")
    return masked_softmax(arithmetic, step.name, value, None)


# By the names of their classes, which Keras does not export.
ATTENTION_OPERATIONS: dict[str, Callable] = {
    "Matmul": _matmul,
    "Einsum": _einsum,
    "DotProductAttention": _attention,
    "Softmax": _softmax,
}
