"""A pass that reverses sequences by GATHER: LiteRT's quantizer leaves REVERSE_V2 in floating point."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import add_constant, code_index, code_of, name_of

__all__ = ["gather_reversals"]

_OPERATORS = schema.BuiltinOperator


def gather_reversals(model: schema.ModelT) -> bool:
    """Replaces each REVERSE_V2 along one known axis by a GATHER of the last index to the first."""
    changed = False
    for graph in model.subgraphs:
        for operator in graph.operators:
            if code_of(model, operator) == _OPERATORS.REVERSE_V2:
                changed |= _replace_by_gather(model, graph, operator)
    return changed


def _replace_by_gather(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> bool:
    source, axes_tensor = operator.inputs
    data = model.buffers[graph.tensors[axes_tensor].buffer].data
    axes = [] if data is None else np.frombuffer(bytes(data), "<i4").tolist()
    if len(axes) != 1:
        return False
    axis = axes[0] % len(graph.tensors[source].shape)
    length = graph.tensors[source].shape[axis]
    name = f"{name_of(graph.tensors[operator.outputs[0]])}.backwards"
    operator.inputs = [source, _add_indices(model, graph, length, name)]
    operator.opcodeIndex = code_index(model, _OPERATORS.GATHER)
    operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
    operator.builtinOptions = schema.GatherOptionsT()
    operator.builtinOptions.axis = axis
    return True


def _add_indices(model: schema.ModelT, graph: schema.SubGraphT, length: int, name: str) -> int:
    """Adds the indices from the last to the first; returns the index of their tensor."""
    tensor = schema.TensorT()
    tensor.name = name.encode()
    tensor.shape, tensor.type = [length], schema.TensorType.INT32
    return add_constant(model, graph, tensor, np.arange(length, dtype="<i4")[::-1])
