"""A pass that keeps the integers of biases within their type.

A bias is stored in steps of (scale of the inputs) x (scale of the channel's weights). The quantizer takes the scale of
a channel from its largest weight, and where the weights vanish beside the bias, as weight decay and normalization leave
them, the integer of the bias overflows: the channel then gives 0, or the smallest integer.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.grids._weighted_operators import float_values, input_at, scales_of
from keras_notes.conversion.passes._schema import (
    BIASES,
    WEIGHTED_OPERATORS,
    WeightPlaces,
    add_constant,
    code_of,
    constants_by_name,
    name_of,
)

__all__ = ["LARGEST_BIAS", "fit_biases", "smallest_weight_scales"]

# The largest integer of a bias: half of int32, so that the sum of the products fits beside it. TensorFlow's converter
# has the same limit. It holds for the int64 of int16x8 too: other engines add in 32 or 40 bits, and behind a smaller
# scale the factor of the result, a fraction of 31 bits, would be 0.
LARGEST_BIAS = 2.0**30
# A few units in the last place of float32.
_LAST_BITS = 1e-6


class _Use(NamedTuple):
    """An operator that uses weights."""

    graph: schema.SubGraphT
    operator: schema.OperatorT
    places: WeightPlaces


def smallest_weight_scales(bias: np.ndarray, x_scale: float) -> np.ndarray:
    """Returns the scale of each channel's weights below which the bias overflows.

    Args:
        bias: The bias of each channel.
        x_scale: The scale of the inputs.
    """
    return np.abs(bias).astype("float64") / (x_scale * LARGEST_BIAS)


def fit_biases(model: schema.ModelT, float_model: schema.ModelT) -> bool:
    """Widens the weight scale of each channel whose bias would overflow, and quantizes its weights and bias again.

    Args:
        model: A file whose weights are int8, by channel or by tensor.
        float_model: The float file that it was made of, with the same names.
    """
    constants = constants_by_name(float_model)
    uses: dict[int, list[_Use]] = defaultdict(list)
    for graph in model.subgraphs:
        for operator in graph.operators:
            places = WEIGHTED_OPERATORS.get(code_of(model, operator))
            weights = None if places is None else input_at(graph, operator, places.weights)
            if places is not None and weights is not None and weights.type == schema.TensorType.INT8:
                # By buffer, not by tensor: the graphs of several signatures share weights.
                uses[weights.buffer].append(_Use(graph, operator, places))
    changes = [_fit_weights(model, shared, constants) for shared in uses.values()]
    return any(changes)


def _fit_weights(model: schema.ModelT, uses: list[_Use], constants: Mapping[str, np.ndarray]) -> bool:
    """Fits weights to the biases of all operators that use them; returns whether they changed."""
    tensors = [use.graph.tensors[use.operator.inputs[use.places.weights]] for use in uses]
    values = float_values(tensors[0], constants)
    scales = scales_of(tensors[0])
    if values is None or scales is None:
        return False
    required = np.zeros_like(scales)
    for use in uses:
        x, bias = (input_at(use.graph, use.operator, place) for place in (use.places.x, use.places.bias))
        x_scales, bias_values = scales_of(x), None if bias is None else float_values(bias, constants)
        if x_scales is not None and bias is not None and bias.type in BIASES and bias_values is not None:
            smallest = smallest_weight_scales(bias_values.reshape(-1), float(x_scales[0]))
            required = np.maximum(required, smallest if len(scales) > 1 else smallest.max())
    if (required <= scales * (1 + _LAST_BITS)).all():
        return False
    widened = np.maximum(scales, required)
    axis = uses[0].places.channels
    steps = (
        widened.reshape([-1 if number == axis else 1 for number in range(values.ndim)]) if len(scales) > 1 else widened
    )
    integers = np.clip(np.round(values / steps), -127, 127)
    model.buffers[tensors[0].buffer].data = np.frombuffer(integers.astype("int8").tobytes(), np.uint8)
    for tensor in tensors:
        tensor.quantization.scale = widened.astype("float32")
    for use in uses:
        _quantize_bias(model, use, widened, constants)
    return True


def _quantize_bias(model: schema.ModelT, use: _Use, scales: np.ndarray, constants: Mapping[str, np.ndarray]) -> None:
    x, bias = (input_at(use.graph, use.operator, place) for place in (use.places.x, use.places.bias))
    values, x_scales = None if bias is None else float_values(bias, constants), scales_of(x)
    if bias is None or values is None or x_scales is None or bias.type not in BIASES:
        return
    steps = (float(x_scales[0]) * scales).astype("float32")
    integers = np.round(values.reshape(-1) / steps.astype("float64")).astype(BIASES[bias.type])
    # A tensor of its own: operators with other weights may share the old one.
    fitted = copy.copy(bias)
    fitted.quantization = copy.copy(bias.quantization)
    fitted.quantization.scale = steps
    fitted.quantization.zeroPoint = np.zeros(len(steps), "int64")
    place = use.operator.inputs[use.places.bias]
    index = add_constant(model, use.graph, fitted, integers)
    is_shared = sum(place in operator.inputs for operator in use.graph.operators) > 1
    if is_shared:
        fitted.name = f"{name_of(bias)}#fitted_{index}".encode()
        inputs = list(use.operator.inputs)
        inputs[use.places.bias] = index
        use.operator.inputs = inputs
    else:
        use.graph.tensors[place] = use.graph.tensors.pop()
