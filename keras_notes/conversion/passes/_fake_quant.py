"""Fake quantization in the deploy graph of a quantization-aware model: how its trained grids reach the quantizer.

The converter turns a fake quantization into QUANTIZE and DEQUANTIZE, whose scale and zero point stand in the float
file. `strip_fake_quant` removes them again; the float model and the range of each tensor remain.
"""

from __future__ import annotations

import copy
from collections import defaultdict

from ai_edge_litert import schema_py_generated as schema

from keras_notes._shared.types import Tensor
from keras_notes.compression import Grid
from keras_notes.conversion.passes._elementwise import ELEMENTWISE
from keras_notes.conversion.passes._schema import (
    TensorRange,
    code_of,
    constant_of,
    drop_unused_tensors,
    name_of,
    signatures_of,
)

__all__ = ["insert_fake_quant", "strip_fake_quant"]

_OPERATORS = schema.BuiltinOperator
_MOVES = (_OPERATORS.RESHAPE, _OPERATORS.EXPAND_DIMS, _OPERATORS.SQUEEZE, _OPERATORS.TRANSPOSE, _OPERATORS.PAD,
          _OPERATORS.SPACE_TO_BATCH_ND, _OPERATORS.BATCH_TO_SPACE_ND, _OPERATORS.SLICE, _OPERATORS.STRIDED_SLICE,
          _OPERATORS.SPLIT, _OPERATORS.GATHER, _OPERATORS.PACK, _OPERATORS.UNPACK, _OPERATORS.BROADCAST_TO,
          _OPERATORS.RESIZE_NEAREST_NEIGHBOR, _OPERATORS.CONCATENATION, _OPERATORS.TILE,
          _OPERATORS.TOPK_V2)  # fmt: skip
# The integers of a grid by its bits; the converter counts those of a fake quantization from 0.
_MINIMUM = {8: -128, 16: -32768}
_MAXIMUM = {8: 127, 16: 32767}
_LIMITS = {schema.TensorType.UINT8: (0, 255), schema.TensorType.INT8: (-128, 127),
           schema.TensorType.UINT16: (0, 65535), schema.TensorType.INT16: (-32768, 32767)}  # fmt: skip


def insert_fake_quant(tensor: Tensor, grid: Grid) -> Tensor:
    """Rounds a tensor of the deploy graph to a grid, by a fake quantization. On the TensorFlow backend only."""
    # Keras has no such operation, and this runs only where its tensors are TensorFlow's.
    import tensorflow as tf

    bits = grid.format.bits
    minimum, maximum = ((limit - grid.zero_point) * grid.scale for limit in (_MINIMUM[bits], _MAXIMUM[bits]))
    return tf.quantization.fake_quant_with_min_max_args(tensor, minimum, maximum, num_bits=bits)


def strip_fake_quant(model: schema.ModelT, ranges: dict[str, TensorRange], *, symmetric: bool) -> bool:
    """Removes the fake quantizations from a float file.

    Args:
        model: A file from the converter, its tensors named.
        ranges: Gets the range of each tensor that was fake-quantized, by name.
        symmetric: Whether the ranges are symmetric, without the smallest integer.
    """
    changed = False
    for index, graph in enumerate(model.subgraphs):
        signatures = signatures_of(model, index)
        _separate_unrounded(model, graph)
        changed |= _bypass(model, graph, signatures, ranges, symmetric)
        _propagate_ranges(model, graph, ranges)
        changed |= drop_unused_tensors(graph, signatures)
    return changed


