"""Rules for layer normalization and RMS normalization, which LiteRT computes by several operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_notes.compression.quantization._evaluator import Arithmetic, Value
from keras_notes.compression.quantization.rules._activations import added, multiplied, subtracted
from keras_notes.compression.quantization.rules._shapes import averaged

__all__ = ["NORMALIZATION_LAYERS", "NORMALIZATION_OPERATIONS"]

_LAYERS = keras.layers


def _layer_normalization(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    """As conversion lowers it: (x - mean) * rsqrt(mean((x - mean)^2) + epsilon) * gamma + beta."""
    layer = step.operation
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    x = arithmetic.quantized(value)
    if isinstance(layer, _LAYERS.LayerNormalization) and not layer.rms_scaling:
        x = _deviation(arithmetic, step.name, x, axes)
    scale = _inverse_deviation(arithmetic, step.name, x, axes, layer.epsilon)
    gamma = layer.gamma if isinstance(layer, _LAYERS.LayerNormalization) else layer.scale
    beta = layer.beta if isinstance(layer, _LAYERS.LayerNormalization) else None
    return _scaled(arithmetic, step.name, multiplied(arithmetic, f"{step.name}/normalized", x, scale), gamma, beta)


def _deviation(arithmetic: Arithmetic, name: str, x: Value, axes: list[int]) -> Value:
    mean = arithmetic.settled(averaged(arithmetic, f"{name}/mean", x, axes, True))
    return arithmetic.settled(subtracted(arithmetic, f"{name}/deviation", x, mean))


def _inverse_deviation(arithmetic: Arithmetic, name: str, x: Value, axes: list[int], epsilon: float) -> Value:
    squares = arithmetic.settled(multiplied(arithmetic, f"{name}/square", x, x))
    variance = averaged(arithmetic, f"{name}/variance", squares, axes, True)
    shifted = arithmetic.settled(added(arithmetic, f"{name}/epsilon", variance, epsilon))
    return arithmetic.inverse_root(f"{name}/rsqrt", shifted)


def _scaled(arithmetic: Arithmetic, name: str, value: Any, gamma: Any, beta: Any) -> Any:
    if gamma is not None:
        value = multiplied(arithmetic, name if beta is None else f"{name}/scaled", value, gamma)
    return value if beta is None else added(arithmetic, name, value, beta)


def _inverse_root(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    return arithmetic.inverse_root(step.name, arithmetic.quantized(value))


NORMALIZATION_LAYERS: dict[type[keras.Layer], Callable] = {
    _LAYERS.LayerNormalization: _layer_normalization,
    _LAYERS.RMSNormalization: _layer_normalization,
}

# By the name of its class, which Keras does not export.
NORMALIZATION_OPERATIONS: dict[str, Callable] = {"Rsqrt": _inverse_root}
