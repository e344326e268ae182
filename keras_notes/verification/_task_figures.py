"""Figures of the task on labelled samples: of the file, and of the trained model beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from keras_notes._shared.task_metrics import TaskMetric, digest_of
from keras_notes.bundle import Bundle, TrainedFigure
from keras_notes.verification._report import TaskFigure

__all__ = ["chance_warnings", "measure_task", "task_failures"]

# One point of accuracy; of the square of an error, a hundredth of the variance of the labels.
_LARGEST_LOSS = 0.01


def measure_task(
    bundle: Bundle,
    samples: Mapping[str, np.ndarray],
    metrics: Mapping[str, TaskMetric],
    outputs: Mapping[str, np.ndarray],
) -> tuple[TaskFigure, ...]:
    """Returns the figure of each output that has labels.

    Args:
        bundle: The bundle, which may hold the trained model's figures.
        samples: Test samples by input name.
        metrics: Metrics with labels, by output.
        outputs: Outputs of the file for the samples.
    """
    return tuple(_figure(bundle, samples, name, metric, outputs[name]) for name, metric in metrics.items())


def _figure(
    bundle: Bundle, samples: Mapping[str, np.ndarray], name: str, metric: TaskMetric, outputs: np.ndarray
) -> TaskFigure:
    trained = _trained_figure(bundle, name, metric)
    if trained is not None and trained.threshold is not None:
        metric = dataclasses.replace(metric, threshold=trained.threshold)
    value, interval = metric.value(outputs), metric.interval(outputs)
    is_same = trained is not None and trained.data_sha256 == digest_of(samples, metric.labels)
    scores = bundle.scores(trained) if is_same and trained is not None else None
    return TaskFigure(
        output=name,
        metric=metric.name,
        value=value,
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        samples=len(metric.labels),
        trained_value=None if trained is None else trained.value,
        trained_samples=None if trained is None else trained.samples,
        is_on_same_data=is_same,
        loss=None if trained is None or not is_same else metric.loss(trained.value, value),
        sure_loss=None if scores is None else metric.sure_loss(scores, outputs),
        chance=metric.chance(),
        budget=_LARGEST_LOSS if trained is None or trained.budget is None else trained.budget,
    )


def _trained_figure(bundle: Bundle, output: str, metric: TaskMetric) -> TrainedFigure | None:
    return next(
        (
            figure
            for figure in bundle.manifest.trained_figures or ()
            if (figure.output, figure.metric) == (output, metric.name)
        ),
        None,
    )


def task_failures(figures: tuple[TaskFigure, ...]) -> Iterator[str]:
    """Yields a sentence for each figure that lost more than a point against the trained model on the same samples.

    The loss must be beyond chance: each sample is compared with itself, as in McNemar's test, and the 95 % interval of
    the mean difference must lie above 0.
    """
    for figure in figures:
        if figure.loss is not None and figure.loss > figure.budget and (figure.sure_loss or 0.0) > 0.0:
            yield (
                f"the {figure.metric} of the file at the output {figure.output!r} must be within "
                f"{figure.budget:g} of the trained model's {figure.trained_value:.4f} on the same {figure.samples} "
                f"samples. Received: {figure.value:.4f}"
            )


def chance_warnings(figures: tuple[TaskFigure, ...]) -> Iterator[str]:
    """Yields a sentence for each figure that is that of a model which knows nothing."""
    for figure in figures:
        if figure.chance is not None and figure.low <= figure.chance and figure.value < 1.0:
            whose = "the file"
            if figure.trained_value is not None and figure.trained_value <= figure.high:
                whose = "the file, and of the trained model,"
            yield (
                f"the {figure.metric} of {whose} at the output {figure.output!r} is {figure.value:.4f}, no better than "
                f"the most frequent answer, which is right in {figure.chance:.4f}: check the training, or the labels"
            )
