"""Test samples with their class ids, checked against a signature of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_notes._shared.checks import received
from keras_notes.bundle import SignatureEntry

__all__ = ["checked_labels", "labelled_samples"]


def labelled_samples(signature: SignatureEntry, x: Any, y: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Returns samples by input name, and their class ids; nothing for nothing.

    Raises:
        ValueError: If they do not fit the signature, or a class id is out of range.
        TypeError: If they are no numbers.
    """
    if (x is None) != (y is None):
        raise ValueError("`x` and `y` must be given together. Received: only one of them.")
    if x is None:
        return {}, None
    named = dict(x) if isinstance(x, Mapping) else {signature.inputs[0].name: x}
    if set(named) != {entry.name for entry in signature.inputs}:
        raise ValueError(
            f"`x` must hold one array for each input. Received: {sorted(named)} for "
            f"{sorted(entry.name for entry in signature.inputs)}."
        )
    samples = {entry.name: np.asarray(named[entry.name]) for entry in signature.inputs}
    labels = checked_labels(y, [entry.shape[1:] for entry in signature.outputs])
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


def checked_labels(y: Any, output_shapes: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns class ids of shape (samples,).

    Args:
        y: The class ids.
        output_shapes: The shape of each output of the model, without the batch.

    Raises:
        ValueError: If the model has no classes, or y are no ids of them.
    """
    labels = np.asarray(y)
    if len(output_shapes) != 1:
        raise ValueError(f"Accuracy needs a model with one output. Received: {len(output_shapes)} outputs.")
    shape = tuple(output_shapes[0])
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise ValueError(
            f"`y` must hold class ids: integers of shape (samples,). "
            f"Received: dtype {labels.dtype} and shape {labels.shape}."
        )
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"Accuracy needs an output of shape (1, classes). {received(shape=(1, *shape))}")
    wrong = (labels < 0) | (labels >= shape[0])
    if wrong.any():
        raise ValueError(
            f"`y` must hold class ids in [0, {shape[0]}). Received: {labels[wrong][0]} "
            f"({int(wrong.sum())} of {len(labels)} are out of range)."
        )
    return labels
