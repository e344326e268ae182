"""Lookup tables: any function of a single tensor in operators of LiteRT on integers.

An int8 tensor has 256 values, so that a GATHER of a table with the nearest integer for each computes every function
exactly. A table for int16 would have 65,536 entries: there the function is interpolated between nodes, in int32, with
as many nodes as keep each of the 65,536 results within 1 of the nearest integer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import add_constant, code_index, name_of

__all__ = ["TableBuilder"]

_OPERATORS, _OPTIONS, _TYPES = schema.BuiltinOperator, schema.BuiltinOptions, schema.TensorType
_INT32 = "<i4"
_LIMITS = {_TYPES.INT8: (-128, 127), _TYPES.INT16: (-32768, 32767)}
# Integers between two nodes, as exponents of 2; the fewer, the larger the tables.
_SPACINGS = (8, 7, 6, 5, 4, 3)
_MAXIMUM_ERROR = 1
# Bits of an interpolated value before it is divided: 15 of the result, the others for its fraction and the spacing.
_FRACTION_AND_SPACING = 14

_Options: TypeAlias = tuple[int, object]


@dataclass(frozen=True)
class _Interpolation:
    """An interpolation in int32.

    With i = x / 2^spacing, rounded down, a result is
    (offsets[i] + slopes[i] * (x mod 2^spacing)) / 2^(spacing + fraction), rounded down.

    Attributes:
        spacing: Integers between two nodes, as exponent of 2.
        fraction: Bits behind the point of an interpolated value.
        offsets: Value at each node, and a half, in units of 2^-(spacing + fraction).
        slopes: Difference of the values at two nodes, in units of 2^-fraction.
    """

    spacing: int
    fraction: int
    offsets: np.ndarray
    slopes: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, spacing: int) -> _Interpolation:
        """Interpolates values at the integers from -32,768 to 32,768, which are within the range of int16."""
        fraction = _FRACTION_AND_SPACING - spacing
        nodes = np.rint(values[:: 2**spacing].astype("float64") * 2.0**fraction).astype("int64")
        offsets = nodes[:-1] * 2**spacing + 2 ** (spacing + fraction - 1)
        return cls(spacing, fraction, offsets.astype(_INT32), np.diff(nodes).astype(_INT32))

    def compute(self) -> np.ndarray:
        """Returns the result for each of the 65,536 integers."""
        steps = np.arange(65536)
        node, rest = steps >> self.spacing, steps & (2**self.spacing - 1)
        return (self.offsets[node].astype("int64") + self.slopes[node].astype("int64") * rest) >> (
            self.spacing + self.fraction
        )


class TableBuilder:
    """Builds the operators that compute a result from a source, and their tensors.

    Args:
        model: A quantized file.
        graph: A graph of it, which gets the tensors of the tables.
        source: Index of the tensor that is looked up, int8 or int16.
        result: Index of the tensor with the results, of the same type.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT, source: int, result: int) -> None:
        self._model = model
        self._graph = graph
        self._source = source
        self._result = result
        self._operators: list[schema.OperatorT] = []

    def compute(self, function: Callable[[np.ndarray], np.ndarray]) -> list[schema.OperatorT]:
        """Returns operators that compute a function of the source, on the grids of the source and the result.

        Args:
            function: Function of float32 values, one by one.
        """
        source, result = self._graph.tensors[self._source], self._graph.tensors[self._result]
        minimum, maximum = _LIMITS[result.type]
        # For 16 bits one more, between which and the largest integer values are interpolated.
        integers = np.arange(minimum, maximum + 1 + (result.type == _TYPES.INT16))
        (x_scale, x_zero_point), (scale, zero_point) = _grid(source), _grid(result)
        x = ((integers - x_zero_point) * x_scale).astype("float32")
        values = function(x)
        low, high = values.min(), values.max()
        if result.type == _TYPES.INT16 and np.array_equal(values, np.clip(x, low, high)):
            limits = np.clip(np.rint(np.array([low, high]) / x_scale), minimum, maximum).astype("<i2")
            return self._clip(*limits)
        # Multiplied by the reciprocal in float32, as training does; beyond its range a value is clipped.
        with np.errstate(over="ignore", invalid="ignore"):
            steps = values * (np.float32(1.0) / np.float32(scale)) + zero_point
        return self._look_up(steps)

    def _look_up(self, values: np.ndarray) -> list[schema.OperatorT]:
        """Returns operators that look up each integer of the source.

        Args:
            values: Result for each integer from the smallest on, in units of the result's scale, its zero point
                included, not rounded; for int16 also for the integer after the largest.
        """
        minimum, maximum = _LIMITS[self._graph.tensors[self._result].type]
        values = np.clip(np.nan_to_num(values, nan=0.0), minimum, maximum)
        if self._graph.tensors[self._result].type == _TYPES.INT8:
            return self._gather(np.rint(values).astype("int8"))
        nearest = np.rint(values[:-1])
        for spacing in _SPACINGS:
            interpolation = _Interpolation.of(values, spacing)
            if np.abs(interpolation.compute() - nearest).max() <= _MAXIMUM_ERROR:
                return self._interpolate(interpolation)
        return self._gather(nearest.astype("<i2"))

    def _clip(self, minimum: np.int16, maximum: np.int16) -> list[schema.OperatorT]:
        """Returns operators that clip the source to integers of its own grid, and move it to that of the result."""
        clipped = self._source
        for name, code, limit in (("maximum", _OPERATORS.MINIMUM, maximum), ("minimum", _OPERATORS.MAXIMUM, minimum)):
            constant = self._constant(name, np.array([limit], "<i2"), like=self._source)
            tensor = copy.copy(self._graph.tensors[self._source])
            tensor.name = f"{name_of(self._graph.tensors[self._result])}/{name}_of".encode()
            self._graph.tensors.append(tensor)
            options = (_OPTIONS.MaximumMinimumOptions, schema.MaximumMinimumOptionsT())
            clipped = self._add(code, [clipped, constant], options, len(self._graph.tensors) - 1)
        self._add(_OPERATORS.QUANTIZE, [clipped], (_OPTIONS.NONE, None), self._result)
        return self._operators

    def _gather(self, table: np.ndarray) -> list[schema.OperatorT]:
        """Gathers the results from a table."""
        constant = self._constant("table", table, like=self._result)
        self._add(_OPERATORS.GATHER, [constant, self._index(len(table) // 2)], _gathering(), self._result)
        return self._operators

    def _interpolate(self, interpolation: _Interpolation) -> list[schema.OperatorT]:
        """Interpolates the results between nodes."""
        spacing = self._integer("spacing", 2**interpolation.spacing)
        index = self._index(32768)
        node = self._add(_OPERATORS.FLOOR_DIV, [index, spacing], (_OPTIONS.FloorDivOptions, schema.FloorDivOptionsT()))
        rest = self._add(_OPERATORS.FLOOR_MOD, [index, spacing], (_OPTIONS.FloorModOptions, schema.FloorModOptionsT()))
        offset = self._add(_OPERATORS.GATHER, [self._constant("offsets", interpolation.offsets), node], _gathering())
        slope = self._add(_OPERATORS.GATHER, [self._constant("slopes", interpolation.slopes), node], _gathering())
        rise = self._add(_OPERATORS.MUL, [slope, rest], (_OPTIONS.MulOptions, schema.MulOptionsT()))
        total = self._add(_OPERATORS.ADD, [offset, rise], (_OPTIONS.AddOptions, schema.AddOptionsT()))
        divisor = self._integer("divisor", 2 ** (interpolation.spacing + interpolation.fraction))
        quotient = self._add(
            _OPERATORS.FLOOR_DIV, [total, divisor], (_OPTIONS.FloorDivOptions, schema.FloorDivOptionsT())
        )
        self._add(_OPERATORS.CAST, [quotient], _cast(_TYPES.INT32, _TYPES.INT16), self._result)
        return self._operators

    def _index(self, offset: int) -> int:
        """Counts the integers of the source from 0."""
        integers = self._add(
            _OPERATORS.CAST, [self._source], _cast(self._graph.tensors[self._source].type, _TYPES.INT32)
        )
        addition = (_OPTIONS.AddOptions, schema.AddOptionsT())
        return self._add(_OPERATORS.ADD, [integers, self._integer("offset", offset)], addition)

    def _add(self, code: int, inputs: list[int], options: _Options, result: int | None = None) -> int:
        """Adds an operator; returns its result, a new int32 tensor by default."""
        if result is None:
            tensor = self._tensor(f"index{len(self._operators)}", _TYPES.INT32)
            tensor.shape, tensor.buffer = self._graph.tensors[self._result].shape, 0
            tensor.shapeSignature = self._graph.tensors[self._result].shapeSignature
            self._graph.tensors.append(tensor)
            result = len(self._graph.tensors) - 1
        operator = schema.OperatorT()
        operator.opcodeIndex = code_index(self._model, code)
        operator.inputs, operator.outputs = inputs, [result]
        operator.builtinOptionsType, operator.builtinOptions = options
        self._operators.append(operator)
        return result

    def _integer(self, name: str, value: int) -> int:
        return self._constant(name, np.array([value], _INT32))

    def _constant(self, name: str, values: np.ndarray, like: int | None = None) -> int:
        """Adds a constant in int32, or with the type and the grid of another tensor."""
        tensor = self._tensor(name, _TYPES.INT32)
        tensor.shape = [len(values)]
        if like is not None:
            tensor.type, tensor.quantization = self._graph.tensors[like].type, self._graph.tensors[like].quantization
        return add_constant(self._model, self._graph, tensor, values)

    def _tensor(self, name: str, tensor_type: int) -> schema.TensorT:
        tensor = schema.TensorT()
        tensor.name = f"{name_of(self._graph.tensors[self._result])}/{name}".encode()
        tensor.type = tensor_type
        return tensor


def _gathering() -> _Options:
    options = schema.GatherOptionsT()
    options.axis = 0
    return _OPTIONS.GatherOptions, options


def _cast(before: int, after: int) -> _Options:
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = before, after
    return _OPTIONS.CastOptions, options


def _grid(tensor: schema.TensorT) -> tuple[np.float32, int]:
    return np.float32(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
