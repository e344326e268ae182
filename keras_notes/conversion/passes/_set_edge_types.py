"""The inputs and outputs of an integer file: as integers, or behind one QUANTIZE or DEQUANTIZE each."""

from __future__ import annotations

import copy

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes.conversion.passes._schema import code_index

__all__ = ["with_edges"]

_INTEGERS = (schema.TensorType.INT8, schema.TensorType.INT16)
_QUANTIZE, _DEQUANTIZE = schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE
# The integers of uint8 are those of int8 and 128, on the same steps.
_UINT8_OFFSET = 128


def with_edges(tflite: bytes, edges: str) -> bytes:
    """The file with edges of another type.

    Args:
        tflite: A file whose quantized inputs and outputs are int8 or int16. Others stay as they are.
        edges: "float32", "uint8", or the type that they have.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    for number, graph in enumerate(model.subgraphs):
        _quantize_unused(graph)
        signatures = [entry for entry in model.signatureDefs or () if entry.subgraphIndex == number]
        if signatures and edges in ("float32", "uint8"):
            _change_graph(model, graph, signatures, edges)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _quantize_unused(graph) -> None:
    """Gives results that nothing uses the type of their operator's other results.

    The quantizer leaves them in floating point, such as the gate of an LSTM's first step that forgets nothing, and then
    no kernel runs the operator.
    """
    for operator in graph.operators:
        results = [graph.tensors[index] for index in operator.outputs]
        integers = [tensor for tensor in results if tensor.type in _INTEGERS]
        for tensor in results:
            if integers and tensor.type == schema.TensorType.FLOAT32:
                tensor.type, tensor.quantization = integers[0].type, integers[0].quantization


def _change_graph(model, graph, signatures, edges: str) -> None:
    operators = list(graph.operators)
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    for place, inside in enumerate(graph.inputs):
        if graph.tensors[inside].type in _INTEGERS:
            outside = _add_edge(graph, inside, edges)
            operators.insert(0, _operator(model, _QUANTIZE, outside, inside))
            graph.inputs[place] = outside
            _rewire([entry.inputs for entry in signatures], inside, outside)
    for place, inside in enumerate(graph.outputs):
        if graph.tensors[inside].type in _INTEGERS:
            outside = _add_edge(graph, inside, edges)
            code = _DEQUANTIZE if edges == "float32" else _QUANTIZE
            operators.append(_operator(model, code, inside, outside))
            graph.outputs[place] = outside
            _rewire([entry.outputs for entry in signatures], inside, outside)
    graph.operators = operators


def _add_edge(graph, inside: int, edges: str) -> int:
    """Adds the tensor that stands outside; returns its index."""
    tensor = copy.copy(graph.tensors[inside])
    name = tensor.name if isinstance(tensor.name, bytes) else tensor.name.encode()
    tensor.name = name + b"_" + edges.encode()
    tensor.buffer = 0
    if edges == "float32":
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    else:
        tensor.type, tensor.quantization = schema.TensorType.UINT8, copy.copy(tensor.quantization)
        tensor.quantization.zeroPoint = [int(tensor.quantization.zeroPoint[0]) + _UINT8_OFFSET]
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(model, code: int, source: int, result: int):
    operator = schema.OperatorT()
    operator.opcodeIndex = code_index(model, code)
    operator.inputs, operator.outputs = [source], [result]
    return operator


def _rewire(maps, inside: int, outside: int) -> None:
    for entries in maps:
        for entry in entries:
            if entry.tensorIndex == inside:
                entry.tensorIndex = outside
