"""Rules for the first layers of a model, which bring the columns of a table to like ranges.

An input has one grid. If one column holds seconds of a day and another components around 0, all values of the second
lie within a step of that grid, and what a normalization makes of them is noise. Such a layer must compute before the
input is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.grids._fit_ranges import step_of
from keras_notes.conversion.grids._weighted_operators import input_at
from keras_notes.conversion.passes._schema import (
    WEIGHTED_OPERATORS,
    TensorRange,
    WeightPlaces,
    code_of,
    constant_of,
    name_of,
    signatures_of,
)

__all__ = ["LossyLayer", "column_spreads", "find_lossy_layers"]

_OPERATORS = schema.BuiltinOperator
_MOVES = frozenset((
    _OPERATORS.RESHAPE, _OPERATORS.EXPAND_DIMS, _OPERATORS.SQUEEZE, _OPERATORS.TRANSPOSE, _OPERATORS.SLICE,
    _OPERATORS.STRIDED_SLICE, _OPERATORS.GATHER, _OPERATORS.SPLIT, _OPERATORS.SPLIT_V, _OPERATORS.UNPACK,
))  # fmt: skip
_SUMS, _FACTORS = (_OPERATORS.ADD, _OPERATORS.SUB), (_OPERATORS.MUL, _OPERATORS.DIV)
# A step of the input that moves the result by more than this share of its range loses 2 of the 8 bits of int8.
_LARGEST_SHARE = 4 / 255
# The values of a column that lie within so many steps of the shared grid have lost 2 bits or more.
_FEW_STEPS = 64.0


class LossyLayer(NamedTuple):
    """The operators of a first layer whose results the grid of the input would ruin.

    Attributes:
        results: The names of the operators' results, from the input on.
        input: The name of the input.
        columns: The columns whose values lie within few steps of the grid.
        steps: The number of steps over which the values of the narrowest of them spread.
    """

    results: tuple[str, ...]
    input: str
    columns: tuple[int, ...]
    steps: float


def column_spreads(samples: np.ndarray) -> np.ndarray:
    """Returns the largest less the smallest value of each column, the last axis of samples."""
    columns = samples.reshape(-1, samples.shape[-1] if samples.ndim > 1 else 1)
    return columns.max(axis=0).astype("float64") - columns.min(axis=0).astype("float64")


def find_lossy_layers(
    model: schema.ModelT,
    ranges: Mapping[str, TensorRange],
    activations_of: Callable[[str], str],
    spreads: Mapping[str, np.ndarray],
) -> list[LossyLayer]:
    """Finds the first layers that must compute before the input is rounded.

    Args:
        model: A float file.
        ranges: The range of each tensor over the calibration samples, by name.
        activations_of: The type of the result of the operator that gives the tensor of this name.
        spreads: The spread of each column of an input over the calibration samples, by the name of its tensor.
    """
    layers = []
    for number, graph in enumerate(model.subgraphs):
        names = {
            name_of(graph.tensors[entry.tensorIndex]): name_of(entry)
            for signature in signatures_of(model, number)
            for entry in signature.inputs
        }
        search = _Search(model, graph, ranges, activations_of, spreads, names)
        for index in graph.inputs:
            search.start(index)
        for operator in graph.operators:
            search.follow(operator)
        layers += search.layers
    return layers


class _Rounded(NamedTuple):
    """A tensor that is an affine function of an input.

    Attributes:
        input: The name of the input's tensor.
        gains: The factor by which each element is larger than that of the grid.
        width: The difference of the largest and the smallest number of the grid.
        results: The names of the operators' results on the way from the grid.
    """

    input: str
    gains: np.ndarray
    width: float
    results: tuple[str, ...]


@dataclass
class _Search:
    model: schema.ModelT
    graph: schema.SubGraphT
    ranges: Mapping[str, TensorRange]
    activations_of: Callable[[str], str]
    spreads: Mapping[str, np.ndarray]
    # The names of the inputs, by those of their tensors.
    names: Mapping[str, str]
    layers: list[LossyLayer] = field(default_factory=list)
    _tensors: dict[int, _Rounded] = field(default_factory=dict)

    def start(self, index: int) -> None:
        """Starts at an input of the graph, whose columns must be of unlike ranges."""
        name = name_of(self.graph.tensors[index])
        if name in self.ranges and name in self.spreads:
            self._tensors[index] = _Rounded(name, np.ones(self._shape(index)), self._width(name), ())

    def follow(self, operator: schema.OperatorT) -> None:
        """Follows the input through an operator."""
        code = code_of(self.model, operator)
        places = WEIGHTED_OPERATORS.get(code)
        sources = [index for index in operator.inputs if index in self._tensors]
        result = name_of(self.graph.tensors[operator.outputs[0]])
        if len(sources) != 1 or self.activations_of(result) == "float32":
            return
        source = self._tensors[sources[0]]
        results = (*source.results, result)
        if code in _MOVES:
            for index in operator.outputs:
                self._tensors[index] = source._replace(gains=self._moved(source.gains, index), results=results)
            return
        if places is not None and sources[0] == operator.inputs[places.x]:
            gains = self._gains_of_weights(operator, places, source.gains)
        else:
            gains = self._gains_of_constant(operator, code, source)
        if gains is None or result not in self.ranges:
            return
        moved = source._replace(gains=gains, results=results)
        is_lossy = self._is_lossy(moved, result)
        if is_lossy:
            moved = _Rounded(source.input, np.ones(self._shape(operator.outputs[0])), self._width(result), ())
        if places is None and getattr(operator.builtinOptions, "fusedActivationFunction", 0) == 0:
            self._tensors[operator.outputs[0]] = moved

    def _is_lossy(self, tensor: _Rounded, result: str) -> bool:
        """Notes and returns whether a step of the input's grid is a large share of a result's range."""
        activations = self.activations_of(result)
        levels = 1.0 / step_of(0.0, 1.0, activations)
        step = tensor.width / levels
        if step * float(tensor.gains.max(initial=0.0)) <= _LARGEST_SHARE * self._width(result):
            return False
        spreads = self.spreads[tensor.input] / (self._width(tensor.input) / levels)
        columns = np.flatnonzero((spreads > 0) & (spreads < _FEW_STEPS * levels / 255))
        if columns.size == 0:
            return False
        self.layers.append(
            LossyLayer(tensor.results, self.names[tensor.input], tuple(columns.tolist()), float(spreads[columns].min()))
        )
        return True

    def _gains_of_constant(self, operator: schema.OperatorT, code: int, source: _Rounded) -> np.ndarray | None:
        """Returns the gains behind a sum with a constant, a product with it or a division by it; None for others."""
        first, second = operator.inputs[0], operator.inputs[-1]
        constant = first if second in self._tensors else second
        values = constant_of(self.model, self.graph.tensors[constant])
        is_divisor = code != _OPERATORS.DIV or constant == second
        if len(operator.inputs) != 2 or values is None or code not in (*_SUMS, *_FACTORS) or not is_divisor:
            return None
        factors = np.abs(values.astype("float64").reshape(self._shape(constant)))
        if code in _SUMS:
            factors = np.ones_like(factors)
        elif code == _OPERATORS.DIV:
            factors = 1.0 / np.maximum(factors, np.finfo("float64").tiny)
        return np.broadcast_to(source.gains * factors, self._shape(operator.outputs[0]))

    def _gains_of_weights(
        self, operator: schema.OperatorT, places: WeightPlaces, gains: np.ndarray
    ) -> np.ndarray | None:
        """Returns the gain of each channel: the root of the squares of its weights, as rounding errors add up."""
        weights = input_at(self.graph, operator, places.weights)
        values = None if weights is None else constant_of(self.model, weights)
        if weights is None or values is None:
            return None
        by_channel = np.moveaxis(values.astype("float64").reshape(tuple(weights.shape)), places.channels, 0)
        by_channel = by_channel.reshape(len(by_channel), -1)
        by_input = gains.reshape(-1) if gains.size == by_channel.shape[1] else gains.max(initial=0.0)
        return np.sqrt(np.square(by_channel * by_input).sum(axis=1))

    def _moved(self, gains: np.ndarray, index: int) -> np.ndarray:
        shape = self._shape(index)
        return gains.reshape(shape) if gains.size == np.prod(shape) else np.full(shape, gains.max(initial=0.0))

    def _width(self, name: str) -> float:
        return max(self.ranges[name].maximum, 0.0) - min(self.ranges[name].minimum, 0.0)

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)
