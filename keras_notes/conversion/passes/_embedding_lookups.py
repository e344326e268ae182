"""A pass that looks rows of a table up by EMBEDDING_LOOKUP: LiteRT's quantizer leaves the table of a GATHER in floats.

In the recipes that compute in floating point, GATHER has the types of its table, so the quantizer keeps the table of an
`Embedding` in float32, which is most of a text model. EMBEDDING_LOOKUP takes tables of 8 and 4 bits, with a scale for
each row, and gives float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import (
    add_constant,
    code_index,
    code_of,
    constant_of,
    drop_unused_tensors,
    name_of,
    signatures_of,
)

__all__ = ["lookup_embeddings"]

_OPERATORS = schema.BuiltinOperator
# The first version of EMBEDDING_LOOKUP with tables in int8.
_LOOKUP_VERSION = 3
_IDS = (schema.TensorType.INT64, schema.TensorType.INT32)


def lookup_embeddings(model: schema.ModelT, is_lookup: Callable[[str], bool]) -> bool:
    """Replaces each GATHER of rows of a constant float32 table by an EMBEDDING_LOOKUP.

    Args:
        model: A float file.
        is_lookup: Function that says, by the name of the rows, whether their table gets a type that GATHER cannot have.
    """
    changed = False
    for graph_index, graph in enumerate(model.subgraphs):
        operators = []
        looks_up = False
        for operator in graph.operators:
            lookup = None
            if _gathers_rows(model, graph, operator) and is_lookup(name_of(graph.tensors[operator.outputs[0]])):
                lookup = _lookup(model, graph, operator)
            operators.extend([operator] if lookup is None else lookup)
            looks_up |= lookup is not None
        graph.operators = operators
        if looks_up:
            # A table of more dimensions is left without an operator, in the buffer of its matrix.
            drop_unused_tensors(graph, signatures_of(model, graph_index))
            changed = True
    return changed


def _gathers_rows(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> bool:
    """Returns whether an operator takes rows out of a constant table."""
    if code_of(model, operator) != _OPERATORS.GATHER:
        return False
    table, ids = (graph.tensors[index] for index in operator.inputs[:2])
    options = operator.builtinOptions
    takes_rows = options is None or (options.axis == 0 and not options.batchDims)
    is_table = len(table.shape) > 1 and constant_of(model, table) is not None
    return takes_rows and is_table and ids.type in _IDS and sum(_sizes(ids) < 0) <= 1


def _lookup(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> list[schema.OperatorT]:
    """Returns the operators that look the rows up by ids in a row, which is all that the operator takes."""
    table, ids = operator.inputs[:2]
    rows = operator.outputs[0]
    # The quantizer wants names that are unique in the whole file: those of results are.
    prefix = name_of(graph.tensors[rows])
    count = -1 if (_sizes(graph.tensors[ids]) < 0).any() else int(np.prod(graph.tensors[ids].shape))
    operators = []
    if graph.tensors[ids].type != schema.TensorType.INT32:
        sizes = _sizes(graph.tensors[ids]).tolist()
        cast_ids = _add_tensor(graph, f"{prefix}.cast_ids", sizes, schema.TensorType.INT32)
        operators.append(_cast(model, ids, cast_ids))
        ids = cast_ids
    flat_ids = _add_tensor(graph, f"{prefix}.flat_ids", [count], schema.TensorType.INT32)
    width = int(np.prod(graph.tensors[table].shape[1:]))
    flat_rows = _add_tensor(graph, f"{prefix}.lookup", [count, width], schema.TensorType.FLOAT32)
    if len(graph.tensors[table].shape) > 2:
        table = _as_matrix(graph, table, width, f"{prefix}.matrix")
    lookup = schema.OperatorT()
    lookup.opcodeIndex = code_index(model, _OPERATORS.EMBEDDING_LOOKUP, _LOOKUP_VERSION)
    lookup.inputs, lookup.outputs = [flat_ids, table], [flat_rows]
    flatten, unflatten = _reshape(model, graph, ids, flat_ids), _reshape(model, graph, flat_rows, rows)
    return [*operators, flatten, lookup, unflatten]


def _as_matrix(graph: schema.SubGraphT, table: int, width: int, name: str) -> int:
    """Adds a matrix with the values of a table of more dimensions; returns its index."""
    source = graph.tensors[table]
    matrix = _add_tensor(graph, name, [int(source.shape[0]), width], source.type)
    graph.tensors[matrix].buffer = source.buffer
    return matrix


def _cast(model: schema.ModelT, source: int, result: int) -> schema.OperatorT:
    cast = schema.OperatorT()
    cast.opcodeIndex = code_index(model, _OPERATORS.CAST, 1)
    cast.inputs, cast.outputs = [source], [result]
    cast.builtinOptionsType = schema.BuiltinOptions.CastOptions
    cast.builtinOptions = schema.CastOptionsT()
    cast.builtinOptions.inDataType, cast.builtinOptions.outDataType = _IDS
    return cast


def _reshape(model: schema.ModelT, graph: schema.SubGraphT, source: int, result: int) -> schema.OperatorT:
    sizes = _sizes(graph.tensors[result]).astype("<i4")
    tensor = schema.TensorT()
    tensor.name = f"{name_of(graph.tensors[result])}_shape".encode()
    tensor.shape, tensor.type = [len(sizes)], schema.TensorType.INT32
    reshape = schema.OperatorT()
    reshape.opcodeIndex = code_index(model, _OPERATORS.RESHAPE, 1)
    reshape.inputs, reshape.outputs = [source, add_constant(model, graph, tensor, sizes)], [result]
    reshape.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    reshape.builtinOptions = schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = sizes.tolist()
    return reshape


def _add_tensor(graph: schema.SubGraphT, name: str, sizes: Sequence[int], tensor_type: int) -> int:
    """Adds a tensor that an operator computes; a size of -1 is unknown."""
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name.encode(), tensor_type, 0
    tensor.shape = [max(int(size), 1) for size in sizes]
    tensor.shapeSignature = [int(size) for size in sizes] if -1 in sizes else None
    tensor.quantization = schema.QuantizationParametersT()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _sizes(tensor: schema.TensorT) -> np.ndarray:
    """Returns the sizes of a tensor; -1 is unknown."""
    signature = tensor.shapeSignature
    return np.array(tensor.shape if signature is None or not len(signature) else signature, "int64").reshape(-1)
