"""`sensitivity`: the error that each layer causes when it is quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops, tree

from keras_notes._shared.checks import check_at_least
from keras_notes._shared.models.layer_patterns import skip_patterns
from keras_notes._shared.samples import read_for_model
from keras_notes._shared.types import Tree
from keras_notes.compression._compressed_model import CompressedModel
from keras_notes.compression._quantize_aware import quantize_copy
from keras_notes.compression.quantization._config import QuantizationConfig, check_recipe

__all__ = ["LayerSensitivity", "sensitivity"]


@dataclass(frozen=True)
class LayerSensitivity:
    """The error of a quantized model with one layer left in floating point.

    Attributes:
        layer: Name of the layer; pass it in `skip`.
        error: Root mean square error of the outputs with all other layers quantized, relative to the standard deviation
            of the outputs.
        gain: Error with all layers quantized, less `error`.

    Example:
        >>> import keras, numpy as np
        >>> from keras_notes.compression import quantize_aware, sensitivity
        >>> layers = [keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(4, name="head")]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> largest = sensitivity(model, x)[0]
        >>> quantized = quantize_aware(model, calibration=x, skip=[largest.layer])
        >>> largest.layer in ("hidden", "head"), 0 <= largest.error < 0.1
        (True, True)
    """

    layer: str
    error: float
    gain: float


def sensitivity(
    model: keras.Model, x: Tree, *, recipe: str = "int8", skip: Sequence[str] = (), samples: int = 256
) -> list[LayerSensitivity]:
    """Quantizes a model without training, leaving each layer in turn in floating point.

    Args:
        model: Built model, which is not changed.
        x: Typical inputs, on which ranges are calibrated and the error is measured: arrays or a dataset, as for
            `quantize_aware`.
        recipe: Recipe of `quantize_aware`.
        skip: Patterns of the names or paths of layers that always stay in floating point.
        samples: Number of inputs that are used. The model runs on them once for each of its layers, and once more.

    Returns:
        The layers, the one with the largest gain first.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range, or the device has no integer operator for a layer; names it.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(4, name="head")]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> sorted(result.layer for result in sensitivity(model, x))
        ['head', 'hidden']

    References:
        Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020,
        arXiv:2004.09602, on partial quantization. There one layer at a time is quantized; here one layer at a time is
        not.
    """
    check_at_least("samples", samples, 1)
    x = tree.map_structure(lambda values: np.asarray(values)[:samples], read_for_model("x", x, model, samples))
    expected = _outputs(model, x)
    # The ranges are those of the samples: nothing trains these copies.
    config = QuantizationConfig(
        recipe=check_recipe(recipe),
        skip=skip_patterns(skip),
        batch_norm="frozen",
        learned=False,
        momentum=0.0,
        freeze_after=None,
        calibrated=True,
    )
    quantized = quantize_copy(model, config, x)
    total_error = _error(quantized, x, expected)
    results = []
    for name in _quantized_layers(quantized):
        partly_quantized = quantize_copy(model, dataclasses.replace(config, skip=(*config.skip, name)), x)
        error = _error(partly_quantized, x, expected)
        results.append(LayerSensitivity(name, error, total_error - error))
    return sorted(results, key=lambda result: -result.gain)


def _quantized_layers(model: CompressedModel) -> list[str]:
    steps = () if model.quantization is None else model.quantization.steps
    return list(dict.fromkeys(step.path[0] for step in steps if step.computes_integers))


def _outputs(model: keras.Model, x: Tree) -> list[np.ndarray]:
    tensors = tree.map_structure(ops.convert_to_tensor, x)
    return [ops.convert_to_numpy(output) for output in tree.flatten(model(tensors, training=False))]


def _error(model: keras.Model, x: Tree, expected: list[np.ndarray]) -> float:
    shares = [
        float(np.sqrt(np.mean((actual - values) ** 2))) / max(float(values.std()), 1e-12)
        for actual, values in zip(_outputs(model, x), expected, strict=True)
    ]
    return max(shares)
