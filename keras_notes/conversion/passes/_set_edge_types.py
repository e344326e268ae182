"""Passes for the inputs and outputs of an integer file: integers, or one QUANTIZE or DEQUANTIZE each."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import code_index, code_of, name_of, signatures_of

__all__ = ["restore_outputs", "set_edge_types"]

_INTEGERS = (schema.TensorType.INT8, schema.TensorType.INT16)
_QUANTIZE, _DEQUANTIZE = schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE
# The integers of uint8 are those of int8 plus 128, with the same steps.
_UINT8_OFFSET = 128


def restore_outputs(model: schema.ModelT) -> bool:
    """Makes integers the outputs that the quantizer dequantizes for an operator in floating point.

    It lets the graph give the dequantized values, but leaves the integers in the signature: a runtime would give these
    as if they were the values.

    Args:
        model: A quantized file.
    """
    changed = False
    for index, graph in enumerate(model.subgraphs):
        named = {entry.tensorIndex for signature in signatures_of(model, index) for entry in signature.outputs}
        sources = {
            int(operator.outputs[0]): int(operator.inputs[0])
            for operator in graph.operators
            if code_of(model, operator) == _DEQUANTIZE
        }
        moved = {result for result in map(int, graph.outputs) if result not in named and sources.get(result) in named}
        if not moved:
            continue
        changed = True
        graph.outputs = [sources[result] if result in moved else result for result in map(int, graph.outputs)]
        used = {int(tensor) for operator in graph.operators for tensor in operator.inputs}
        graph.operators = [
            operator
            for operator in graph.operators
            if not (len(operator.outputs) and int(operator.outputs[0]) in moved - used)
        ]
    return changed


def set_edge_types(model: schema.ModelT, edges: str) -> bool:
    """Gives the quantized inputs and outputs another type; the others keep theirs.

    Args:
        model: A file whose quantized inputs and outputs are int8 or int16.
        edges: The type: "float32", "uint8", or the type that they have.
    """
    changed = False
    for index, graph in enumerate(model.subgraphs):
        changed |= _quantize_unused_results(graph)
        signatures = signatures_of(model, index)
        if signatures and edges in ("float32", "uint8"):
            changed |= _change_edges(model, graph, signatures, edges)
    return changed


def _quantize_unused_results(graph: schema.SubGraphT) -> bool:
    """Gives results that nothing uses the type of their operator's other results.

    The quantizer leaves them in floating point, such as the gate of an LSTM's first step that forgets nothing, and then
    no kernel runs the operator.
    """
    changed = False
    for operator in graph.operators:
        results = [graph.tensors[index] for index in operator.outputs]
        integers = [tensor for tensor in results if tensor.type in _INTEGERS]
        for tensor in results:
            if integers and tensor.type == schema.TensorType.FLOAT32:
                tensor.type, tensor.quantization = integers[0].type, integers[0].quantization
                changed = True
    return changed


def _change_edges(
    model: schema.ModelT, graph: schema.SubGraphT, signatures: list[schema.SignatureDefT], edges: str
) -> bool:
    operators = list(graph.operators)
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    for place, inside in enumerate(graph.inputs):
        if graph.tensors[inside].type in _INTEGERS:
            outside = _add_edge(graph, inside, edges)
            operators.insert(0, _operator(model, _QUANTIZE, outside, inside))
            graph.inputs[place] = outside
            _rewire([signature.inputs for signature in signatures], inside, outside)
    for place, inside in enumerate(graph.outputs):
        if graph.tensors[inside].type in _INTEGERS:
            outside = _add_edge(graph, inside, edges)
            code = _DEQUANTIZE if edges == "float32" else _QUANTIZE
            operators.append(_operator(model, code, inside, outside))
            graph.outputs[place] = outside
            _rewire([signature.outputs for signature in signatures], inside, outside)
    changed = len(operators) > len(graph.operators)
    graph.operators = operators
    return changed


def _add_edge(graph: schema.SubGraphT, inside: int, edges: str) -> int:
    """Adds the tensor outside of the edge operator; returns its index."""
    tensor = copy.copy(graph.tensors[inside])
    tensor.name = f"{name_of(tensor)}_{edges}".encode()
    tensor.buffer = 0
    if edges == "float32":
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    else:
        tensor.type, tensor.quantization = schema.TensorType.UINT8, copy.copy(tensor.quantization)
        tensor.quantization.zeroPoint = [int(tensor.quantization.zeroPoint[0]) + _UINT8_OFFSET]
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(model: schema.ModelT, code: int, source: int, result: int) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex = code_index(model, code)
    operator.inputs, operator.outputs = [source], [result]
    return operator


def _rewire(tensor_maps: Iterable[Iterable[schema.TensorMapT]], inside: int, outside: int) -> None:
    """Lets the signatures name the tensor outside in place of the one inside."""
    for entries in tensor_maps:
        for entry in entries:
            if entry.tensorIndex == inside:
                entry.tensorIndex = outside
