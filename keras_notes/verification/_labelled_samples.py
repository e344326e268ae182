"""Test samples with their class ids, checked against a signature of a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_notes._shared.labels import check_labels
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import SignatureEntry

__all__ = ["check_labelled_samples"]


def check_labelled_samples(
    signature: SignatureEntry, x: ArrayLike | None, y: ArrayLike | None
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Returns samples by input name, and their class ids; {} and None without x and y.

    Raises:
        ValueError: If they do not fit the signature, or a class id is out of range.
        TypeError: If x does not hold numbers.
    """
    if (x is None) != (y is None):
        raise ValueError("`x` and `y` must be given together. Received: only one of them.")
    if x is None or y is None:
        return {}, None
    named = dict(x) if isinstance(x, Mapping) else {signature.inputs[0].name: x}
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
