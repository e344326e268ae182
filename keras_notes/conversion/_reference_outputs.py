"""Outputs of the float model that a quantization-aware model came from, for the golden samples."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import keras
import numpy as np

from keras_notes._shared.checks import received
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import SignatureEntry
from keras_notes.compression import CompressedModel
from keras_notes.conversion.graph._deploy_graph import DeployGraph, GraphRun, deploy_graph
from keras_notes.errors import ConversionError

__all__ = ["reference_outputs", "with_reference"]

_log = logging.getLogger(__name__)


def reference_outputs(
    model: keras.Model,
    graph: DeployGraph,
    golden: GraphRun,
    reference: keras.Model | ArrayLike | None,
    *,
    is_drawn: bool,
) -> dict[str, np.ndarray]:
    """Returns the outputs of the float model by output name; {} without one.

    Args:
        model: The model that is converted.
        graph: Its deploy graph.
        golden: The golden samples and the model's outputs for them.
        reference: The float model, or its outputs for the golden samples: an array, a list or a dict by output. None
            for the network of a quantization-aware model itself, run in floating point with the weights that it has.
        is_drawn: Whether the golden samples are drawn numbers. On those a model in integers may well be far from its
            float model, as on columns of thousands that get normal numbers; only a `reference` that is given counts.

    Raises:
        ValueError: If the outputs of the reference have other shapes than those of the model.
    """
    inputs = [golden.inputs[name] for name in graph.input_specs]
    if isinstance(reference, keras.Model):
        outputs = _run(reference, inputs)
    elif reference is not None:
        outputs = _listed(reference, graph)
    elif isinstance(model, CompressedModel) and model.scheme is not None and not graph.states and not is_drawn:
        try:
            with model.transformed():
                outputs = _run(model.network, inputs)
        except (ConversionError, TypeError, ValueError) as error:
            _log.info("no distance to the float model, which cannot be run by itself: %s", error)
            return {}
    else:
        return {}
    shapes = [golden.outputs[name].shape for name in graph.output_names]
    if [values.shape for values in outputs] != shapes:
        raise ValueError(
            f"`reference` must give outputs of the shapes {shapes} for the golden samples. "
            f"Received: {[values.shape for values in outputs]}."
        )
    return dict(zip(graph.output_names, outputs, strict=True))


def with_reference(
    signature: SignatureEntry, outputs: Mapping[str, np.ndarray], files: dict[str, bytes]
) -> SignatureEntry:
    """Returns a signature with the outputs of a float model.

    Args:
        signature: The signature.
        outputs: The outputs by name; {} without a float model.
        files: Files of the bundle by name, to which theirs are added.
    """
    entries = []
    for entry in signature.outputs:
        if entry.name in outputs:
            path = f"golden/{signature.name}.reference.{entry.name}.bin"
            values = outputs[entry.name].astype(np.dtype(entry.golden_dtype).newbyteorder("<"))
            files[path] = values.tobytes()
            entry = dataclasses.replace(entry, reference=path)
        entries.append(entry)
    return dataclasses.replace(signature, outputs=tuple(entries))


def _run(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    example = inputs[0] if len(inputs) == 1 else inputs
    graph = deploy_graph(model, example=example)
    if len(graph.input_specs) != len(inputs):
        raise ValueError(
            f"`reference` must take the inputs of the model, {len(inputs)}. {received(inputs=len(graph.input_specs))}"
        )
    run = graph.run(dict(zip(graph.input_specs, inputs, strict=True)))
    return [run.outputs[name] for name in graph.output_names]


def _listed(outputs: ArrayLike, graph: DeployGraph) -> list[np.ndarray]:
    if isinstance(outputs, Mapping):
        if set(outputs) != set(graph.output_names):
            raise ValueError(
                f"`reference` must hold the outputs {list(graph.output_names)}. Received: {list(outputs)}."
            )
        return [np.asarray(outputs[name]) for name in graph.output_names]
    arrays = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return [np.asarray(array) for array in arrays]
