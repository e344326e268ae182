"""The export of deploy graphs as a SavedModel, which the converter reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypedDict

import keras

from keras_notes.conversion.graph._deploy_graph import DeployGraph, save_graphs
from keras_notes.conversion.graph._names_in_file import layers_in
from keras_notes.conversion.graph._unconvertible import modules_of_custom_layers
from keras_notes.conversion.workers._job import Job

__all__ = ["Forms", "input_names", "save_model"]


class Forms(TypedDict):
    """The forms of the layers in a SavedModel, as `save_graphs` takes them."""

    recurrent: dict[str, dict[str, str]]


def save_model(job: Job, graphs: tuple[DeployGraph, ...], batch_size: int | None, forms: Forms) -> None:
    """Writes the SavedModel of a job; by a TensorFlow process, if Keras runs on another backend here.

    Args:
        job: The job of the converter.
        graphs: The deploy graphs, a signature each.
        batch_size: 1, or None for any.
        forms: The forms of the layers.

    Raises:
        ConversionError: If the process fails, or cannot import a custom layer.
    """
    if keras.backend.backend() == "tensorflow":
        save_graphs(graphs, job.directory / "saved_model", batch_size=batch_size, **forms)
        return
    modules = modules_of_custom_layers(layers_in(graphs))
    for number, graph in enumerate(graphs):
        graph.model.save(job.directory / f"model_{number}.keras")
    job.run(
        "_run_exporter.py",
        "saved_model",
        signatures=input_names(graphs),
        output_names={graph.signature: list(graph.output_names) for graph in graphs},
        modules=modules,
        paths=[path for path in sys.path if path],
        batch_size=batch_size,
        **forms,
    )


def input_names(graphs: Sequence[DeployGraph]) -> dict[str, list[str]]:
    """Returns the names of the inputs of each signature, states included."""
    return {graph.signature: [*graph.input_specs, *graph.state_specs] for graph in graphs}
