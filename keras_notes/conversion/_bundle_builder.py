"""A model ready for conversion: run on its golden samples once, and made into the contents of a bundle by recipe."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from keras_notes._litert.metadata import embed
from keras_notes._shared.checks import received
from keras_notes._shared.labels import check_labels
from keras_notes.bundle import FORMAT_VERSION, MODEL_FILE, TENSORS_FILE, Manifest
from keras_notes.conversion._audit import audit
from keras_notes.conversion._contents import described, signature_entry, tensor_errors
from keras_notes.conversion._pipeline import FileMaker
from keras_notes.conversion._recipes import Plan
from keras_notes.conversion.graph._deploy_graph import SIGNATURE, DeployGraph, deploy_graph
from keras_notes.errors import ConversionError

__all__ = ["PreparedModel"]

_GOLDEN_SAMPLES = 32
_log = logging.getLogger(__name__)
_PACKAGES = ("ai-edge-litert", "ai-edge-quantizer", "keras", "keras-notes", "tensorflow")


class PreparedModel:
    """A trained model, what it gives for its golden samples, and what the device shall be told of it.

    The arguments are those of `convert`.

    Raises:
        ValueError: If samples or labels do not fit the model.
        ConversionError: If nothing says what the inputs are, or the outputs are not finite.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        calibration: Any = None,
        golden: Any = None,
        labels: Sequence[str] | None = None,
        preprocessing: str | None = None,
        signatures: Mapping[str, keras.Model] | None = None,
        batch_size: int | None = 1,
        lowering: str | Mapping[str, str] = "auto",
    ) -> None:
        self._labels = labels
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._inputs: dict[str, dict[str, np.ndarray]] = {}
        self._outputs: dict[str, dict[str, np.ndarray]] = {}
        graphs, ranges = [], {}
        names = _by_signature("calibration", calibration, signatures), _by_signature("golden", golden, signatures)
        for name, entry in {SIGNATURE: model, **(signatures or {})}.items():
            own_calibration, own_golden = (given.get(name) for given in names)
            _log.info("running the signature %s of the model on its golden samples", name)
            graph = deploy_graph(entry, name, own_golden if own_calibration is None else own_calibration)
            samples = None if own_calibration is None else graph.arrays("calibration", own_calibration)
            self._inputs[name], self._outputs[name] = graph.run(_golden_inputs(graph, own_golden, samples))
            _check_finite(entry, self._outputs[name])
            if samples is not None:
                ranges[name] = graph.run(samples)[0] if graph.states else samples
            graphs.append(graph)
        _check_labels(labels, self._outputs[SIGNATURE])
        self.name = model.name
        self.graphs = tuple(graphs)
        self._maker = FileMaker(self.graphs, batch_size, ranges, lowering)

    def labelled(self, x: Any, y: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Samples by input name, and their class ids.

        Raises:
            ValueError: If x are no inputs of the model, or y no class ids of it.
        """
        graph = self.graphs[0]
        if graph.states:
            raise ValueError(
                f"`validation_data` must be None for a model with states, of which {self.name!r} has "
                f"{len(graph.states)}: its samples are the steps of one sequence."
            )
        labels = check_labels(y, [self._outputs[SIGNATURE][name].shape[1:] for name in graph.output_names])
        samples = graph.arrays("validation_data", x)
        if (count := len(next(iter(samples.values())))) != len(labels):
            raise ValueError(
                f"`validation_data` must hold one class id a sample. Received: {len(labels)} for {count} samples."
            )
        return samples, labels

    def accuracy(self, samples: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
        """The accuracy of the trained model, computed by Keras."""
        graph = self.graphs[0]
        return float((graph.run(samples)[1][graph.output_names[0]].argmax(-1) == labels).mean())

    def contents(self, plan: Plan, edges: str) -> tuple[Manifest, dict[str, bytes]]:
        """Converts the model; returns what `write_bundle` takes.

        Raises:
            ConversionError: If the model cannot be converted so, or the file does not hold what was asked for.
        """
        converted = self._maker.make(plan, edges)
        _log.info("looking at the file")
        file = described(converted.tflite)
        audit(file, self.name, plan)
        files: dict[str, bytes] = {}
        entries = tuple(
            signature_entry(graph, file, self._inputs[graph.signature], self._outputs[graph.signature], files)
            for graph in self.graphs
        )
        if converted.tflite != converted.float_tflite:
            files[TENSORS_FILE] = tensor_errors(converted, entries[0], self._inputs[SIGNATURE])
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            manifest_sha256="",
            name=self.name,
            recipe=plan.default.name,
            exceptions={pattern: recipe.name for pattern, recipe in plan.layers.items()},
            edges=edges,
            batch_size=self._batch_size,
            signatures=entries,
            tolerance=plan.tolerance,
            labels=None if self._labels is None else tuple(self._labels),
            preprocessing=self._preprocessing,
            versions={package: version(package) for package in _PACKAGES},
            metrics={},
            files={},
        )
        files[MODEL_FILE] = embed(converted.tflite, _description(manifest), manifest.labels)
        return manifest, files


def _by_signature(argument: str, values: Any, signatures: Mapping[str, keras.Model] | None) -> dict[str, Any]:
    if values is None:
        return {}
    if not signatures:
        return {SIGNATURE: values}
    wanted = {SIGNATURE, *signatures}
    if not isinstance(values, Mapping) or set(values) != wanted:
        raise ValueError(
            f"`{argument}` must be a dict with samples for each of the signatures {sorted(wanted)}. "
            f"Received: {sorted(values) if isinstance(values, Mapping) else type(values).__name__}."
        )
    return dict(values)


def _description(manifest: Manifest) -> dict[str, Any]:
    """What of the manifest travels inside the file: all but what is measured on it or lies beside it."""
    content = dataclasses.asdict(manifest)
    beside = ("manifest_sha256", "tolerance", "metrics", "files")
    return {key: value for key, value in content.items() if key not in beside}


def _check_labels(labels: Sequence[str] | None, outputs: Mapping[str, np.ndarray]) -> None:
    if labels is None:
        return
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"`labels` must be a sequence of strings. {received(labels=labels)}")
    classes = next(iter(outputs.values())).shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must hold one name a class. Received: {len(labels)} for {classes} classes.")


def _check_finite(model: keras.Model, outputs: Mapping[str, np.ndarray]) -> None:
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise ConversionError(
            f"The model {model.name!r} must give finite outputs for its golden samples. Received: NaN or infinity. "
            f"Check its weights."
        )


def _golden_inputs(graph: DeployGraph, golden: Any, calibration: Mapping[str, np.ndarray] | None):
    if golden is not None:
        return graph.arrays("golden", golden)
    if calibration is not None and graph.states:
        return {name: array[:_GOLDEN_SAMPLES] for name, array in calibration.items()}
    if calibration is not None:
        count = len(next(iter(calibration.values())))
        chosen = np.unique(np.linspace(0, count - 1, _GOLDEN_SAMPLES).round().astype(int))
        return {name: array[chosen] for name, array in calibration.items()}
    if any(not np.issubdtype(np.dtype(spec.dtype), np.floating) for spec in graph.input_specs.values()):
        raise ValueError("`golden` must be given for a model with integer inputs: their range is not known here.")
    rng = np.random.default_rng(0)
    shapes = {name: (_GOLDEN_SAMPLES, *spec.shape[1:]) for name, spec in graph.input_specs.items()}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
