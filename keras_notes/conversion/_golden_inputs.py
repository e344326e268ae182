"""The golden inputs of a conversion: those that were given, some of the calibration samples, or random ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import ArrayLike
from keras_notes.conversion.graph._deploy_graph import DeployGraph
from keras_notes.errors import ConversionError

__all__ = ["GOLDEN_SAMPLES", "GoldenInputs", "check_finite", "choose_golden_inputs", "ranges_of"]

GOLDEN_SAMPLES = 32
# Golden samples are held out of the calibration if three quarters of the samples are left for the ranges.
_FEWEST_TO_HOLD_OUT = 4 * GOLDEN_SAMPLES
# The model runs on so many candidates, evenly spaced, but on fewer if their inputs and outputs hold more numbers.
_CANDIDATES, _NUMBERS = 256, 2**24
# Columns of an output that the order of the samples is taken from: more do not change it.
_COLUMNS = 2048


class GoldenInputs(NamedTuple):
    """Golden samples, and where they come from.

    Attributes:
        arrays: The samples by input name.
        argument: The argument that holds them; None if they are random.
        places: The number of each sample in that argument.
        is_held_out: Whether they set no ranges.
    """

    arrays: dict[str, np.ndarray]
    argument: str | None
    places: np.ndarray
    is_held_out: bool = False

    def others(self, calibration: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the calibration samples that set the ranges: all, or all but the golden ones."""
        if not self.is_held_out:
            return dict(calibration)
        return {name: np.delete(array, self.places, axis=0) for name, array in calibration.items()}


def check_finite(model: keras.Model, outputs: Mapping[str, np.ndarray], inputs: GoldenInputs) -> None:
    """Raises ConversionError unless the outputs are finite; names the samples for which they are not."""
    is_finite = np.all([np.isfinite(array).reshape(len(array), -1).all(1) for array in outputs.values()], axis=0)
    if is_finite.all():
        return
    subject = f"The model {model.name!r} must give finite outputs for its golden samples. Received: NaN or infinity"
    if not is_finite.any() or inputs.argument is None:
        raise ConversionError(f"{subject}. Check its weights.")
    samples = ", ".join(map(str, inputs.places[~is_finite][:5]))
    number = int((~is_finite).sum())
    reason = ""
    if _computes_masks(model):
        reason = " A sample whose steps are all masked, such as a row of padding, has no mean over its steps."
    raise ConversionError(
        f"{subject} for {number} of {len(is_finite)} of them, sample {samples}{', ...' if number > 5 else ''} of "
        f"`{inputs.argument}`; the others are finite.{reason} Drop such samples, or let the model handle them."
    )


def _computes_masks(model: keras.Model) -> bool:
    """Returns whether a layer of a model makes masks, as `Masking` and an `Embedding` with mask_zero=True do."""
    return any(
        isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False) for layer in layers_of(model)
    )


def choose_golden_inputs(
    graph: DeployGraph, golden: ArrayLike | None, calibration: Mapping[str, np.ndarray] | None
) -> GoldenInputs:
    """Returns the golden inputs of a signature.

    Args:
        graph: The deploy graph.
        golden: The argument of `convert`; None for a choice.
        calibration: The calibration samples by input name; None without any.

    Raises:
        ValueError: If `golden` does not fit the inputs, or must be given.
    """
    if golden is not None:
        arrays = graph.arrays("golden", golden)
        return GoldenInputs(arrays, "golden", np.arange(_count(arrays)))
    if calibration is not None:
        count = _count(calibration)
        is_held_out = count >= _FEWEST_TO_HOLD_OUT and not graph.states
        if graph.states:
            places = np.arange(min(count, GOLDEN_SAMPLES))
        else:
            places = _spread_by_outputs(graph, calibration) if is_held_out else _evenly_spaced(count, GOLDEN_SAMPLES)
        arrays = {name: array[places] for name, array in calibration.items()}
        return GoldenInputs(arrays, "calibration", places, is_held_out)
    rng = np.random.default_rng(0)
    arrays = {}
    for (name, spec), tensor in zip(graph.input_specs.items(), graph.model.inputs, strict=True):
        shape = (GOLDEN_SAMPLES, *spec.shape[1:])
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            arrays[name] = rng.normal(size=shape).astype("float32")
        else:
            # Without 0, which is often the id of padding.
            words = _count_words(graph.model, tensor, name)
            arrays[name] = rng.integers(min(1, words - 1), words, shape).astype(spec.dtype)
    return GoldenInputs(arrays, None, np.arange(GOLDEN_SAMPLES))


