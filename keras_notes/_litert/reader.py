"""Reads a .tflite file from its flatbuffer, without running it.

The flatbuffer of a damaged file can send a reader anywhere: outside of tests this runs in the sandbox's worker.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes._litert.model import EDGE_OPERATORS, Graph, Operator, Signature, Tensor, TfliteFile
from keras_notes.errors import BundleError

__all__ = ["describe_model", "read_tflite"]


def _names_of(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_OPERATOR_NAMES = _names_of(schema.BuiltinOperator)
_DTYPE_NAMES = {value: name.lower() for value, name in _names_of(schema.TensorType).items()}
# The index of an optional input that is left out, such as a bias.
_NO_TENSOR = -1
# The operators of a float edge, whose first input and output `Graph` reads: each must have one input and one output.
_ONE_TO_ONE = (*EDGE_OPERATORS, "CAST")


def read_tflite(path: Path) -> TfliteFile:
    """Reads a .tflite file.

    Raises:
        BundleError: If it is not a .tflite file; the message continues a sentence that begins with the file's name.
    """
    try:
        return describe_model(flatbuffer_utils.read_model(str(path)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        # Errors of reading a flatbuffer at invalid offsets.
        raise BundleError(f"must be a .tflite file. Received: {error!r}.") from error


def describe_model(model: schema.ModelT) -> TfliteFile:
    """Describes a file whose objects are in memory already.

    Args:
        model: The objects, as `flatbuffer_utils` reads them.

    Raises:
        IndexError: If an operator or a signature names a tensor that is missing.
        ValueError: If there are no graphs.
    """
    graphs = tuple(_graph(graph, model) for graph in model.subgraphs)
    if not graphs:
        raise ValueError("no graph")
    signatures = tuple(_signature(entry) for entry in model.signatureDefs or ())
    _check_indices(graphs, signatures)
    metadata = {_text(entry.name): _metadata(model.buffers[entry.buffer].data) for entry in model.metadata or ()}
    return TfliteFile(graphs, signatures, metadata)


def _check_indices(graphs: Sequence[Graph], signatures: Sequence[Signature]) -> None:
    """Raises IndexError unless every tensor that an operator or a signature names exists."""
    for graph in graphs:
        for operator in graph.operators:
            is_one_to_one = operator.name in _ONE_TO_ONE
            minimum = 0 if is_one_to_one else _NO_TENSOR
            _check_tensors(graph, (*operator.inputs, *operator.outputs), minimum, what=operator.name)
            if is_one_to_one and (len(operator.inputs), len(operator.outputs)) != (1, 1):
                raise IndexError(f"{operator.name} of {len(operator.inputs)} inputs, {len(operator.outputs)} outputs")
    for signature in signatures:
        if signature.graph >= len(graphs):
            raise IndexError(f"signature {signature.name!r} of the graph {signature.graph} of {len(graphs)}")
        indices = (*signature.inputs.values(), *signature.outputs.values())
        _check_tensors(graphs[signature.graph], indices, minimum=0, what=f"signature {signature.name!r}")


def _check_tensors(graph: Graph, indices: Sequence[int], minimum: int, what: str) -> None:
    for index in indices:
        if not minimum <= index < len(graph.tensors):
            raise IndexError(f"{what} of the tensor {index} of {len(graph.tensors)}")


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _graph(graph: schema.SubGraphT, model: schema.ModelT) -> Graph:
    tensors = tuple(_tensor(tensor, model.buffers) for tensor in graph.tensors or ())
    operators = tuple(_operator(operator, model.operatorCodes) for operator in graph.operators or ())
    return Graph(tensors, operators)


def _tensor(tensor: schema.TensorT, buffers: Sequence[schema.BufferT]) -> Tensor:
    quantization = tensor.quantization
    scales = [] if quantization is None or quantization.scale is None else list(quantization.scale)
    has_one_scale = len(scales) == 1
    data = buffers[tensor.buffer].data
    size = 0 if data is None else len(data)
    return Tensor(
        name=_text(tensor.name),
        dtype=_DTYPE_NAMES[tensor.type],
        shape=() if tensor.shape is None else tuple(int(size) for size in tensor.shape),
        scale=float(scales[0]) if has_one_scale else None,
        zero_point=int(quantization.zeroPoint[0]) if has_one_scale else None,
        is_constant=size > 0,
        channels=len(scales),
        bytes=size,
        buffer=int(tensor.buffer),
    )


def _operator(operator: schema.OperatorT, codes: Sequence[schema.OperatorCodeT]) -> Operator:
    code = codes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    is_custom = builtin == schema.BuiltinOperator.CUSTOM
    return Operator(
        name=_text(code.customCode) if is_custom else _OPERATOR_NAMES[builtin],
        is_custom=is_custom,
        inputs=_indices(operator.inputs),
        outputs=_indices(operator.outputs),
    )


def _indices(values: Sequence[int] | np.ndarray | None) -> tuple[int, ...]:
    # A vector without elements may be left out of the file.
    return () if values is None else tuple(int(value) for value in values)


def _signature(entry: schema.SignatureDefT) -> Signature:
    return Signature(
        name=_text(entry.signatureKey),
        inputs={_text(item.name): int(item.tensorIndex) for item in entry.inputs or ()},
        outputs={_text(item.name): int(item.tensorIndex) for item in entry.outputs or ()},
        graph=int(entry.subgraphIndex),
    )


def _metadata(data: Sequence[int] | np.ndarray | None) -> str:
    return "" if data is None else bytes(data).decode(errors="replace")
