"""The section of the report on labelled samples: accuracy, confusion matrix, and the figures of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes._litert.sandbox import Limits
from keras_notes._shared.checks import received
from keras_notes._shared.labels import check_labels
from keras_notes._shared.sample_sources import is_source, read_labelled
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import Bundle, SignatureEntry
from keras_notes.report._html import Cell, Content, count, element, table
from keras_notes.verification import Report

__all__ = ["Confusion", "classes", "count_confusions", "figures", "has_classes", "read_labelled_arrays"]

_MAX_MATRIX = 20
_MAX_PAIRS = 10
_SHADES = 5


@dataclass(frozen=True, eq=False)
class Confusion:
    """Predictions of a file for labelled samples, counted.

    Attributes:
        names: Names of the classes.
        counts: Number of samples by true and predicted class, of shape (classes, classes).
    """

    names: tuple[str, ...]
    counts: np.ndarray

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of samples whose predicted class is the true one."""
        return float(np.trace(self.counts) / self.samples)


def read_labelled_arrays(
    bundle: Bundle, x: ArrayLike | None, y: ArrayLike | None
) -> tuple[ArrayLike, ArrayLike] | None:
    """Returns samples and class ids as arrays, which several files can be run on; None without any.

    Raises:
        ValueError: If only one of them is given.
    """
    shapes = {entry.name: entry.shape for entry in bundle.manifest.signatures[0].inputs}
    if y is None and is_source(x, shapes):
        x, y = read_labelled("x", x, shapes)
    if (x is None) != (y is None):
        raise ValueError("`x` and `y` must be given together. Received: only one of them.")
    return None if x is None or y is None else (x, y)


def has_classes(bundle: Bundle, y: ArrayLike) -> bool:
    """Returns whether the first signature gives the classes of a sample, and y are ids of them."""
    outputs = bundle.manifest.signatures[0].outputs
    labels = np.asarray(y) if not isinstance(y, Mapping) else np.empty(0)
    is_ids = labels.dtype.kind in "iub" and labels.ndim in (1, 2) and labels.size == len(labels)
    return len(outputs) == 1 and len(outputs[0].shape) == 2 and is_ids


def count_confusions(bundle: Bundle, x: ArrayLike, y: ArrayLike, kernels: str, limits: Limits) -> Confusion:
    """Runs the file of a bundle on labelled samples, and counts its predictions.

    Args:
        bundle: The bundle; its first signature is run. One output is a label that is set from the middle on: 0.5 of a
            sigmoid, 0 of a logit.
        x: Samples: an array, a list of arrays in the order of the inputs, or a dict by input name.
        y: Class ids of shape (samples,).
        kernels: Kernels to run on.
        limits: Time and memory that the file may use.

    Raises:
        ValueError: If samples or class ids do not fit the model.
    """
    signature = bundle.manifest.signatures[0]
    (output,) = signature.outputs
    is_single = output.shape[1] == 1
    true = check_labels(np.asarray(y).ravel().astype(int), [(max(2, output.shape[1]),)])
    samples = _samples_by_name(signature, x, len(true))
    values = tflite_process.outputs(bundle.model_path, signature, samples, kernels=kernels, limits=limits)[output.name]
    predicted = (values[:, 0] >= _threshold(bundle, values)).astype(int) if is_single else values.argmax(-1)
    number = max(2, output.shape[1])
    counts = np.bincount(true * number + predicted, minlength=number * number).reshape(number, number)
    labels = bundle.manifest.labels
    names = labels if labels is not None and len(labels) == number else tuple(f"class {i}" for i in range(number))
    return Confusion(tuple(names), counts)


def _samples_by_name(signature: SignatureEntry, x: ArrayLike, number: int) -> dict[str, np.ndarray]:
    names = [entry.name for entry in signature.inputs]
    named: Mapping[str, ArrayLike]
    if isinstance(x, Mapping):
        named = x
    elif isinstance(x, (list, tuple)) and len(names) > 1:
        named = dict(zip(names, x, strict=False))
    else:
        named = {names[0]: x}
    samples = {name: np.asarray(values) for name, values in named.items()}
    shapes = {name: values.shape for name, values in samples.items()}
    expected = {entry.name: (number, *entry.shape[1:]) for entry in signature.inputs}
    if shapes != expected:
        raise ValueError(f"`x` must hold a sample for each label, of the shapes {expected}. {received(shapes=shapes)}")
    return samples


