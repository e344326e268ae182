"""Figures of a task: how well outputs answer labels, sample by sample, with an interval. Needs NumPy alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from keras_notes._shared.checks import check_choice, received
from keras_notes._shared.labels import check_labels
from keras_notes._shared.types import ArrayLike

__all__ = ["METRICS", "Interval", "MetricArgument", "TaskMetric", "choose_metric", "digest_of", "labels_by_output"]

METRICS = ("accuracy", "binary_accuracy", "mae", "rmse")
MetricArgument: TypeAlias = str | Callable[[np.ndarray, np.ndarray], float] | None
"""The name of a metric, a function of labels and outputs, or None for the metric that suits both."""

# The two-sided 95 % quantile of the normal distribution.
_Z = 1.959964
_RESAMPLES = 1000
_RESAMPLES_OF_A_FUNCTION = 200
_HIT = 0.5


@dataclass(frozen=True)
class Interval:
    """The 95 % confidence interval of a figure.

    Attributes:
        low: Lower end.
        high: Upper end.
        method: "wilson" for shares of samples, "bootstrap" (over samples, seed 0) for every other figure.
    """

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class TaskMetric:
    """A metric for one output and its labels.

    Attributes:
        name: Name of the metric.
        labels: The labels, as the metric takes them.
        threshold: Value of an output from which a single label is true; None for metrics without one.
        function: Function of labels and outputs; None for a metric with scores of samples.
    """

    name: str
    labels: np.ndarray
    threshold: float | None = None
    function: Callable[[np.ndarray, np.ndarray], float] | None = None

    @property
    def is_share(self) -> bool:
        """Whether the figure is a share of right answers."""
        return self.name in ("accuracy", "binary_accuracy")

    def score(self, outputs: np.ndarray) -> np.ndarray | None:
        """Returns the score of each sample: share of right answers, mean absolute or mean squared error."""
        if self.function is not None:
            return None
        if self.name == "accuracy":
            classes = outputs if outputs.dtype.kind in "iub" else outputs.argmax(axis=-1)
            scores = classes.reshape(self.labels.shape) == self.labels
        elif self.name == "binary_accuracy":
            scores = (outputs.reshape(self.labels.shape) > self.threshold) == (self.labels > _HIT)
        else:
            errors = outputs.astype(np.float64).reshape(self.labels.shape) - self.labels
            scores = np.abs(errors) if self.name == "mae" else np.square(errors)
        return scores.reshape(len(scores), -1).mean(axis=1)

    def value(self, outputs: np.ndarray) -> float:
        """Returns the figure of outputs."""
        if self.function is not None:
            return float(self.function(self.labels, outputs))
        return self._figure(self.score(outputs))

    def interval(self, outputs: np.ndarray) -> Interval:
        """Returns the 95 % confidence interval of the figure of outputs."""
        scores, count = self.score(outputs), len(self.labels)
        if scores is not None and self.is_share and np.isin(scores, (0.0, 1.0)).all():
            return _wilson(float(scores.mean()), count)
        rng = np.random.default_rng(0)
        if scores is None:
            draws = (rng.integers(0, count, count) for _ in range(_RESAMPLES_OF_A_FUNCTION))
            figures = [float(self.function(self.labels[draw], outputs[draw])) for draw in draws]  # type: ignore[misc]
        else:
            figures = [self._figure(scores[rng.integers(0, count, count)]) for _ in range(_RESAMPLES)]
        return Interval(float(np.quantile(figures, 0.025)), float(np.quantile(figures, 0.975)), "bootstrap")

    def loss(self, trained: float, value: float) -> float | None:
        """Returns what a figure lost against that of the trained model, in points: 0.01 is one point.

        Of an error counts by how much its square grew, as a share of the variance of the labels, which is what the file
        no longer explains. None for a function, whose direction is unknown.
        """
        if self.function is not None:
            return None
        if self.is_share:
            return trained - value
        return (value**2 - trained**2) / (float(self.labels.var()) or 1.0)

    def sure_loss(self, trained_scores: np.ndarray, outputs: np.ndarray) -> float:
        """Returns the lower end of the 95 % interval of the mean loss of a sample, each compared with itself."""
        scores = self.score(outputs)
        losses = np.zeros(1) if scores is None else (trained_scores - scores) * (1.0 if self.is_share else -1.0)
        error = losses.std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
        return float(losses.mean() - _Z * error)

    def chance(self) -> float | None:
        """Returns the share of the most frequent answer, which needs no knowledge; None without classes."""
        if not self.is_share:
            return None
        counts = np.unique(self.labels > _HIT if self.threshold is not None else self.labels, return_counts=True)[1]
        return float(counts.max() / counts.sum())

    def _figure(self, scores: np.ndarray | None) -> float:
        mean = float(np.mean(scores))  # type: ignore[arg-type]
        return math.sqrt(mean) if self.name == "rmse" else mean


def labels_by_output(y: ArrayLike, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the labels by output: all of them for a single output, or those of a dict.

    Raises:
        ValueError: If they name another output, or there are several outputs and no names.
    """
    if isinstance(y, Mapping):
        if not y or set(y) - set(outputs):
            raise ValueError(f"`y` must hold labels by output, of {sorted(outputs)}. Received: {sorted(y)}.")
        return {name: np.asarray(labels) for name, labels in y.items()}
    if len(outputs) != 1:
        raise ValueError(
            f"Accuracy needs a model with one output, or `y` as a dict by output. Received: {len(outputs)} outputs, "
            f"{sorted(outputs)}."
        )
    return {outputs[0]: np.asarray(y)}


