"""A pass that lets operators which select among values work on integers: ai-edge-quantizer leaves them in float.

The largest of some values is the largest of their integers, so ARG_MAX, ARG_MIN and TOPK_V2 take these instead of
dequantized values. ONE_HOT gives the integers that a QUANTIZE after it would give.
"""

from __future__ import annotations

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import (
    add_constant,
    code_index,
    code_of,
    drop_unused_tensors,
    name_of,
    signatures_of,
)

__all__ = ["select_integers"]

_OPERATORS, _OPTIONS, _TYPES = schema.BuiltinOperator, schema.BuiltinOptions, schema.TensorType
_LIMITS = {_TYPES.INT8: (-128, 127), _TYPES.INT16: (-32768, 32767)}


def select_integers(model: schema.ModelT) -> bool:
    """Moves ARG_MAX, ARG_MIN, TOPK_V2 and ONE_HOT from floating point to integers, where their values have a grid."""
    changed = False
    for index, graph in enumerate(model.subgraphs):
        selection = _Selection(model, graph)
        if selection.run():
            drop_unused_tensors(graph, signatures_of(model, index))
            changed = True
    return changed


class _Selection:
    """The operators of a graph that select, and those around them."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model = model
        self._graph = graph
        self._operators = list(graph.operators)

    def run(self) -> bool:
        """Changes the graph; returns whether it did."""
        changed = False
        for operator in list(self._operators):
            code = code_of(self._model, operator)
            if code in (_OPERATORS.ARG_MAX, _OPERATORS.ARG_MIN, _OPERATORS.TOPK_V2):
                changed |= self._take_integers(operator, code)
            elif code == _OPERATORS.ONE_HOT:
                changed |= self._give_integers(operator)
        if changed:
            self._drop_unused_dequantizations()
            self._graph.operators = self._operators
        return changed

    def _take_integers(self, operator: schema.OperatorT, code: int) -> bool:
        producer = self._producer(operator.inputs[0])
        if producer is None or code_of(self._model, producer) != _OPERATORS.DEQUANTIZE:
            return False
        source = int(producer.inputs[0])
        tensor = self._graph.tensors[source]
        if tensor.type not in _LIMITS:
            return False
        inputs = list(operator.inputs)
        if code == _OPERATORS.TOPK_V2:
            values = int(operator.outputs[0])
            if not all(code_of(self._model, consumer) == _OPERATORS.QUANTIZE for consumer in self._consumers(values)):
                return False
            self._graph.tensors[values].type = tensor.type
            self._graph.tensors[values].quantization = copy.copy(tensor.quantization)
        elif tensor.type == _TYPES.INT16:
            # The kernels of ARG_MAX and ARG_MIN take int8 and int32, and no int16.
            wide = self._add_int32(source, "int32")
            self._insert(operator, self._cast(source, wide, _TYPES.INT16, _TYPES.INT32))
            source = wide
        operator.inputs = [source, *inputs[1:]]
        return True

    def _give_integers(self, operator: schema.OperatorT) -> bool:
        result = int(operator.outputs[0])
        limits = [value for index in operator.inputs[2:4] if (value := self._constant(index)) is not None]
        consumers = self._consumers(result)
        is_output = result in list(self._graph.outputs)
        if self._graph.tensors[result].type != _TYPES.FLOAT32 or len(limits) < 2 or is_output or not consumers:
            return False
        grids = [self._graph.tensors[consumer.outputs[0]] for consumer in consumers]
        if any(code_of(self._model, consumer) != _OPERATORS.QUANTIZE for consumer in consumers):
            return False
        if (
            len({(grid.type, float(grid.quantization.scale[0]), int(grid.quantization.zeroPoint[0])) for grid in grids})
            > 1
        ):
            return False
        grid, quantized = grids[0], int(consumers[0].outputs[0])
        integers = [
            self._add_integer(value, grid, result, name) for value, name in zip(limits, ("on", "off"), strict=True)
        ]
        operator.inputs = [*operator.inputs[:2], *integers]
        for consumer in consumers:
            self._operators.remove(consumer)
            for other in self._operators:
                replaced = int(consumer.outputs[0])
                other.inputs = [quantized if index == replaced else index for index in other.inputs]
        operator.outputs = [quantized]
        if grid.type == _TYPES.INT16:
            # The kernel of ONE_HOT gives int8 and int32, and no int16.
            wide = self._add_int32(quantized, "int32")
            operator.outputs = [wide]
            place = self._operators.index(operator) + 1
            self._operators.insert(place, self._cast(wide, quantized, _TYPES.INT32, _TYPES.INT16))
        return True

    def _producer(self, tensor: int) -> schema.OperatorT | None:
        return next((operator for operator in self._operators if tensor in list(operator.outputs)), None)

    def _consumers(self, tensor: int) -> list[schema.OperatorT]:
        return [operator for operator in self._operators if tensor in list(operator.inputs)]

    def _constant(self, index: int) -> float | None:
        data = self._model.buffers[self._graph.tensors[index].buffer].data
        return None if data is None else float(np.frombuffer(bytes(data), "<f4")[0])

    def _add_integer(self, value: float, grid: schema.TensorT, result: int, name: str) -> int:
        """Adds a constant with the integer of a value on a grid."""
        minimum, maximum = _LIMITS[grid.type]
        scale, zero_point = np.float32(grid.quantization.scale[0]), int(grid.quantization.zeroPoint[0])
        integer = np.clip(np.rint(value / scale) + zero_point, minimum, maximum)
        tensor = schema.TensorT()
        tensor.name, tensor.shape = f"{name_of(self._graph.tensors[result])}/{name}".encode(), []
        tensor.type = _TYPES.INT8 if grid.type == _TYPES.INT8 else _TYPES.INT32
        return add_constant(
            self._model, self._graph, tensor, np.array(integer, "i1" if grid.type == _TYPES.INT8 else "<i4")
        )

    def _add_int32(self, like: int, name: str) -> int:
        """Adds a tensor of int32 with the shape of another one."""
        tensor = copy.copy(self._graph.tensors[like])
        tensor.name, tensor.type, tensor.quantization = f"{name_of(tensor)}/{name}".encode(), _TYPES.INT32, None
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _cast(self, source: int, result: int, before: int, after: int) -> schema.OperatorT:
        operator = schema.OperatorT()
        operator.opcodeIndex = code_index(self._model, _OPERATORS.CAST)
        operator.inputs, operator.outputs = [source], [result]
        operator.builtinOptionsType, operator.builtinOptions = _OPTIONS.CastOptions, schema.CastOptionsT()
        operator.builtinOptions.inDataType, operator.builtinOptions.outDataType = before, after
        return operator

    def _insert(self, before: schema.OperatorT, operator: schema.OperatorT) -> None:
        self._operators.insert(self._operators.index(before), operator)

    def _drop_unused_dequantizations(self) -> None:
        outputs = {int(index) for index in self._graph.outputs}
        used = outputs | {int(index) for operator in self._operators for index in operator.inputs}
        self._operators = [
            operator
            for operator in self._operators
            if code_of(self._model, operator) != _OPERATORS.DEQUANTIZE or int(operator.outputs[0]) in used
        ]
