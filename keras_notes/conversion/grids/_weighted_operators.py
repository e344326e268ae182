"""Operators with weights: the places of their parts, and the values of the constants that they were quantized from."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import WEIGHTED_OPERATORS, code_of, name_of

__all__ = ["float_values", "input_at", "scales_of", "step_ratios"]

# The quantizer copies a constant that operators need on several grids.
_COPY = re.compile(r"_duplicated_\d+$")


def input_at(graph: schema.SubGraphT, operator: schema.OperatorT, place: int) -> schema.TensorT | None:
    """Returns the tensor at a place among the inputs of an operator; None if it is left out."""
    is_there = len(operator.inputs) > place and operator.inputs[place] >= 0
    return graph.tensors[operator.inputs[place]] if is_there else None


def float_values(tensor: schema.TensorT, constants: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Returns the values that a constant of a quantized file had in the float file, in its shape; None if unknown.

    Args:
        tensor: The constant.
        constants: The constants of the float file, by name.
    """
    name = name_of(tensor)
    values = constants.get(name, constants.get(_COPY.sub("", name)))
    return None if values is None else values.reshape(() if tensor.shape is None else tuple(tensor.shape))


def step_ratios(model: schema.ModelT) -> dict[str, float]:
    """Returns the largest step of the products as a multiple of a step of the result, by the name of the result."""
    ratios = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            places = WEIGHTED_OPERATORS.get(code_of(model, operator))
            if places is not None:
                result = graph.tensors[operator.outputs[0]]
                parts = (input_at(graph, operator, places.x), input_at(graph, operator, places.weights), result)
                x, weights, steps = (scales_of(part) for part in parts)
                if x is not None and weights is not None and steps is not None:
                    ratios[name_of(result)] = float(x[0] * weights.max() / steps[0])
    return ratios


def scales_of(tensor: schema.TensorT | None) -> np.ndarray | None:
    """Returns the scales of a tensor; None if it is in floating point."""
    quantization = None if tensor is None else tensor.quantization
    return None if quantization is None or quantization.scale is None else np.array(quantization.scale, "float64")
