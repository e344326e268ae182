"""The error of a quantization-aware model before it is trained, against the model that it was made of."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import keras
import numpy as np
from keras import tree

from keras_notes._shared.types import Tensor, Tree
from keras_notes.compression.quantization._quantized_network import QuantizedNetwork

__all__ = ["warn_if_far"]

# Samples that are compared.
_SAMPLES = 256
# Samples of which the values of all layers are kept, to find the layer.
_SAMPLES_OF_LAYERS = 32
# An error that is large: half of the spread of the outputs. That of sound networks is below a tenth.
_LARGE = 0.5


def warn_if_far(
    network: keras.Model, quantization: QuantizedNetwork, structure: Tree, arrays: Sequence[np.ndarray]
) -> None:
    """Warns if a model in integers is far from its network in floating point, and names the first layer that is.

    Args:
        network: Network in floating point.
        quantization: Its computation in integers, calibrated.
        structure: Inputs of the network, in the structure in which it takes them.
        arrays: Calibration samples, an array for each input.
    """
    samples = [array[:_SAMPLES] for array in arrays]
    inputs = tree.pack_sequence_as(structure, samples)
    expected, actual = (tree.flatten(model(inputs, training=False)) for model in (network, quantization))
    errors = [_relative_error(*map(_numbers, pair)) for pair in zip(expected, actual, strict=True)]
    largest = max(errors, default=0.0)
    if largest <= _LARGE:
        return
    points = quantization.values_at_points([array[:_SAMPLES_OF_LAYERS] for array in samples])
    far = [name for name, (exact, rounded) in points.items() if _relative_error(exact, rounded) > _LARGE / 2]
    place = f", first at {far[0].partition('#')[0]!r}" if far else ""
    warnings.warn(
        f"Before training, the outputs of {network.name!r} in integers must be near those in floating point, or "
        f"training starts from another network. Received: a root mean square error of {largest:.2f} of their standard "
        f"deviation on the calibration data{place}. Give the layer in `skip`, or call `equalize` first; normalize "
        f"inputs of unlike ranges in the model.",
        stacklevel=3,
    )


def _relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """Returns the root mean square error, in standard deviations; 0 for values without any, and for other types."""
    if expected.dtype.kind != "f" or expected.shape != actual.shape:
        return 0.0
    spread = float(np.std(expected, dtype="float64"))
    error = float(np.sqrt(np.mean(np.square(actual.astype("float64") - expected))))
    return error / spread if spread > 1e-6 * float(np.abs(expected).max(initial=0.0)) else 0.0


def _numbers(tensor: Tensor) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))
