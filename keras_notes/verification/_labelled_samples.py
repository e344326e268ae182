"""Test samples with their labels, checked against a signature of a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_notes._litert.model import TfliteFile
from keras_notes._shared.sample_sources import is_source, read_labelled
from keras_notes._shared.task_metrics import MetricArgument, TaskMetric, choose_metric, labels_by_output
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import Manifest, SignatureEntry, TensorEntry
from keras_notes.verification._output_operators import last_operator

__all__ = ["check_labelled_samples"]


def check_labelled_samples(
    manifest: Manifest, file: TfliteFile, x: ArrayLike | None, y: ArrayLike | None, metric: MetricArgument
) -> tuple[dict[str, np.ndarray], dict[str, TaskMetric]]:
    """Returns samples by input name, and a metric with its labels by output; {} without x, and without y.

    Args:
        manifest: The manifest of the bundle; samples are for its first signature.
        file: The content of its file.
        x: Samples: an array, a list or dict of arrays, or a dataset or generator, with labels unless `y` has them.
        y: Labels: an array, or a dict by output.
        metric: The argument of `verify`.

    Raises:
        ValueError: If they do not fit the signature, or a class id is out of range.
        TypeError: If x does not hold numbers.
    """
    signature = manifest.signatures[0]
    shapes = {entry.name: entry.shape for entry in signature.inputs}
    if is_source(x, shapes):
        if y is not None:
            raise ValueError(
                f"`y` must be None for a dataset `x`, which yields the labels itself. Received: x={type(x).__name__} "
                f"and y. Pass a dataset of (x, y), or arrays."
            )
        x, y = read_labelled("x", x, shapes, needs_labels=False)
    if x is None and y is None:
        return {}, {}
    if x is None:
        raise ValueError("`x` and `y` must be given together. Received: only `y`.")
    metrics = {} if y is None else _choose_metrics(manifest, file, y, metric)
    return _check_samples(signature, x, [len(chosen.labels) for chosen in metrics.values()]), metrics


def _choose_metrics(
    manifest: Manifest, file: TfliteFile, y: ArrayLike, metric: MetricArgument
) -> dict[str, TaskMetric]:
    signature = manifest.signatures[0]
    outputs = {entry.name: entry for entry in signature.outputs}
    return {
        name: choose_metric(
            metric,
            labels,
            outputs[name].shape[1:],
            is_integer=_holds_ids(outputs[name]),
            activation=_activation(file, signature, outputs[name]),
            has_classes=manifest.labels is not None,
        )
        for name, labels in labels_by_output(y, list(outputs)).items()
    }


def _holds_ids(entry: TensorEntry) -> bool:
    return entry.scale is None and np.dtype(entry.golden_dtype).kind in "iub"


def _activation(file: TfliteFile, signature: SignatureEntry, entry: TensorEntry) -> str | None:
    operator = last_operator(file, signature.name, entry.name)
    return None if operator is None else {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}.get(operator.name)


def _check_samples(signature: SignatureEntry, x: ArrayLike, counts: list[int]) -> dict[str, np.ndarray]:
    named = _by_name(x, {entry.name: len(entry.shape) for entry in signature.inputs})
    if set(named) != {entry.name for entry in signature.inputs}:
        raise ValueError(
            f"`x` must hold one array for each input. Received: {sorted(named)} for "
            f"{sorted(entry.name for entry in signature.inputs)}."
        )
    samples = {entry.name: np.asarray(named[entry.name]) for entry in signature.inputs}
    first = samples[signature.inputs[0].name]
    count = counts[0] if counts else (len(first) if first.ndim else 0)
    for entry in signature.inputs:
        array = samples[entry.name]
        if array.dtype.kind not in "fiub":
            raise TypeError(f"`x` must hold numbers. Received: dtype {array.dtype} for the input {entry.name!r}.")
        if array.ndim == 0 or array.shape[1:] != entry.shape[1:] or {len(array), *counts} != {count} or count == 0:
            raise ValueError(
                f"`x` must have the shape ({count}, {', '.join(map(str, entry.shape[1:]))}), one sample for each "
                f"label. Received: shape {array.shape} for the input {entry.name!r}."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"`x` must be finite. Received: NaN or infinity for the input {entry.name!r}.")
    return samples


def _by_name(x: ArrayLike, ranks: Mapping[str, int]) -> dict[str, ArrayLike]:
    """Returns an array for each input: of a dict, of a list in the order of the inputs, or of an array alone."""
    names = list(ranks)
    if isinstance(x, Mapping):
        return dict(x)
    if isinstance(x, (list, tuple)) and len(x) == len(names) and np.ndim(x[0]) == ranks[names[0]]:
        return dict(zip(names, x, strict=True))
    return {names[0]: x}