def _separate_unrounded(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Computes each value twice that is rounded for some operators and not for others.

    The converter computes abs(x) once for a model that gives it, rounded, and x / (abs(x) + 1), which is rounded at
    its end only.
    """
    consumers: dict[int, list[schema.OperatorT]] = defaultdict(list)
    for operator in graph.operators:
        for tensor in set(map(int, operator.inputs)):
            consumers[tensor].append(operator)
    operators = []
    for operator in graph.operators:
        operators.append(operator)
        if code_of(model, operator) not in ELEMENTWISE or len(operator.outputs) != 1:
            continue
        result = int(operator.outputs[0])
        unrounded = [other for other in consumers[result] if code_of(model, other) != _OPERATORS.QUANTIZE]
        if not unrounded or len(unrounded) == len(consumers[result]):
            continue
        for number, consumer in enumerate(unrounded):
            tensor = copy.copy(graph.tensors[result])
            name = name_of(graph.tensors[consumer.outputs[0]])
            tensor.name = f"{name}_of_{len(graph.tensors)}_{number}".encode()
            graph.tensors.append(tensor)
            place = len(graph.tensors) - 1
            twin = copy.copy(operator)
            twin.inputs, twin.outputs = list(operator.inputs), [place]
            consumer.inputs = [place if int(index) == result else index for index in consumer.inputs]
            operators.append(twin)
    graph.operators = operators


def _bypass(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    signatures: list[schema.SignatureDefT],
    ranges: dict[str, TensorRange],
    symmetric: bool,
) -> bool:
    """Removes the QUANTIZE and DEQUANTIZE of each fake quantization, and notes their range."""
    replacements: dict[int, int] = {}
    kept = []
    for operator in graph.operators:
        code = code_of(model, operator)
        inputs = [replacements.get(index, index) for index in operator.inputs]
        if code == _OPERATORS.QUANTIZE:
            replacements[operator.outputs[0]] = inputs[0]
            quantized = graph.tensors[operator.outputs[0]]
            tensor = graph.tensors[inputs[0]]
            # Of two fake quantizations of a tensor the first counts: the second is that of the operator that takes it.
            ranges.setdefault(name_of(tensor), _range_of(quantized, symmetric, rank=_rank(tensor)))
        elif code == _OPERATORS.DEQUANTIZE and operator.inputs[0] in replacements:
            replacements[operator.outputs[0]] = inputs[0]
        else:
            operator.inputs = inputs
            kept.append(operator)
    graph.operators = kept
    graph.outputs = [replacements.get(index, index) for index in graph.outputs]
    for signature in signatures:
        for entry in signature.outputs:
            entry.tensorIndex = replacements.get(entry.tensorIndex, entry.tensorIndex)
    return bool(replacements)


def _propagate_ranges(model: schema.ModelT, graph: schema.SubGraphT, ranges: dict[str, TensorRange]) -> None:
    """Copies ranges across operators that only move values, from the end that has one to the end that has none.

    A layer of the model can be several operators: a convolution over sequences is one over images, reshaped.
    """
    for operator in graph.operators:
        if code_of(model, operator) == _OPERATORS.GATHER and len(operator.inputs):
            table, rows = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
            # The quantizer takes the range of a table from its values; the very same range leaves nothing to convert.
            if (values := constant_of(model, table)) is not None:
                ranges[name_of(rows)] = TensorRange(float(values.min()), float(values.max()), _rank(rows))
    moving = [operator for operator in graph.operators if code_of(model, operator) in _MOVES]
    for operator in (*reversed(moving), *moving):
        source, result = (graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
        for known, unknown in ((result, source), (source, result)):
            known_range = ranges.get(name_of(known))
            if known_range is not None and model.buffers[unknown.buffer].data is None:
                ranges.setdefault(name_of(unknown), known_range._replace(rank=_rank(unknown)))


def _range_of(tensor: schema.TensorT, symmetric: bool, rank: int) -> TensorRange:
    """Returns the range of the integers of a quantized tensor."""
    minimum, maximum = _LIMITS[tensor.type]
    scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return TensorRange((minimum + symmetric - zero_point) * scale, (maximum - zero_point) * scale, rank)


def _rank(tensor: schema.TensorT) -> int:
    return max(1, len(tensor.shape))
