"""The integers of a quantization-aware model, on the very scales that they were trained on.

Converter and quantizer carry scales as ranges, and compute them anew: some differ in the last bit, which decides where
a value lies between two integers.

The quantizer finds a scale for each channel from its largest weight. That is the trained one but for channels whose
weights are all 0, which get so small a scale that their bias overflows, and for scales that channels share, so that
clustered weights are as few integers as centroids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes.compression import Grid
from keras_notes.conversion.passes._schema import code_of, name_of

__all__ = ["TrainedWeights", "with_trained_integers"]

_OPERATORS = schema.BuiltinOperator


@dataclass(frozen=True)
class _Places:
    """Where an operator has its parts among the inputs, and the weights their channels."""

    x: int
    weights: int
    bias: int
    channels: int


_PLACES = {
    _OPERATORS.CONV_2D: _Places(0, 1, 2, 0),
    _OPERATORS.FULLY_CONNECTED: _Places(0, 1, 2, 0),
    _OPERATORS.DEPTHWISE_CONV_2D: _Places(0, 1, 2, 3),
    _OPERATORS.TRANSPOSE_CONV: _Places(2, 1, 3, 0),
}
_ACTIVATIONS = (schema.TensorType.INT8, schema.TensorType.INT16)
# A few units in the last place of float32.
_LAST_BITS = 1e-6
_BIASES = {schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}


@dataclass(frozen=True)
class TrainedWeights:
    """Weights in floating point, on their grid.

    Attributes:
        values: The weights, in any order of the axes.
        scales: The scale of each channel.
    """

    values: np.ndarray
    scales: np.ndarray


def with_trained_integers(
    tflite: bytes, float_tflite: bytes, trained: Iterable[TrainedWeights], grids: Sequence[Grid]
) -> bytes:
    """The quantized file with the integers and scales of the training.

    Args:
        tflite: A file whose weights are int8 by channel.
        float_tflite: The float file that it was made of, with the same names.
        trained: The weights that were trained; each is known again by its values.
        grids: The grids of activations; each is known again by its scale but for the last bits, and its zero point.
    """
    scales = {_key(one.values): one.scales.reshape(-1) for one in trained}
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    source = flatbuffer_utils.read_model_from_bytearray(bytearray(float_tflite))
    floats = {name_of(tensor): values for tensor, values in _constants(source)}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type in _ACTIVATIONS:
                _snap(tensor.quantization, grids)
        for operator in graph.operators:
            places = _PLACES.get(code_of(model, operator))
            if places is not None:
                _settle(model, graph, operator, places, floats, scales)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _snap(quantization, grids: Sequence[Grid]) -> None:
    """Gives a tensor the trained scale that its own nearly is."""
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return
    scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    near = [
        grid for grid in grids if grid.zero_point == zero_point and abs(grid.scale - scale) <= _LAST_BITS * grid.scale
    ]
    if near:
        best = min(near, key=lambda grid: abs(grid.scale - scale))
        quantization.scale = np.array([best.scale], "float32")


def _settle(model, graph, operator, places: _Places, floats: dict, scales: dict) -> None:
    weights = graph.tensors[operator.inputs[places.weights]]
    values = floats.get(name_of(weights))
    if weights.type != schema.TensorType.INT8 or values is None or (found := scales.get(_key(values))) is None:
        return
    axis = places.channels
    kernel = values.reshape(weights.shape)
    if len(found) != kernel.shape[axis]:
        return
    shape = [-1 if number == axis else 1 for number in range(kernel.ndim)]
    integers = np.clip(np.round(kernel / found.reshape(shape).astype("float64")), -127, 127)
    model.buffers[weights.buffer].data = np.frombuffer(integers.astype("int8").tobytes(), np.uint8)
    weights.quantization.scale = found.astype("float32")
    weights.quantization.zeroPoint = np.zeros(len(found), "int64")
    weights.quantization.quantizedDimension = axis
    if len(operator.inputs) > places.bias and operator.inputs[places.bias] >= 0:
        x, bias = (graph.tensors[operator.inputs[place]] for place in (places.x, places.bias))
        _settle_bias(model, bias, x, found, floats)


def _settle_bias(model, bias, x, scales: np.ndarray, floats: dict) -> None:
    values = floats.get(name_of(bias))
    if values is None or bias.type not in _BIASES:
        return
    steps = float(x.quantization.scale[0]) * scales.astype("float64")
    integers = np.round(values.reshape(-1) / steps).astype(_BIASES[bias.type])
    model.buffers[bias.buffer].data = np.frombuffer(integers.tobytes(), np.uint8)
    bias.quantization.scale = steps.astype("float32")
    bias.quantization.zeroPoint = np.zeros(len(steps), "int64")


def _constants(model) -> Iterator[tuple]:
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and tensor.type == schema.TensorType.FLOAT32:
                yield tensor, np.frombuffer(bytes(data), "<f4")


def _key(values: np.ndarray) -> bytes:
    """The same for the same weights in another order of their axes."""
    return np.sort(values + 0.0, axis=None).astype("<f4").tobytes()  # + 0.0: -0.0 is 0.0
