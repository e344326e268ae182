"""Figures of the trained model on validation data, which the bundle keeps to stand beside those of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_notes._shared.keras_internals import operation_of, output_index_of
from keras_notes._shared.task_metrics import TaskMetric, choose_metric, digest_of, labels_by_output
from keras_notes._shared.types import ArrayLike, Tensor
from keras_notes.bundle import TrainedFigure
from keras_notes.conversion.graph._deploy_graph import DeployGraph

__all__ = ["measure_trained"]

_ACTIVATIONS = ("sigmoid", "softmax")
# Operations that keep the values of what they take.
_KEEPING = ("Reshape", "Flatten", "Squeeze", "ExpandDims", "Cast", "Identity", "Dropout")


def measure_trained(
    graph: DeployGraph, samples: Mapping[str, np.ndarray], y: ArrayLike, class_names: Sequence[str] | None
) -> tuple[tuple[TrainedFigure, ...], dict[str, bytes]]:
    """Returns the figure of each output that has labels, and the files with the scores of the samples.

    Args:
        graph: The deploy graph of the first signature.
        samples: Samples by input name.
        y: Their labels, or labels by output.
        class_names: The names of the classes; None if none were given.

    Raises:
        ValueError: If the labels do not fit the outputs or the samples.
    """
    tensors = dict(zip(graph.output_names, graph.model.outputs, strict=True))
    labels = labels_by_output(y, graph.output_names)
    metrics = {
        name: choose_metric(
            None,
            values,
            tuple(tensors[name].shape[1:]),
            is_integer="float" not in tensors[name].dtype,
            activation=_activation_of(tensors[name]),
            has_classes=class_names is not None,
        )
        for name, values in labels.items()
    }
    count = len(next(iter(samples.values())))
    for metric in metrics.values():
        if len(metric.labels) != count:
            label = "class id" if metric.name == "accuracy" else "label"
            raise ValueError(
                f"`validation_data` must hold one {label} a sample. Received: {len(metric.labels)} for {count} samples."
            )
    outputs = graph.run(samples).outputs
    figures, files = [], {}
    for name, metric in metrics.items():
        figure, scores = _figure(name, metric, samples, outputs[name])
        figures.append(figure)
        files[str(figure.scores)] = scores
    return tuple(figures), files


def _figure(
    name: str, metric: TaskMetric, samples: Mapping[str, np.ndarray], outputs: np.ndarray
) -> tuple[TrainedFigure, bytes]:
    figure = TrainedFigure(
        output=name,
        metric=metric.name,
        value=metric.value(outputs),
        samples=len(metric.labels),
        data_sha256=digest_of(samples, metric.labels),
        threshold=metric.threshold,
        scores=f"golden/validation.{name}.bin",
    )
    return figure, np.asarray(metric.score(outputs), dtype="<f4").tobytes()


def _activation_of(tensor: Tensor) -> str | None:
    """Returns "sigmoid" or "softmax" if an output is one, followed through nested models; None if not."""
    operation, inputs = operation_of(tensor)
    if isinstance(operation, keras.Model):
        outputs = keras.tree.flatten(getattr(getattr(operation, "network", operation), "outputs", None) or [])
        index = output_index_of(tensor)
        return _activation_of(outputs[index]) if index < len(outputs) else None
    if type(operation).__name__ in _KEEPING:
        return _activation_of(inputs[0]) if inputs else None
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", type(operation).__name__.lower())
    return name if name in _ACTIVATIONS else None
