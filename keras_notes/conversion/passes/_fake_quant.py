"""Marks in the deploy graph of a quantization-aware model: how its trained grids reach the quantizer.

The converter turns a fake quantization into QUANTIZE and DEQUANTIZE, which say scale and zero point in the float file.
They are taken out again; what is left is the float model, and the range of each tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes.compression import Grid
from keras_notes.conversion.passes._schema import code_of, name_of

__all__ = ["mark", "take_marks"]

_OPERATORS = schema.BuiltinOperator
_MOVES = (_OPERATORS.RESHAPE, _OPERATORS.EXPAND_DIMS, _OPERATORS.SQUEEZE, _OPERATORS.TRANSPOSE, _OPERATORS.PAD,
          _OPERATORS.SPACE_TO_BATCH_ND, _OPERATORS.BATCH_TO_SPACE_ND, _OPERATORS.SLICE, _OPERATORS.STRIDED_SLICE,
          _OPERATORS.SPLIT, _OPERATORS.GATHER, _OPERATORS.PACK, _OPERATORS.UNPACK, _OPERATORS.BROADCAST_TO,
          _OPERATORS.RESIZE_NEAREST_NEIGHBOR, _OPERATORS.CONCATENATION, _OPERATORS.TILE)  # fmt: skip
# The converter's own integers for fake quantization, by size: it counts from 0.
_LEAST = {8: -128, 16: -32768}
_MOST = {8: 127, 16: 32767}
_MARKED = {schema.TensorType.UINT8: (0, 255), schema.TensorType.INT8: (-128, 127),
           schema.TensorType.UINT16: (0, 65535), schema.TensorType.INT16: (-32768, 32767)}  # fmt: skip


def mark(tensor: Any, grid: Grid) -> Any:
    """Marks a tensor of the graph with the grid that it shall be rounded to. On the TensorFlow backend only."""
    # Keras has no such operation, and this runs only where its tensors are TensorFlow's.
    import tensorflow as tf

    bits = grid.format.bits
    least, most = ((limit - grid.zero_point) * grid.scale for limit in (_LEAST[bits], _MOST[bits]))
    return tf.quantization.fake_quant_with_min_max_args(tensor, least, most, num_bits=bits)


def take_marks(tflite: bytes, symmetric: bool) -> tuple[bytes, dict[str, list]]:
    """Takes the marks out of a float file.

    Args:
        tflite: A file of the converter, its tensors named.
        symmetric: Whether the ranges are to be symmetric, without the least integer.

    Returns:
        The file without them, and the range of each marked tensor as least, most and rank, by name.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    ranges: dict[str, list] = {}
    for number, graph in enumerate(model.subgraphs):
        signatures = [entry for entry in model.signatureDefs or () if entry.subgraphIndex == number]
        _take_from(model, graph, signatures, ranges, symmetric)
        _spread(model, graph, ranges)
        _drop_unused(graph, signatures)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), ranges


def _take_from(model, graph, signatures, ranges: dict[str, list], symmetric: bool) -> None:
    instead: dict[int, int] = {}
    kept = []
    for operator in graph.operators:
        code = code_of(model, operator)
        inputs = [instead.get(index, index) for index in operator.inputs]
        if code == _OPERATORS.QUANTIZE:
            instead[operator.outputs[0]] = inputs[0]
            marked = graph.tensors[operator.outputs[0]]
            tensor = graph.tensors[inputs[0]]
            # Of two marks on a tensor the first counts: the second is that of the operator that takes it.
            ranges.setdefault(name_of(tensor), [*_range(marked, symmetric), max(1, len(tensor.shape))])
        elif code == _OPERATORS.DEQUANTIZE and operator.inputs[0] in instead:
            instead[operator.outputs[0]] = inputs[0]
        else:
            operator.inputs = inputs
            kept.append(operator)
    graph.operators = kept
    graph.outputs = [instead.get(index, index) for index in graph.outputs]
    for entry in signatures:
        for tensor_map in entry.outputs:
            tensor_map.tensorIndex = instead.get(tensor_map.tensorIndex, tensor_map.tensorIndex)


def _drop_unused(graph, signatures) -> None:
    """Drops the tensors that nothing gives or takes any more, which a file would carry to the device."""
    tensors_of = [operator.inputs for operator in graph.operators] + [operator.outputs for operator in graph.operators]
    used = sorted({int(index) for indices in (graph.inputs, graph.outputs, *tensors_of) for index in indices} - {-1})
    places = {-1: -1, **{index: place for place, index in enumerate(used)}}
    graph.tensors = [graph.tensors[index] for index in used]
    for owner in (graph, *graph.operators):
        owner.inputs = [places[index] for index in owner.inputs]
        owner.outputs = [places[index] for index in owner.outputs]
    for entry in signatures:
        for tensor_map in (*entry.inputs, *entry.outputs):
            tensor_map.tensorIndex = places[tensor_map.tensorIndex]


def _spread(model, graph, ranges: dict[str, list]) -> None:
    """Gives the ends of operators that only move values the range of their other end, where one has none.

    A layer of the model can be several operators: a convolution over sequences is one over images, reshaped.
    """
    for operator in graph.operators:
        table = model.buffers[graph.tensors[operator.inputs[0]].buffer].data if len(operator.inputs) else None
        if code_of(model, operator) == _OPERATORS.GATHER and table is not None:
            # The quantizer finds the range of the table by itself; the very same one leaves nothing to convert.
            values, rows = np.frombuffer(bytes(table), "<f4"), graph.tensors[operator.outputs[0]]
            ranges[name_of(rows)] = [float(values.min()), float(values.max()), max(1, len(rows.shape))]
    moving = [operator for operator in graph.operators if code_of(model, operator) in _MOVES]
    for operator in (*reversed(moving), *moving):
        before, after = (graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
        for known, unknown in ((after, before), (before, after)):
            found = ranges.get(name_of(known))
            if found is not None and model.buffers[unknown.buffer].data is None:
                ranges.setdefault(name_of(unknown), [*found[:2], max(1, len(unknown.shape))])


def _range(tensor, symmetric: bool) -> tuple[float, float]:
    least, most = _MARKED[tensor.type]
    scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return (least + symmetric - zero_point) * scale, (most - zero_point) * scale
