"""A pass that stores the tables of embeddings in 8 bits, where LiteRT's quantizer stores more than that.

The quantizer gives each row of the table of an EMBEDDING_LOOKUP a scale and a zero point, 12 bytes, which is more than
a short row itself. In "int16x8" it stores the table of a GATHER in int16, the type of the rows.
"""

from __future__ import annotations

import hashlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import code_index, code_of, constant_of, name_of

__all__ = ["shrink_tables"]

_OPERATORS = schema.BuiltinOperator
_TYPES = schema.TensorType
# One scale serves all rows if the largest number of a typical row keeps 6 of 8 bits.
_LARGEST_RATIO = 4.0
_BYTES_OF_A_SCALE = 12


def shrink_tables(model: schema.ModelT, float_model: schema.ModelT, *, is_trained: bool = False) -> bool:
    """Stores the tables of EMBEDDING_LOOKUP and of GATHER in int8 with one scale, where that is small and exact enough.

    Args:
        model: A quantized file.
        float_model: The float file that it was made of, with the same names.
        is_trained: Whether the model is quantization-aware: then the rows of a table for lookups have trained scales.
    """
    constants = {} if is_trained else _unshared_constants(float_model)
    changed = False
    for graph in model.subgraphs:
        narrowed = _narrow_tables(model, graph, is_trained=is_trained)
        operators = []
        for operator in graph.operators:
            operators.append(operator)
            if code_of(model, operator) == _OPERATORS.EMBEDDING_LOOKUP:
                changed |= _share_scale(model, graph.tensors[operator.inputs[1]], constants)
            elif narrowed.intersection(_inputs(operator)):
                operators.append(_widen_rows(model, graph, operator))
        graph.operators = operators
        changed |= bool(narrowed)
    if changed:
        _empty_unused_buffers(model)
    return changed


def _empty_unused_buffers(model: schema.ModelT) -> None:
    """Takes the data of buffers that nothing uses out of the file: the tables as they were."""
    owners = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    used = {int(owner.buffer) for owner in (*owners, *(model.metadata or ()))}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def _inputs(operator: schema.OperatorT) -> list[int]:
    return [] if operator.inputs is None else [int(index) for index in operator.inputs]


def _unshared_constants(model: schema.ModelT) -> dict[str, np.ndarray]:
    """Returns the matrices that are nothing but tables, by name: those that layers share keep the scales of rows."""
    tables: dict[str, np.ndarray] = {}
    other_values = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            is_lookup = code_of(model, operator) == _OPERATORS.EMBEDDING_LOOKUP
            for tensor in (graph.tensors[index] for index in _inputs(operator) if index >= 0):
                values = constant_of(model, tensor) if len(tensor.shape) == 2 else None
                if values is not None and is_lookup:
                    tables[name_of(tensor)] = values.reshape(tensor.shape)
                elif values is not None:
                    other_values.add(hashlib.sha256(values.tobytes()).digest())
    return {
        name: values for name, values in tables.items() if hashlib.sha256(values.tobytes()).digest() not in other_values
    }


def _share_scale(model: schema.ModelT, table: schema.TensorT, constants: dict[str, np.ndarray]) -> bool:
    """Gives a table one scale for all rows, if they are of similar size."""
    values = constants.get(name_of(table))
    if values is None or table.type not in (_TYPES.INT8, _TYPES.INT4) or len(table.quantization.scale) < 2:
        return False
    width = values.shape[1]
    if table.type == _TYPES.INT4 and width // 2 + _BYTES_OF_A_SCALE < width:
        return False
    if not _has_similar_rows(values):
        return False
    _store(model, table, values)
    return True


def _has_similar_rows(values: np.ndarray) -> bool:
    """Returns whether one scale serves all rows."""
    largest = np.abs(values).reshape(len(values), -1).max(1)
    return bool(largest.any() and largest.max() <= _LARGEST_RATIO * np.median(largest))


def _narrow_tables(model: schema.ModelT, graph: schema.SubGraphT, *, is_trained: bool) -> set[int]:
    """Stores in int8 the constant tables in int16 that only GATHER takes; returns the indices of their tensors."""
    narrowed = set()
    for index, table in enumerate(graph.tensors):
        data = model.buffers[table.buffer].data
        if table.type != _TYPES.INT16 or data is None or len(table.shape) < 2:
            continue
        codes = {code_of(model, operator) for operator in graph.operators if index in _inputs(operator)}
        if codes != {_OPERATORS.GATHER}:
            continue
        integers = np.frombuffer(bytes(data), "<i2").reshape(table.shape)
        values = integers * np.float64(table.quantization.scale[0])
        # A quantization-aware model has trained its table for one scale.
        if is_trained or _has_similar_rows(values):
            _store(model, table, values)
            narrowed.add(index)
    return narrowed


def _widen_rows(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> schema.OperatorT:
    """Lets a GATHER give rows of int8; returns the operator that gives them the grid that they had."""
    table, rows = graph.tensors[operator.inputs[0]], operator.outputs[0]
    narrow_rows = schema.TensorT()
    narrow_rows.name = f"{name_of(graph.tensors[rows])}_int8".encode()
    narrow_rows.shape, narrow_rows.shapeSignature = graph.tensors[rows].shape, graph.tensors[rows].shapeSignature
    narrow_rows.type, narrow_rows.quantization, narrow_rows.buffer = _TYPES.INT8, table.quantization, 0
    graph.tensors.append(narrow_rows)
    quantize = schema.OperatorT()
    quantize.opcodeIndex = code_index(model, _OPERATORS.QUANTIZE)
    quantize.inputs, quantize.outputs = [len(graph.tensors) - 1], [rows]
    quantize.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    quantize.builtinOptions = schema.QuantizeOptionsT()
    operator.outputs = [len(graph.tensors) - 1]
    return quantize


def _store(model: schema.ModelT, table: schema.TensorT, values: np.ndarray) -> None:
    """Stores values in int8, symmetrically, with one scale."""
    scale = np.float32(np.abs(values).max() / 127) or np.float32(1.0)
    integers = np.clip(np.round(values / np.float64(scale)), -127, 127).astype("int8")
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(integers.tobytes(), np.uint8)
    model.buffers.append(buffer)
    table.buffer, table.type = len(model.buffers) - 1, _TYPES.INT8
    table.quantization = schema.QuantizationParametersT()
    table.quantization.scale = np.array([scale], "float32")
    table.quantization.zeroPoint = np.zeros(1, "int64")
