"""Comparisons with constants, which must not depend on how two grids round.

Masking compares steps of a sequence with a number, 7.0 say. The quantizer gives the number a grid of its own: on that
grid it is 7.0, on the grid of the sequence 6.98, and no step is masked. The orders (GREATER, LESS, ...) it leaves in
floating point.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.grids._weighted_operators import float_values
from keras_notes.conversion.passes._schema import (
    add_constant,
    code_index,
    code_of,
    constant_of,
    constants_by_name,
    name_of,
    signatures_of,
)

__all__ = ["compare_on_one_grid", "find_input_comparisons"]

_OPERATORS = schema.BuiltinOperator
# How the constant is rounded: so that an integer of the grid compares as the number that it stands for does.
_ROUNDING: dict[int, Callable] = {
    _OPERATORS.EQUAL: np.round,
    _OPERATORS.NOT_EQUAL: np.round,
    _OPERATORS.GREATER: np.floor,
    _OPERATORS.LESS_EQUAL: np.floor,
    _OPERATORS.GREATER_EQUAL: np.ceil,
    _OPERATORS.LESS: np.ceil,
}
_MOVES = (_OPERATORS.RESHAPE, _OPERATORS.EXPAND_DIMS, _OPERATORS.SQUEEZE, _OPERATORS.TRANSPOSE, _OPERATORS.SLICE,
          _OPERATORS.STRIDED_SLICE, _OPERATORS.GATHER, _OPERATORS.SPLIT, _OPERATORS.UNPACK)  # fmt: skip
_INTEGERS = {schema.TensorType.INT8: "int8", schema.TensorType.INT16: "int16"}
# The first version of each comparison that takes integers.
_VERSION = 2


def find_input_comparisons(
    model: schema.ModelT, activations_of: Callable[[str], str], functions: Collection[str]
) -> list[str]:
    """Returns the results of comparisons of an input with constants, and of the operators that move it there.

    With inputs in floating point, they need not see integers at all.

    Args:
        model: A float file.
        activations_of: The type of the result of the operator that gives the tensor of this name.
        functions: The names of tensors in functions that become tables of integers: comparisons there are left out.
    """
    results = []
    for graph in model.subgraphs:
        ways: dict[int, tuple[str, ...]] = dict.fromkeys(graph.inputs, ())
        for operator in graph.operators:
            code, result = code_of(model, operator), name_of(graph.tensors[operator.outputs[0]])
            sources = [index for index in operator.inputs if index in ways]
            if code in _MOVES and operator.inputs[0] in ways:
                ways.update(dict.fromkeys(operator.outputs, (*ways[operator.inputs[0]], result)))
            others = [index for index in operator.inputs if index not in ways]
            is_constant = all(constant_of(model, graph.tensors[index]) is not None for index in others)
            if result in functions or activations_of(result) == "float32":
                continue
            if code in _ROUNDING and sources and is_constant:
                results += [*(name for index in sources for name in ways[index]), result]
    return list(dict.fromkeys(results))


def compare_on_one_grid(model: schema.ModelT, float_model: schema.ModelT) -> bool:
    """Gives each constant that integers are compared with the grid of these integers.

    Args:
        model: A quantized file.
        float_model: The float file that it was made of, with the same names.
    """
    constants = constants_by_name(float_model)
    changed = False
    for index, graph in enumerate(model.subgraphs):
        outputs = {entry.tensorIndex for signature in signatures_of(model, index) for entry in signature.outputs}
        comparisons = _Comparisons(model, graph, constants)
        fitted = [comparisons.fit(operator) for operator in list(graph.operators)]
        if any(fitted):
            changed = True
            _drop_unused_edges(model, graph, outputs | set(graph.outputs))
    return changed


@dataclass
class _Comparisons:
    """The comparisons of a graph."""

    model: schema.ModelT
    graph: schema.SubGraphT
    constants: dict[str, np.ndarray]

    def fit(self, operator: schema.OperatorT) -> bool:
        """Puts the constant of a comparison on the grid of the other side; returns whether it was not there."""
        code = code_of(self.model, operator)
        if code not in _ROUNDING:
            return False
        for place, other in ((1, 0), (0, 1)):
            constant = self.graph.tensors[operator.inputs[place]]
            values = float_values(constant, self.constants)
            source = self._integers_behind(operator.inputs[other])
            if values is None or self.model.buffers[constant.buffer].data is None or source is None:
                continue
            if _has_grid(constant, self.graph.tensors[source]):
                return False
            # With the constant first the order is the other way round.
            rounding = _ROUNDING[code] if place == 1 else _MIRRORED.get(code, np.round)
            inputs = list(operator.inputs)
            inputs[place], inputs[other] = self._add_constant(constant, values, source, rounding), source
            operator.inputs = inputs
            operator.opcodeIndex = code_index(self.model, code)
            known = self.model.operatorCodes[operator.opcodeIndex]
            known.version = max(known.version, _VERSION)
            return True
        return False

    def _integers_behind(self, index: int) -> int | None:
        """Returns the integer tensor that a tensor is, or is dequantized from."""
        if self.graph.tensors[index].type in _INTEGERS:
            return index
        for operator in self.graph.operators:
            if index in operator.outputs and code_of(self.model, operator) == _OPERATORS.DEQUANTIZE:
                return operator.inputs[0] if self.graph.tensors[operator.inputs[0]].type in _INTEGERS else None
        return None

    def _add_constant(self, constant: schema.TensorT, values: np.ndarray, source: int, rounding: Callable) -> int:
        grid = self.graph.tensors[source]
        dtype = _INTEGERS[grid.type]
        limits = np.iinfo(dtype)
        # Rounded to float32 as the kernels do, so that a number of the grid stays where it is.
        steps = (values / np.float32(grid.quantization.scale[0])).astype("float32")
        near = np.round(steps)
        steps = np.where(np.abs(steps - near) < 1e-4 * np.maximum(np.abs(near), 1), near, rounding(steps))
        integers = np.clip(steps + int(grid.quantization.zeroPoint[0]), limits.min, limits.max)
        tensor = copy.copy(constant)
        tensor.type, tensor.quantization = grid.type, copy.copy(grid.quantization)
        tensor.name = f"{name_of(constant)}#on_grid_{len(self.graph.tensors)}".encode()
        return add_constant(self.model, self.graph, tensor, integers.astype(f"<i{limits.bits // 8}"))


_MIRRORED: dict[int, Callable] = {
    _OPERATORS.GREATER: np.ceil,
    _OPERATORS.LESS_EQUAL: np.ceil,
    _OPERATORS.GREATER_EQUAL: np.floor,
    _OPERATORS.LESS: np.floor,
}


def _has_grid(tensor: schema.TensorT, other: schema.TensorT) -> bool:
    if tensor.type != other.type or tensor.quantization is None or tensor.quantization.scale is None:
        return False
    return bool(
        tensor.quantization.scale[0] == other.quantization.scale[0]
        and tensor.quantization.zeroPoint[0] == other.quantization.zeroPoint[0]
    )


def _drop_unused_edges(model: schema.ModelT, graph: schema.SubGraphT, outputs: set[int]) -> None:
    """Drops each DEQUANTIZE whose result nothing uses any more."""
    used = outputs | {index for operator in graph.operators for index in operator.inputs}
    graph.operators = [
        operator
        for operator in graph.operators
        if code_of(model, operator) != _OPERATORS.DEQUANTIZE or operator.outputs[0] in used
    ]
