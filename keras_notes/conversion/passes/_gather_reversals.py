"""Reversals as GATHER: of a sequence read backwards, LiteRT's quantizer leaves REVERSE_V2 in floating point."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes.conversion.passes._schema import code_index, code_of

__all__ = ["gather_reversals"]

_OPERATORS = schema.BuiltinOperator


def gather_reversals(tflite: bytes) -> bytes:
    """The float file, with a GATHER of the last index to the first in place of each REVERSE_V2 along one known axis."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    changed = False
    for graph in model.subgraphs:
        for operator in graph.operators:
            if code_of(model, operator) == _OPERATORS.REVERSE_V2:
                changed |= _gather(model, graph, operator)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if changed else tflite


def _gather(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> bool:
    source, axes = operator.inputs
    data = model.buffers[graph.tensors[axes].buffer].data
    along = [] if data is None else np.frombuffer(bytes(data), "<i4").tolist()
    if len(along) != 1:
        return False
    axis = along[0] % len(graph.tensors[source].shape)
    length = graph.tensors[source].shape[axis]
    operator.inputs = [source, _indices(model, graph, length)]
    operator.opcodeIndex = code_index(model, _OPERATORS.GATHER)
    operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
    operator.builtinOptions = schema.GatherOptionsT()
    operator.builtinOptions.axis = axis
    return True


def _indices(model: schema.ModelT, graph: schema.SubGraphT, length: int) -> int:
    """Adds the indices from the last to the first; returns the tensor's number."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.arange(length, dtype="<i4")[::-1].tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name = f"backwards_{len(graph.tensors)}".encode()
    tensor.shape, tensor.type, tensor.buffer = [length], schema.TensorType.INT32, len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