def _spread_by_outputs(graph: DeployGraph, calibration: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the places of samples that stand for all, by the model's outputs.

    The samples are sorted along the direction in which the outputs vary most, and of each of 32 equal parts the middle
    one is taken. So the golden samples do not depend on the order of the calibration samples, and the extreme ones stay
    in the calibration, which needs them for its ranges.
    """
    shapes = [array.shape[1:] for array in calibration.values()] + [t.shape[1:] for t in graph.model.outputs]
    fitting = _NUMBERS // max(1, sum(math.prod(size or 1 for size in shape) for shape in shapes))
    candidates = _evenly_spaced(_count(calibration), min(_CANDIDATES, max(_FEWEST_TO_HOLD_OUT, fitting)))
    outputs = graph.run({name: array[candidates] for name, array in calibration.items()}).outputs
    order = candidates[np.argsort(_positions(outputs), kind="stable")]
    return np.sort(np.array([part[len(part) // 2] for part in np.array_split(order, GOLDEN_SAMPLES)]))


def _positions(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the position of each sample along the direction in which the standardized outputs vary most."""
    rows = [array.reshape(len(array), -1) for array in outputs.values()]
    columns = [row[:, _evenly_spaced(row.shape[1], _COLUMNS)].astype(np.float64) for row in rows]
    # A sample without finite outputs is refused if it is golden; here it is like the mean.
    table = np.nan_to_num(np.concatenate(columns, axis=1), posinf=0.0, neginf=0.0)
    table -= table.mean(axis=0)
    table /= np.maximum(table.std(axis=0), 1e-12)
    direction = np.linalg.svd(table, full_matrices=False)[0][:, 0]
    # A direction and its opposite are the same; the order must not depend on which of them comes out.
    return direction * np.sign(direction[np.abs(direction).argmax()])


def _evenly_spaced(count: int, number: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, number).round().astype(int))


def _count_words(model: keras.Model, tensor: keras.KerasTensor, name: str) -> int:
    """Returns the number of words that an integer input may hold: that of the embeddings which look them up.

    Raises:
        ValueError: If the model has no embedding.
    """
    embeddings = [layer for layer in layers_of(model) if isinstance(layer, keras.layers.Embedding)]
    own = [layer.input_dim for layer in embeddings if _takes(layer, tensor)]
    # An embedding in a layer may have any input: a word that all of them have is in the range of each.
    counts = own or [layer.input_dim for layer in embeddings]
    if not counts:
        raise ValueError(
            f"`golden` must be given for a model with integer inputs, unless an `Embedding` says their range. "
            f"Received: golden=None for the input {name!r}. Give 32 typical inputs, or `calibration`."
        )
    return min(counts)


def _takes(layer: keras.Layer, tensor: keras.KerasTensor) -> bool:
    try:
        return layer.input is tensor
    except (AttributeError, ValueError):  # the layer is used several times, or not in a graph
        return False


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values())))


def ranges_of(samples: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Returns minimum and maximum of each input of finite numbers, in the digits of its type."""
    ends = {name: (a.min(), a.max()) for name, a in samples.items() if a.size and a.dtype.kind in "iuf"}
    return {
        name: (float(str(low)), float(str(high)))
        for name, (low, high) in ends.items()
        if np.isfinite([low, high]).all()
    }