def _threshold(bundle: Bundle, values: np.ndarray) -> float:
    """Returns where a single label becomes true: the trained model's threshold, or the middle of a sigmoid or logit."""
    for figure in bundle.manifest.trained_figures or ():
        if figure.threshold is not None:
            return figure.threshold
    golden = bundle.golden(bundle.manifest.signatures[0])[1][bundle.manifest.signatures[0].outputs[0].name]
    is_sigmoid = min(values.min(), golden.min()) >= 0 and max(values.max(), golden.max()) <= 1
    return 0.5 if is_sigmoid else 0.0


def figures(report: Report) -> tuple[Content, ...]:
    """Returns the figures of the task on labelled samples, with their intervals and those of the trained model."""
    if not report.figures:
        return ()
    rows = [
        (
            figure.output,
            figure.metric,
            f"{figure.value:.4f}",
            f"{figure.low:.4f} to {figure.high:.4f}",
            None if figure.trained_value is None else f"{figure.trained_value:.4f}",
            f"{figure.samples:,}",
        )
        for figure in report.figures
    ]
    header = ("Output", "Metric", "File", "95 % interval", "Trained model", "Samples")
    return (table("Figures of the file on labelled samples", header, rows, words=(1,)),)


def classes(confusion: Confusion) -> tuple[Content, ...]:
    """Returns accuracy, confusion matrix, and recall and precision of each class."""
    wrong = confusion.samples - int(np.trace(confusion.counts))
    summary = element(
        "p",
        f"The .tflite file predicts the true class of {confusion.samples - wrong:,} of "
        f"{count(confusion.samples, 'sample')}: an accuracy of {confusion.accuracy:.4f}.",
    )
    parts: list[Content] = [summary]
    if len(confusion.names) <= _MAX_MATRIX:
        parts.append(_matrix(confusion))
    parts.append(_pairs(confusion))
    parts.append(_by_class(confusion))
    return tuple(parts)


def _matrix(confusion: Confusion) -> Content:
    """A row a true class, a column a predicted one; shades by the share of the row."""

    def cell(row: np.ndarray, number: int, *, is_diagonal: bool) -> Cell:
        share = number / max(1, int(row.sum()))
        shade = 0 if number == 0 else 1 + min(_SHADES - 1, int(share * _SHADES))
        return element("span", f"{number:,}", class_=f"{'right' if is_diagonal else 'wrong'} shade-{shade}")

    rows = [
        (name, *(cell(row, int(number), is_diagonal=i == j) for j, number in enumerate(row)))
        for i, (name, row) in enumerate(zip(confusion.names, confusion.counts, strict=True))
    ]
    caption = "Confusion matrix: a row for each true class, a column for each predicted class"
    return element("div", table(caption, ("True class", *confusion.names), rows), class_="confusion")


def _pairs(confusion: Confusion) -> Content:
    """The pairs of classes that are taken for each other most often."""
    mistakes = confusion.counts.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_MAX_PAIRS]
    places = [tuple(map(int, np.unravel_index(place, mistakes.shape))) for place in order]
    rows = [
        (
            confusion.names[i],
            confusion.names[j],
            f"{mistakes[i, j]:,}",
            _share(mistakes[i, j], confusion.counts[i].sum()),
        )
        for i, j in places
        if mistakes[i, j]
    ]
    if not rows:
        return element("p", "There is no mistake among them.")
    header = ("True class", "Predicted", "Samples", "Share of the class")
    return table("The most frequent mistakes", header, rows, words=(1,))


def _by_class(confusion: Confusion) -> Content:
    counts = confusion.counts
    rows = [
        (name, f"{counts[i].sum():,}", _share(counts[i, i], counts[i].sum()), _share(counts[i, i], counts[:, i].sum()))
        for i, name in enumerate(confusion.names)
    ]
    return table("Figures of each class", ("Class", "Samples", "Recall", "Precision"), rows)


def _share(part: int, whole: int) -> str | None:
    return f"{part / whole:.4f}" if whole else None
