"""A pass that restores the integers of a quantization-aware model, on the very scales that they were trained on.

Converter and quantizer carry scales as ranges, and compute them again: some differ in the last bit, which decides where
a value lies between two integers.

The quantizer takes the scale of each channel from its largest weight. That is the trained scale except for channels
whose weights are all 0, which get so small a scale that their bias overflows, and for scales that channels share, so
that clustered weights have no more integers than centroids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.compression import Grid
from keras_notes.conversion.passes._schema import code_of, name_of
from keras_notes.conversion.passes._weighted_operators import (
    BIASES,
    WEIGHTED_OPERATORS,
    WeightPlaces,
    constants_by_name,
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
    scales = {_key(weights.values): weights.scales.reshape(-1) for weights in trained}
    float_constants = constants_by_name(float_model)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type in _ACTIVATIONS:
                _snap(tensor.quantization, grids)
        for operator in graph.operators:
            places = WEIGHTED_OPERATORS.get(code_of(model, operator))
            if places is not None:
                _restore_weights(model, graph, operator, places, float_constants, scales)
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
    model: schema.ModelT,
    graph: schema.SubGraphT,
    operator: schema.OperatorT,
    places: WeightPlaces,
    float_constants: Mapping[str, np.ndarray],
    trained_scales: Mapping[bytes, np.ndarray],
) -> None:
    """Restores the integers of an operator's weights and bias, if the weights are trained ones."""
    weights = graph.tensors[operator.inputs[places.weights]]
    values = float_constants.get(name_of(weights))
    scales = None if values is None else trained_scales.get(_key(values))
    if weights.type != schema.TensorType.INT8 or values is None or scales is None:
        return
    axis = places.channels
    kernel = values.reshape(weights.shape)
    if len(scales) != kernel.shape[axis]:
        return
    shape = [-1 if number == axis else 1 for number in range(kernel.ndim)]
    integers = np.clip(np.round(kernel / scales.reshape(shape).astype("float64")), -127, 127)
    model.buffers[weights.buffer].data = np.frombuffer(integers.astype("int8").tobytes(), np.uint8)
    weights.quantization.scale = scales.astype("float32")
    weights.quantization.zeroPoint = np.zeros(len(scales), "int64")
    weights.quantization.quantizedDimension = axis
    if len(operator.inputs) > places.bias and operator.inputs[places.bias] >= 0:
        x, bias = (graph.tensors[operator.inputs[place]] for place in (places.x, places.bias))
        _restore_bias(model, bias, x, scales, float_constants)


def _restore_bias(
    model: schema.ModelT,
    bias: schema.TensorT,
    x: schema.TensorT,
    scales: np.ndarray,
    float_constants: Mapping[str, np.ndarray],
) -> None:
    values = float_constants.get(name_of(bias))
    if values is None or bias.type not in BIASES:
        return
    steps = float(x.quantization.scale[0]) * scales.astype("float64")
    integers = np.round(values.reshape(-1) / steps).astype(BIASES[bias.type])
    model.buffers[bias.buffer].data = np.frombuffer(integers.tobytes(), np.uint8)
    bias.quantization.scale = steps.astype("float32")
    bias.quantization.zeroPoint = np.zeros(len(steps), "int64")


def _key(values: np.ndarray) -> bytes:
    """Returns the same key for the same weights in another order of their axes."""
    return np.sort(values + 0.0, axis=None).astype("<f4").tobytes()  # + 0.0: -0.0 is 0.0
