"""`sensitivity`: which layer costs most when it is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_notes._shared.checks import check_at_least
from keras_notes.compression._quantize_aware import quantize_aware

__all__ = ["LayerSensitivity", "sensitivity"]


@dataclass(frozen=True)
class LayerSensitivity:
    """What is gained by leaving one layer in floating point.

    Attributes:
        layer: Its name; give it in `skip`.
        error: The root mean square error of the outputs with all other layers quantized, in shares of the standard
            deviation of the outputs.
        gain: By how much that is less than with all layers quantized.
    """

    layer: str
    error: float
    gain: float


def sensitivity(
    model: keras.Model, x: Any, *, recipe: str = "int8", skip: Sequence[str] = (), samples: int = 256
) -> list[LayerSensitivity]:
    """Quantizes a model without training, leaving out each layer in turn.

    Args:
        model: A built model, which stays as it is.
        x: Typical inputs, from which ranges are taken and on which the error is measured.
        recipe: As of `quantize_aware`.
        skip: Patterns of layers that stay in floating point anyway.
        samples: How many of the inputs are used. The model is run on them once for each of its layers, and once more.

    Returns:
        The layers, the one that gains most first.

    Raises:
        ValueError: As `quantize_aware`.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(4, name="head")]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> sorted(one.layer for one in sensitivity(model, x))
        ['head', 'hidden']
    """
    check_at_least("samples", samples, 1)
    x = tree.map_structure(lambda values: np.asarray(values)[:samples], x)
    wanted = _outputs(model, x)
    everything = quantize_aware(model, recipe=recipe, calibration=x, skip=skip)
    assert everything.quantization is not None
    whole = _error(everything, x, wanted)
    names = dict.fromkeys(step.path[0] for step in everything.quantization.steps if step.computes_integers)
    found = []
    for name in names:
        without = quantize_aware(model, recipe=recipe, calibration=x, skip=[*skip, name])
        error = _error(without, x, wanted)
        found.append(LayerSensitivity(name, error, whole - error))
    return sorted(found, key=lambda one: -one.gain)


def _outputs(model: keras.Model, x: Any) -> list[np.ndarray]:
    tensors = tree.map_structure(ops.convert_to_tensor, x)
    return [ops.convert_to_numpy(output) for output in tree.flatten(model(tensors, training=False))]


def _error(model: keras.Model, x: Any, wanted: list[np.ndarray]) -> float:
    shares = [
        float(np.sqrt(np.mean((found - values) ** 2))) / max(float(values.std()), 1e-12)
        for found, values in zip(_outputs(model, x), wanted, strict=True)
    ]
    return max(shares)