def choose_metric(
    metric: MetricArgument,
    y: np.ndarray,
    shape: Sequence[int],
    *,
    is_integer: bool = False,
    activation: str | None = None,
    has_classes: bool = False,
) -> TaskMetric:
    """Returns the metric for an output and its labels.

    Args:
        metric: "accuracy", "binary_accuracy", "mae" or "rmse"; a function of labels and outputs; or None, which takes
            the accuracy that labels and output allow: class ids or one-hot labels for classes on the last axis (of a
            sample, or of each pixel); 0 and 1 for single labels, of which the output holds probabilities or logits; and
            the mean absolute error for other numbers of the output's shape.
        y: The labels of all samples.
        shape: The shape of the output without the batch.
        is_integer: Whether the output holds class ids.
        activation: "sigmoid" or "softmax", if the output is known to be one; None if not.
        has_classes: Whether the user has named the channels as classes.

    Raises:
        ValueError: If the labels do not fit the output, or the metric is unknown.
        TypeError: If the metric is neither a name nor a function.
    """
    if callable(metric):
        return TaskMetric(getattr(metric, "__name__", "metric"), y, function=metric)
    if metric is not None and not isinstance(metric, str):
        raise TypeError(f"`metric` must be a name or a function. {received(metric=metric)}")
    name = _suitable(y, tuple(shape), is_integer, activation, has_classes) if metric is None else metric
    check_choice("metric", name, METRICS)
    if name == "accuracy":
        return TaskMetric(name, _class_ids(y, tuple(shape), is_integer))
    labels = _of_shape(y, tuple(shape))
    if name == "binary_accuracy" and not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"`y` must hold 0 and 1 for single labels. Received: values from {labels.min()} to {labels.max()}."
        )
    return TaskMetric(name, labels, threshold=_threshold(activation) if name == "binary_accuracy" else None)


def digest_of(samples: Mapping[str, np.ndarray], y: np.ndarray) -> str:
    """Returns the SHA-256 of samples in float32, or as integers, and their labels."""
    digest = hashlib.sha256()
    for name in sorted(samples):
        values = np.ascontiguousarray(samples[name], dtype="<f4")
        digest.update(f"{name}{values.shape}".encode() + values.tobytes())
    labels = np.ascontiguousarray(y, dtype="<f8")
    digest.update(f"{labels.shape}".encode() + labels.tobytes())
    return digest.hexdigest()


def _threshold(activation: str | None) -> float:
    return _HIT if activation in ("sigmoid", "softmax") else 0.0


def _suitable(
    y: np.ndarray, shape: tuple[int, ...], is_integer: bool, activation: str | None, has_classes: bool
) -> str:
    classes = shape[-1] if shape else 1
    if y.size and y.dtype.kind in "fiub":
        if is_integer and y.shape[1:] == shape:
            return "accuracy"
        is_binary = bool(np.isin(y, (0, 1)).all())
        if classes > 1 and y.shape[1:] == shape and is_binary and bool((y.sum(axis=-1) == 1).all()):
            return "accuracy"
        if _is_of_shape(y, shape) and not (classes > 1 and (has_classes or activation == "softmax")):
            return "binary_accuracy" if is_binary else "mae"
    return "accuracy"


def _is_of_shape(y: np.ndarray, shape: tuple[int, ...]) -> bool:
    return y.ndim > 0 and (y.shape[1:] == shape or (shape[-1:] == (1,) and y.shape[1:] == shape[:-1]))


def _of_shape(y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if not _is_of_shape(y, shape) or len(y) == 0 or y.dtype.kind not in "fiub":
        raise ValueError(
            f"`y` must hold numbers of the shape (samples, {', '.join(map(str, shape))}). Received: dtype {y.dtype} "
            f"and shape {y.shape}."
        )
    return y.reshape(len(y), *shape).astype(np.float64)


def _class_ids(y: np.ndarray, shape: tuple[int, ...], is_integer: bool) -> np.ndarray:
    if is_integer and y.ndim and y.shape[1:] == shape and y.dtype.kind in "iub" and len(y):
        return y
    has_classes = bool(shape) and shape[-1] > 1 and y.ndim > 0 and len(y) > 0
    if has_classes and y.shape[1:] == shape and np.isin(y, (0, 1)).all() and (y.sum(axis=-1) == 1).all():
        return y.argmax(axis=-1)
    if has_classes and len(shape) > 1 and y.shape[1:] == shape[:-1] and y.dtype.kind in "iu":
        check_labels(y.reshape(-1), [shape[-1:]])
        return y
    return check_labels(y, [shape])


def _wilson(share: float, count: int) -> Interval:
    """Returns the score interval of Wilson (1927) of a share."""
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Interval(max(center - half, 0.0), min(center + half, 1.0), "wilson")
