"""A pass that restores the integers of a quantization-aware model, on the very scales that they were trained on.

Converter and quantizer carry scales as ranges, and compute them again: some differ in the last bit, which decides where
a value lies between two integers.

The quantizer takes the scale of each channel from its largest weight. That is the trained scale except for channels
whose weights vanish beside their bias, which get so small a scale that the bias overflows, and for scales that channels
share, so that clustered weights have no more integers than centroids.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.compression import Grid
from keras_notes.conversion.passes._schema import (
    BIASES,
    WEIGHTED_OPERATORS,
    WeightPlaces,
    code_of,
    constants_by_name,
    name_of,
)

__all__ = ["TrainedWeights", "restore_trained_integers"]

_ACTIVATIONS = (schema.TensorType.INT8, schema.TensorType.INT16)
# A few units in the last place of float32.
_LAST_BITS = 1e-6


@dataclass(frozen=True)
class TrainedWeights:
    """Weights in floating point, on their grid.

    Attributes:
        values: The weights, in any order of the axes.
        scales: The scale of each channel.
    """

    values: np.ndarray
    scales: np.ndarray


def restore_trained_integers(
    model: schema.ModelT, float_model: schema.ModelT, trained: Iterable[TrainedWeights], grids: Sequence[Grid]
) -> bool:
    """Gives a quantized file the integers and scales of the training.

    Args:
        model: A file whose weights are int8 by channel.
        float_model: The float file that it was made of, with the same names.
        trained: The weights that were trained; each is recognized by its values.
        grids: The grids of activations; each is recognized by its scale except for the last bits, and its zero point.
    """
    scales: dict[bytes, list[np.ndarray]] = defaultdict(list)
    for weights in trained:
        scales[_key(weights.values)].append(weights.scales.reshape(-1).astype("float32"))
    float_constants = constants_by_name(float_model)
    writer = _Writer(model)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type in _ACTIVATIONS:
                _snap(tensor.quantization, grids)
        for operator in graph.operators:
            places = WEIGHTED_OPERATORS.get(code_of(model, operator))
            if places is not None:
                _restore_weights(writer, graph, operator, places, float_constants, scales)
    return True


def _snap(quantization: schema.QuantizationParametersT | None, grids: Sequence[Grid]) -> None:
    """Gives a tensor the trained scale that is nearly its own."""
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return
    scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    near = [
        grid for grid in grids if grid.zero_point == zero_point and abs(grid.scale - scale) <= _LAST_BITS * grid.scale
    ]
    if near:
        best = min(near, key=lambda grid: abs(grid.scale - scale))
        quantization.scale = np.array([best.scale], "float32")


def _restore_weights(
    writer: _Writer,
    graph: schema.SubGraphT,
    operator: schema.OperatorT,
    places: WeightPlaces,
    float_constants: Mapping[str, np.ndarray],
    trained_scales: Mapping[bytes, Sequence[np.ndarray]],
) -> None:
    """Restores the integers of an operator's weights and bias, if the weights are trained ones."""
    weights = graph.tensors[operator.inputs[places.weights]]
    values = float_constants.get(_name_in_float_file(weights))
    if weights.type != schema.TensorType.INT8 or values is None:
        return
    axis = places.channels
    kernel = values.reshape(weights.shape)
    candidates = [scales for scales in trained_scales.get(_key(values), ()) if len(scales) == kernel.shape[axis]]
    if not candidates:
        return
    bias, bias_values, x_scale = None, None, np.float32(1.0)
    if len(operator.inputs) > places.bias and operator.inputs[places.bias] >= 0:
        x, bias = (graph.tensors[operator.inputs[place]] for place in (places.x, places.bias))
        bias_values = float_constants.get(_name_in_float_file(bias))
        if x.quantization is not None and x.quantization.scale is not None:
            x_scale = np.float32(x.quantization.scale[0])  # otherwise values in floating point, as their bias is
    # Equal weights, such as those of layers that are all 0, can have been trained with different biases.
    scales = min(candidates, key=lambda scales: _rounding_error(bias_values, x_scale * scales))
    shape = [-1 if number == axis else 1 for number in range(kernel.ndim)]
    integers = np.clip(np.round(kernel / scales.reshape(shape).astype("float64")), -127, 127)
    writer.write(graph, operator, places.weights, integers.astype("int8"), scales, axis)
    if bias is not None and bias_values is not None and bias.type in BIASES:
        steps = x_scale * scales
        # In float32, as the training computes them: integers beyond 2^24 differ otherwise.
        bias_integers = np.round(bias_values.reshape(-1) / steps).astype(BIASES[bias.type])
        writer.write(graph, operator, places.bias, bias_integers, steps, 0)


class _Writer:
    """Writes constants of operators, each of which can share its tensor or buffer with others.

    The converter merges constants of equal values: the biases of two layers, whose integers then differ.

    Args:
        model: The file.
    """

    def __init__(self, model: schema.ModelT) -> None:
        self._model = model
        # What was written, by the `id` of the tensor and by the number of the buffer.
        self._tensors: dict[int, bytes] = {}
        self._buffers: dict[int, bytes] = {}

    def write(
        self,
        graph: schema.SubGraphT,
        operator: schema.OperatorT,
        place: int,
        integers: np.ndarray,
        scales: np.ndarray,
        axis: int,
    ) -> None:
        """Gives an operator a constant, in its tensor if no other operator has another one there."""
        tensor = graph.tensors[operator.inputs[place]]
        contents = integers.tobytes() + scales.tobytes()
        if self._tensors.get(id(tensor), contents) != contents:
            tensor = copy.copy(tensor)
            tensor.quantization = copy.copy(tensor.quantization)
            graph.tensors.append(tensor)
            inputs = list(operator.inputs)
            inputs[place] = len(graph.tensors) - 1
            operator.inputs = inputs
        self._tensors[id(tensor)] = contents
        data = integers.tobytes()
        if self._buffers.get(tensor.buffer, data) != data:
            self._model.buffers.append(schema.BufferT())
            tensor.buffer = len(self._model.buffers) - 1
        self._buffers[tensor.buffer] = data
        self._model.buffers[tensor.buffer].data = np.frombuffer(data, np.uint8)
        tensor.quantization.scale = scales
        tensor.quantization.zeroPoint = np.zeros(len(scales), "int64")
        tensor.quantization.quantizedDimension = axis


def _rounding_error(values: np.ndarray | None, steps: np.ndarray) -> float:
    """Returns how far values are from multiples of some steps, in steps; of integers that overflow, infinity."""
    if values is None or values.size != steps.size:
        return 0.0
    integers = values.reshape(-1) / steps
    largest = np.abs(integers).max(initial=0.0)
    return float(np.abs(integers - np.round(integers)).max(initial=0.0)) if largest < 2.0**31 else np.inf


def _name_in_float_file(tensor: schema.TensorT) -> str:
    """Returns the name of a constant before the quantizer copied it for operators with other scales."""
    return re.sub(r"(_duplicated_\d+)+$", "", name_of(tensor))


def _key(values: np.ndarray) -> bytes:
    """Returns the same key for the same weights in another order of their axes."""
    return np.sort(values + 0.0, axis=None).astype("<f4").tobytes()  # + 0.0: -0.0 is 0.0
