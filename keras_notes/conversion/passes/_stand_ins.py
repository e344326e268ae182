"""Passes around ai-edge-quantizer for the operators that it leaves in floating point.

`insert_stand_ins` puts an operator that the quantizer knows, and that has the same rules for its grids, in the place of
one that it does not know. After the quantizer, `replace_stand_ins` puts the operator itself back where LiteRT has a
kernel on integers for it, and a lookup table otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._elementwise import (
    Composition,
    Region,
    evaluate,
    find_regions,
    is_float,
    multiplication,
)
from keras_notes.conversion.passes._lookup_tables import TableBuilder
from keras_notes.conversion.passes._schema import (
    TensorRange,
    add_constant,
    code_index,
    code_of,
    drop_unused_codes,
    drop_unused_tensors,
    name_of,
    new_operator,
    signatures_of,
)

__all__ = ["StandIns"]

_OPERATORS, _OPTIONS = schema.BuiltinOperator, schema.BuiltinOptions
# Functions of one tensor: the quantizer knows these, or `_Insertion` writes them in others that it knows.
_KNOWN = frozenset(
    {
        _OPERATORS.ABS, _OPERATORS.ADD, _OPERATORS.EQUAL, _OPERATORS.GELU, _OPERATORS.HARD_SWISH,
        _OPERATORS.LEAKY_RELU, _OPERATORS.LOGISTIC, _OPERATORS.MAXIMUM, _OPERATORS.MINIMUM, _OPERATORS.MUL,
        _OPERATORS.NEG, _OPERATORS.NOT_EQUAL, _OPERATORS.RELU, _OPERATORS.RELU6, _OPERATORS.RELU_0_TO_1,
        _OPERATORS.RELU_N1_TO_1, _OPERATORS.RESHAPE, _OPERATORS.RSQRT, _OPERATORS.SELECT, _OPERATORS.SELECT_V2,
        _OPERATORS.SQRT, _OPERATORS.SQUARE, _OPERATORS.SQUARED_DIFFERENCE, _OPERATORS.SUB, _OPERATORS.TANH,
    }
)  # fmt: skip
# Those with a kernel on integers that gives the nearest integer or its neighbour, by the type of activations. (The
# kernels for int16 of EXP and LOG are off by 5 and by 1,583 steps.)
_KERNELS = {
    "int8": {
        _OPERATORS.ABS, _OPERATORS.EXP, _OPERATORS.LEAKY_RELU, _OPERATORS.LOG, _OPERATORS.RELU6,
        _OPERATORS.RELU_0_TO_1, _OPERATORS.RELU_N1_TO_1,
    },
    "int16": {_OPERATORS.ABS, _OPERATORS.LEAKY_RELU},
}  # fmt: skip
# Kernels that give the very integers that training computes.
_TRAINED_KERNELS = {_OPERATORS.ABS, _OPERATORS.EXP, _OPERATORS.LEAKY_RELU, _OPERATORS.LOG}
_CLIPS = {_OPERATORS.RELU6, _OPERATORS.RELU_0_TO_1, _OPERATORS.RELU_N1_TO_1}
# An operator with a grid of its own for its result.
_FUNCTION = _OPERATORS.SQRT
# Operators whose tensors share a grid, by those that the quantizer does not know.
_SAME_GRID = {
    _OPERATORS.MINIMUM: _OPERATORS.MAXIMUM,
    _OPERATORS.REDUCE_MAX: _OPERATORS.REDUCE_MIN,
}


@dataclass(frozen=True)
class _StandIn:
    """An operator in the place of others.

    Attributes:
        graph: Index of the graph.
        code: Code of the operator.
        original: Operator that it stands for; None for a function without a kernel.
        original_code: Code of that operator.
        region: Operators that compute the function, in the float file.
    """

    graph: int
    code: int
    original: schema.OperatorT | None
    original_code: int
    region: Region


@dataclass
class StandIns:
    """The stand-ins of a file: `insert` before the quantizer, `replace` after it.

    Args:
        model: The float file, without stand-ins.
        ranges: The range of each tensor that gets a grid, by name; gets those of tensors that are added.
        activations_of: Function that gives the type "int8" or "int16" in which the operator that gives the tensor of
            this name is to compute; None for any other.
        is_trained: Whether the tensors with ranges are exactly those that are rounded.
    """

    model: schema.ModelT
    ranges: dict[str, TensorRange]
    activations_of: Callable[[str], str | None]
    is_trained: bool
    _by_result: dict[str, _StandIn] = field(default_factory=dict)

    def insert(self, model: schema.ModelT) -> bool:
        """Puts stand-ins into a copy of the float file."""
        changes = [_Insertion(self, model, index, graph).run() for index, graph in enumerate(model.subgraphs)]
        return any(changes)

    def names_in_functions(self) -> set[str]:
        """Returns the names of the tensors that the operators in functions of one tensor give, in the float file."""
        return {
            name_of(graph.tensors[graph.operators[operator].outputs[0]])
            for index, graph in enumerate(self.model.subgraphs)
            for operator in _Insertion(self, self.model, index, graph).operators_in_regions()
        }

    def replace(self, model: schema.ModelT) -> bool:
        """Puts the operators on integers into the quantized file."""
        for index, graph in enumerate(model.subgraphs):
            operators = []
            for operator in graph.operators:
                result = graph.tensors[operator.outputs[0]] if len(operator.outputs) else None
                stand_in = self._by_result.get(name_of(result)) if result is not None else None
                if stand_in is None or code_of(model, operator) != stand_in.code:
                    operators.append(operator)
                else:
                    operators += self._replacement(model, graph, operator, stand_in)
            graph.operators = operators
            drop_unused_tensors(graph, signatures_of(model, index))
        drop_unused_codes(model)
        return True

    def add(self, result: str, stand_in: _StandIn) -> None:
        """Remembers the stand-in that gives the tensor of this name."""
        self._by_result[result] = stand_in

    def _replacement(
        self, model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT, stand_in: _StandIn
    ) -> list[schema.OperatorT]:
        if stand_in.original is not None:
            original = stand_in.original
            operator.opcodeIndex = code_index(model, stand_in.original_code)
            operator.builtinOptionsType, operator.builtinOptions = original.builtinOptionsType, original.builtinOptions
            if stand_in.original_code == _OPERATORS.TILE:
                operator.inputs = [operator.inputs[0], self._copy_constant(model, graph, stand_in)]
            return [operator]
        float_graph = self.model.subgraphs[stand_in.graph]
        builder = TableBuilder(model, graph, int(operator.inputs[0]), int(operator.outputs[0]))
        return builder.compute(lambda x: evaluate(self.model, float_graph, stand_in.region, x))

    def _copy_constant(self, model: schema.ModelT, graph: schema.SubGraphT, stand_in: _StandIn) -> int:
        """Copies the second input of an operator out of the float file."""
        index = self.model.subgraphs[stand_in.graph].operators[stand_in.region.operators[0]].inputs[1]
        original = self.model.subgraphs[stand_in.graph].tensors[index]
        data = np.frombuffer(bytes(self.model.buffers[original.buffer].data), np.uint8)
        return add_constant(model, graph, copy.copy(original), data)


class _Insertion:
    """The insertion of stand-ins into a graph."""

    def __init__(self, stand_ins: StandIns, model: schema.ModelT, index: int, graph: schema.SubGraphT) -> None:
        self._stand_ins = stand_ins
        self._model = model
        self._index = index
        self._graph = graph
        # The operators in the place of one of the float file.
        self._replacements: dict[int, list[schema.OperatorT]] = {}

    def run(self) -> bool:
        """Puts stand-ins in the place of operators; returns whether there are any."""
        for activations in ("int8", "int16"):
            for region in self._regions(activations):
                self._stand_for_region(region, activations)
        for index, operator in enumerate(list(self._graph.operators)):
            if index not in self._replacements and len(operator.outputs) == 1:
                self._stand_for_operator(index, operator)
        self._graph.operators = [
            replacement
            for index, operator in enumerate(self._graph.operators)
            for replacement in self._replacements.get(index, [operator])
        ]
        self._drop_unused_operators()
        drop_unused_tensors(self._graph, signatures_of(self._model, self._index))
        return bool(self._replacements)

    def operators_in_regions(self) -> set[int]:
        """Returns the indices of the operators in functions of one tensor."""
        regions = [region for activations in ("int8", "int16") for region in self._regions(activations)]
        return {operator for region in regions for operator in region.operators}

    def _drop_unused_operators(self) -> None:
        """Drops the operators inside of regions that nothing takes any more."""
        used = {int(tensor) for tensor in self._graph.outputs}
        kept = []
        for operator in reversed(self._graph.operators):
            if used & {int(tensor) for tensor in operator.outputs} or not len(operator.outputs):
                used |= {int(tensor) for tensor in operator.inputs}
                kept.append(operator)
        self._graph.operators = kept[::-1]

    def _regions(self, activations: str) -> list[Region]:
        trained = self._stand_ins.is_trained
        known = _KNOWN - (_CLIPS if trained or activations == "int16" else set())
        # The kernel of SQRT rounds otherwise than training, which takes the nearest integer.
        known -= {_OPERATORS.SQRT} if trained else set()
        regions = find_regions(
            self._model,
            self._graph,
            # Between two tensors that training rounds nothing else has a range.
            is_seed=lambda code: code not in known or (trained and code != _OPERATORS.RESHAPE),
            is_integer=lambda name: self._stand_ins.activations_of(name) == activations,
            is_pinned=lambda name: trained and name in self._stand_ins.ranges,
            has_range=lambda name: name in self._stand_ins.ranges,
        )
        return [
            region
            for region in regions
            if self._has_ranges(region.source, region.result)
            and (len(region.operators) > 1 or self._operator(region.operators[0])[1] not in known)
        ]

    def _kernels(self, activations: str) -> set[int]:
        kernels = _KERNELS[activations]
        return kernels & _TRAINED_KERNELS if self._stand_ins.is_trained else kernels

    def _stand_for_region(self, region: Region, activations: str) -> None:
        operator, code = self._operator(region.operators[-1])
        is_kernel = len(region.operators) == 1 and code in self._kernels(activations)
        original = operator if is_kernel else None
        reshapes = [index for index in region.operators if self._operator(index)[1] == _OPERATORS.RESHAPE]
        if not reshapes:
            self._stand(region.operators[-1], _FUNCTION, [region.source], original, code, region)
            return
        # The function in the shape of its source, and the RESHAPE behind it.
        name = name_of(self._graph.tensors[region.result])
        unshaped = copy.copy(self._graph.tensors[region.source])
        unshaped.name = f"{name}/unshaped".encode()
        self._graph.tensors.append(unshaped)
        place = len(self._graph.tensors) - 1
        ranges = self._stand_ins.ranges
        ranges[name_of(unshaped)] = ranges[name]._replace(rank=max(1, len(unshaped.shape)))
        self._stand_ins.add(name_of(unshaped), _StandIn(self._index, _FUNCTION, None, code, region))
        reshape = copy.copy(self._operator(reshapes[-1])[0])
        reshape.inputs, reshape.outputs = [place, reshape.inputs[1]], [region.result]
        self._replacements[region.operators[-1]] = [
            new_operator(self._model, _FUNCTION, [region.source], place, (_OPTIONS.NONE, None)),
            reshape,
        ]

    def _stand_for_operator(self, index: int, operator: schema.OperatorT) -> None:
        code = code_of(self._model, operator)
        inputs = list(operator.inputs)
        result = int(operator.outputs[0])
        activations = self._stand_ins.activations_of(name_of(self._graph.tensors[result]))
        if activations is None or not self._has_ranges(inputs[0] if inputs else -1, result):
            return
        region = Region((index,), inputs[0], result)
        composition = Composition(self._model, self._graph, self._stand_ins.ranges, result)
        if code == _OPERATORS.NEG:
            self._replacements[index] = composition.negative(inputs[0])
        elif code == _OPERATORS.SQUARE:
            self._replacements[index] = [composition.operator(_OPERATORS.MUL, inputs * 2, result, multiplication())]
        elif code in _SAME_GRID:
            self._stand(index, _SAME_GRID[code], inputs, operator, code, region)
        elif code == _OPERATORS.TILE and self._is_constant(inputs[1]):
            self._stand(index, _OPERATORS.PAD, [inputs[0], composition.paddings(inputs[0])], operator, code, region)
        elif code == _OPERATORS.PRELU and activations == "int8":
            self._stand(index, _OPERATORS.MUL, inputs, operator, code, region)
        elif code == _OPERATORS.PRELU:
            self._replacements[index] = composition.parametric_relu(inputs[0], inputs[1])
        elif code == _OPERATORS.HARD_SWISH and activations == "int16":
            self._replacements[index] = composition.hard_swish(inputs[0])
        elif code in self._kernels(activations):
            self._stand(index, _FUNCTION, inputs, operator, code, region)

    def _stand(
        self,
        index: int,
        code: int,
        inputs: list[int],
        original: schema.OperatorT | None,
        original_code: int,
        region: Region,
    ) -> None:
        operator = self._graph.operators[index]
        result = int(operator.outputs[0])
        options = (operator.builtinOptionsType, operator.builtinOptions)
        if code == _FUNCTION:
            options = (_OPTIONS.NONE, None)
        elif code == _OPERATORS.PAD:
            options = (_OPTIONS.PadOptions, schema.PadOptionsT())
        elif code == _OPERATORS.MUL:
            options = multiplication()
        self._replacements[index] = [new_operator(self._model, code, inputs, result, options)]
        stand_in = _StandIn(self._index, code, copy.copy(original), original_code, region)
        self._stand_ins.add(name_of(self._graph.tensors[result]), stand_in)

    def _operator(self, index: int) -> tuple[schema.OperatorT, int]:
        operator = self._graph.operators[index]
        return operator, code_of(self._model, operator)

    def _has_ranges(self, *tensors: int) -> bool:
        """Whether tensors are float32 and have a range, or are constants."""
        return all(
            is_float(self._graph.tensors[tensor])
            and (
                name_of(self._graph.tensors[tensor]) in self._stand_ins.ranges
                or self._model.buffers[self._graph.tensors[tensor].buffer].data is not None
            )
            for tensor in tensors
        )

    def _is_constant(self, tensor: int) -> bool:
        return self._model.buffers[self._graph.tensors[tensor].buffer].data is not None
