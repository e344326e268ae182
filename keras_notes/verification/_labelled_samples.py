"""Test samples with their class ids, checked against a signature of a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_notes._shared.labels import check_labels
from keras_notes._shared.sample_sources import is_source, read_labelled
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import SignatureEntry

__all__ = ["check_labelled_samples"]


def check_labelled_samples(
    signature: SignatureEntry, x: ArrayLike | None, y: ArrayLike | None
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Returns samples by input name, and their class ids; {} and None without x and y.

    Args:
        signature: The entry point of the bundle.
        x: Samples: an array, a list or dict of arrays, or a dataset or generator, with labels unless `y` has them.
        y: Class ids.

    Raises:
        ValueError: If they do not fit the signature, or a class id is out of range.
        TypeError: If x does not hold numbers.
    """
    shapes = {entry.name: entry.shape for entry in signature.inputs}
    if is_source(x, shapes):
        if y is not None:
            raise ValueError(
                f"`y` must be None for a dataset `x`, which yields the labels itself. Received: x={type(x).__name__} "
                f"and y. Pass a dataset of (x, y), or arrays."
            )
        x, y = read_labelled("x", x, shapes)
    if (x is None) != (y is None):
        raise ValueError("`x` and `y` must be given together. Received: only one of them.")
    if x is None or y is None:
        return {}, None
    named = _by_name(x, [entry.name for entry in signature.inputs])
    if set(named) != {entry.name for entry in signature.inputs}:
        raise ValueError(
            f"`x` must hold one array for each input. Received: {sorted(named)} for "
            f"{sorted(entry.name for entry in signature.inputs)}."
        )
    samples = {entry.name: np.asarray(named[entry.name]) for entry in signature.inputs}
    labels = check_labels(y, [entry.shape[1:] for entry in signature.outputs])
    for entry in signature.inputs:
        array = samples[entry.name]
        if array.dtype.kind not in "fiub":
            raise TypeError(f"`x` must hold numbers. Received: dtype {array.dtype} for the input {entry.name!r}.")
        if array.ndim == 0 or array.shape[1:] != entry.shape[1:] or len(array) != len(labels):
            raise ValueError(
                f"`x` must have the shape ({len(labels)}, {', '.join(map(str, entry.shape[1:]))}), one sample for each "
                f"label. Received: shape {array.shape} for the input {entry.name!r}."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"`x` must be finite. Received: NaN or infinity for the input {entry.name!r}.")
    return samples, labels


def _by_name(x: ArrayLike, names: list[str]) -> dict[str, ArrayLike]:
    """Returns an array for each input: of a dict, of a list in the order of the inputs, or of an array alone."""
    if isinstance(x, Mapping):
        return dict(x)
    if isinstance(x, (list, tuple)) and len(names) > 1 and len(x) == len(names):
        return dict(zip(names, x, strict=True))
    return {names[0]: x}
