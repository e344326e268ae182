"""Samples given by the user, checked against the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_notes._shared.sample_sources import CALIBRATION_SAMPLES, read_samples
from keras_notes._shared.types import ArrayLike

__all__ = ["check_samples", "read_for_model"]


def read_for_model(
    argument: str, values: ArrayLike, model: keras.Model, maximum: int = CALIBRATION_SAMPLES
) -> ArrayLike:
    """Returns the inputs of a dataset, generator or loader as arrays; other values as they are.

    Args:
        argument: Name of the argument, for errors.
        values: Samples in any form; None for none.
        model: Model whose inputs they are; of a subclassed model the elements of a dataset must be batches.
        maximum: Number of samples of a dataset that are read.

    Raises:
        ValueError: If a dataset is empty, or an element does not fit the inputs; names the element.
        TypeError: If an element does not hold numbers.
    """
    inputs = getattr(model, "inputs", None)
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs} if inputs else None
    return read_samples(argument, values, shapes, maximum)


def check_samples(argument: str, values: ArrayLike, specs: Mapping[str, keras.InputSpec]) -> dict[str, np.ndarray]:
    """Returns samples by input name, each of shape (samples, ...).

    Args:
        argument: Name of the argument, for errors.
        values: An array for a single input, or arrays in a list, or by input name.
        specs: Type and shape of each input, by name.

    Raises:
        ValueError: If they are not finite, or of another shape than the inputs.
        TypeError: If they are not numbers.
    """
    by_name = _by_name(argument, values, list(specs))
    arrays = {name: _check_array(argument, name, by_name[name], spec) for name, spec in specs.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or min(counts.values()) < 1:
        raise ValueError(
            f"`{argument}` must hold the same number of samples, at least 1, for every input. Received: {counts}."
        )
    return arrays


def _by_name(argument: str, values: ArrayLike, names: list[str]) -> dict[str, ArrayLike]:
    if isinstance(values, Mapping):
        arrays = dict(values)
    elif isinstance(values, (list, tuple)):
        arrays = dict(zip(names, values, strict=True)) if len(values) == len(names) else {}
    else:
        arrays = {names[0]: values} if len(names) == 1 else {}
    if set(arrays) != set(names):
        raise ValueError(
            f"`{argument}` must hold one array for each of the inputs {names}: an array, a list, or a dict by "
            f"name. Received: {sorted(arrays) if isinstance(values, Mapping) else type(values).__name__}."
        )
    return arrays


def _check_array(argument: str, name: str, values: ArrayLike, spec: keras.InputSpec) -> np.ndarray:
    array = np.asarray(values)
    shape = tuple(spec.shape[1:])
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{argument}` must hold numbers. Received: dtype {array.dtype} for the input {name!r}.")
    if array.ndim == 0 or array.shape[1:] != shape:
        raise ValueError(
            f"`{argument}` must have the shape (samples, {', '.join(map(str, shape))}) for the input {name!r}. "
            f"Received: shape {array.shape}."
        )
    is_float = "float" in spec.dtype
    with np.errstate(invalid="ignore", over="ignore"):  # values that do not fit are an error below
        cast = array.astype(spec.dtype)
    wrong = ~np.isfinite(cast if is_float else array)
    if wrong.any():
        sample = int(np.argwhere(wrong)[0][0])
        raise ValueError(
            f"`{argument}` must be finite. Received: {int(wrong.sum())} NaN or infinite values for the input "
            f"{name!r}, the first in sample {sample}. Clean or drop those samples."
        )
    if not is_float and not np.array_equal(array, cast):
        raise ValueError(
            f"`{argument}` must hold integers of dtype {spec.dtype} for the input {name!r}. "
            f"Received: dtype {array.dtype} with fractions or values out of its range."
        )
    return cast
