"""Rules for layer normalization and RMS normalization, which LiteRT computes by several operators."""

from __future__ import annotations

import keras

from keras_notes._shared.types import Tensor
from keras_notes.compression.quantization._evaluator import Evaluator, Operand, Rounded
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import add, multiply, subtract
from keras_notes.compression.quantization.rules._shapes import reduce_mean

__all__ = ["NORMALIZATION_LAYERS", "NORMALIZATION_OPERATIONS"]

_LAYERS = keras.layers


def _layer_normalization(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    """Computes (x - mean) * rsqrt(mean((x - mean)^2) + epsilon) * gamma + beta, as conversion lowers it."""
    layer = step.operation
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    x = evaluator.to_grid(value)
    if isinstance(layer, _LAYERS.LayerNormalization) and not layer.rms_scaling:
        x = _deviation(evaluator, step.name, x, axes)
    scale = _inverse_deviation(evaluator, step.name, x, axes, layer.epsilon)
    gamma = layer.gamma if isinstance(layer, _LAYERS.LayerNormalization) else layer.scale
    beta = layer.beta if isinstance(layer, _LAYERS.LayerNormalization) else None
    return _scale_and_shift(evaluator, step.name, multiply(evaluator, f"{step.name}/normalized", x, scale), gamma, beta)


def _deviation(evaluator: Evaluator, name: str, x: Rounded, axes: list[int]) -> Rounded:
    mean = evaluator.materialize(reduce_mean(evaluator, f"{name}/mean", x, axes, True))
    return evaluator.materialize(subtract(evaluator, f"{name}/deviation", x, mean))


def _inverse_deviation(evaluator: Evaluator, name: str, x: Rounded, axes: list[int], epsilon: float) -> Rounded:
    squares = evaluator.materialize(multiply(evaluator, f"{name}/square", x, x))
    variance = reduce_mean(evaluator, f"{name}/variance", squares, axes, True)
    shifted = evaluator.materialize(add(evaluator, f"{name}/epsilon", variance, epsilon))
    return evaluator.rsqrt(f"{name}/rsqrt", shifted)


def _scale_and_shift(
    evaluator: Evaluator, name: str, value: Operand, gamma: Tensor | None, beta: Tensor | None
) -> Operand:
    if gamma is not None:
        value = multiply(evaluator, name if beta is None else f"{name}/scaled", value, gamma)
    return value if beta is None else add(evaluator, name, value, beta)


def _rsqrt(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    return evaluator.rsqrt(step.name, evaluator.to_grid(value))


NORMALIZATION_LAYERS: dict[type[keras.Layer], Rule] = {
    _LAYERS.LayerNormalization: _layer_normalization,
    _LAYERS.RMSNormalization: _layer_normalization,
}

# Rule by the name of the operation class, which Keras does not export.
NORMALIZATION_OPERATIONS: dict[str, Rule] = {"Rsqrt": _rsqrt}
