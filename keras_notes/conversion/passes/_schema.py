"""Access to the objects of a .tflite file that several passes share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

# Versions of operators on integers, where it is not 2.
_VERSIONS = {schema.BuiltinOperator.PRELU: 1}

__all__ = [
    "BIASES",
    "WEIGHTED_OPERATORS",
    "TensorRange",
    "WeightPlaces",
    "add_constant",
    "code_index",
    "code_of",
    "constant_of",
    "constants_by_name",
    "drop_unused_codes",
    "drop_unused_tensors",
    "name_of",
    "new_operator",
    "signatures_of",
    "text_of",
]


BIASES = {schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}
"""The types of biases, as NumPy names them."""


class WeightPlaces(NamedTuple):
    """The places of an operator's parts among its inputs, and the axis of the weights' channels."""

    x: int
    weights: int
    bias: int
    channels: int


WEIGHTED_OPERATORS = {
    schema.BuiltinOperator.CONV_2D: WeightPlaces(0, 1, 2, 0),
    schema.BuiltinOperator.FULLY_CONNECTED: WeightPlaces(0, 1, 2, 0),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: WeightPlaces(0, 1, 2, 3),
    schema.BuiltinOperator.TRANSPOSE_CONV: WeightPlaces(2, 1, 3, 0),
}
"""The places of the parts of each operator with weights and a bias, by its code."""


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


def code_index(model: schema.ModelT, code: int, version: int | None = None) -> int:
    """Returns the index of a built-in operator among those of the file, and adds the operator if it is missing.

    Args:
        model: The objects of the file.
        code: The code of the operator.
        version: The version of the operator if it is missing. Defaults to that of int8 and int16.
    """
    for index, known in enumerate(model.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
            return index
    added = schema.OperatorCodeT()
    # The deprecated field has 8 bits; 127 there means that the other one counts.
    added.builtinCode, added.deprecatedBuiltinCode = code, min(code, 127)
    added.version = _VERSIONS.get(code, 2) if version is None else version
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def name_of(tensor: schema.TensorT | schema.TensorMapT) -> str:
    """Returns the name of a tensor, or of an entry of a signature, which is bytes in a file that was read."""
    return text_of(tensor.name)


def text_of(name: bytes | str | None) -> str:
    """Returns a name as text, which is bytes in a file that was read."""
    return name.decode() if isinstance(name, bytes) else name or ""


def constant_of(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """Returns the values of a float32 constant, flat; None for any other tensor."""
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(bytes(data), "<f4")


def constants_by_name(model: schema.ModelT) -> dict[str, np.ndarray]:
    """Returns the values of the float constants of a file, flat."""
    constants = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            values = constant_of(model, tensor)
            if values is not None:
                constants[name_of(tensor)] = values
    return constants


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


def new_operator(
    model: schema.ModelT, code: int, inputs: list[int], result: int, options: tuple[int, object]
) -> schema.OperatorT:
    """Returns a new operator with one result.

    Args:
        model: The objects of the file.
        code: The code of the operator.
        inputs: The indices of its inputs.
        result: The index of its result.
        options: The type of its options, and the options.
    """
    operator = schema.OperatorT()
    operator.opcodeIndex = code_index(model, code)
    operator.inputs, operator.outputs = inputs, [result]
    operator.builtinOptionsType, operator.builtinOptions = options
    return operator


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
