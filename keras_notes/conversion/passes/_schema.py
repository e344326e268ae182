"""Access to the objects of a .tflite file that several passes share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

# Versions of operators on integers, where it is not 2.
_VERSIONS = {schema.BuiltinOperator.PRELU: 1}

__all__ = [
    "TensorRange",
    "add_constant",
    "code_index",
    "code_of",
    "constant_of",
    "drop_unused_codes",
    "drop_unused_tensors",
    "name_of",
    "signatures_of",
]


class TensorRange(NamedTuple):
    """The values of a tensor over all samples.

    Attributes:
        minimum: The smallest value.
        maximum: The largest value.
        rank: The number of dimensions of the tensor, at least 1.
    """

    minimum: float
    maximum: float
    rank: int


def code_of(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Returns the code of an operator in `schema.BuiltinOperator`."""
    known = model.operatorCodes[operator.opcodeIndex]
    # Old files have the deprecated code only, new ones both.
    return max(known.builtinCode, known.deprecatedBuiltinCode)


def code_index(model: schema.ModelT, code: int) -> int:
    """Returns the index of a built-in operator among those of the file, and adds the operator if it is missing."""
    for index, known in enumerate(model.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
            return index
    added = schema.OperatorCodeT()
    # The deprecated field has 8 bits; 127 there means that the other one counts.
    added.builtinCode, added.deprecatedBuiltinCode = code, min(code, 127)
    added.version = _VERSIONS.get(code, 2)  # int8 and int16
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def name_of(tensor: schema.TensorT) -> str:
    """Returns the name of a tensor, which is bytes in a file that was read."""
    return tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name or ""


def constant_of(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """Returns the values of a float32 constant, flat; None for any other tensor."""
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(bytes(data), "<f4")


def add_constant(model: schema.ModelT, graph: schema.SubGraphT, tensor: schema.TensorT, values: np.ndarray) -> int:
    """Adds a tensor with constant values to a graph; returns its index.

    Args:
        model: The objects of the file.
        graph: The graph that gets the tensor.
        tensor: The tensor, without a buffer.
        values: Its values, in little-endian order.
    """
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def signatures_of(model: schema.ModelT, graph_index: int) -> list[schema.SignatureDefT]:
    """Returns the signatures that run a graph."""
    return [signature for signature in model.signatureDefs or () if signature.subgraphIndex == graph_index]


def drop_unused_tensors(graph: schema.SubGraphT, signatures: list[schema.SignatureDefT]) -> bool:
    """Drops the tensors that no operator uses any more, which a file would carry to the device."""
    tensors_of = [operator.inputs for operator in graph.operators] + [operator.outputs for operator in graph.operators]
    used = sorted({int(index) for indices in (graph.inputs, graph.outputs, *tensors_of) for index in indices} - {-1})
    places = {-1: -1, **{index: place for place, index in enumerate(used)}}
    changed = len(used) < len(graph.tensors)
    graph.tensors = [graph.tensors[index] for index in used]
    for owner in (graph, *graph.operators):
        owner.inputs = [places[index] for index in owner.inputs]
        owner.outputs = [places[index] for index in owner.outputs]
    for signature in signatures:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = places[entry.tensorIndex]
    return changed


def drop_unused_codes(model: schema.ModelT) -> None:
    """Drops the codes of operators that no graph has any more: a runtime looks for the kernels of all codes."""
    used = sorted({operator.opcodeIndex for graph in model.subgraphs for operator in graph.operators})
    places = {index: place for place, index in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = places[operator.opcodeIndex]
