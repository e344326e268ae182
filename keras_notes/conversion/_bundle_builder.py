"""Builds the content of a bundle from a trained model: its golden samples once, and a file by each recipe."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TypeAlias

import keras
import numpy as np

from keras_notes._litert.grid_fit import describe_misfits
from keras_notes._litert.metadata import add_description, append_labels
from keras_notes._litert.model import Tensor, TfliteFile
from keras_notes._litert.reader import describe_model
from keras_notes._shared.checks import received
from keras_notes._shared.labels import check_labels
from keras_notes._shared.sample_sources import is_pair, read_labelled
from keras_notes._shared.samples import read_for_model
from keras_notes._shared.types import ArrayLike, Json
from keras_notes.bundle import (
    FORMAT_VERSION,
    MODEL_FILE,
    TENSORS_FILE,
    Manifest,
    SignatureEntry,
    StateEntry,
    TensorEntry,
    Tolerance,
    TrainedFigure,
)
from keras_notes.conversion._audit import audit
from keras_notes.conversion._golden_inputs import GOLDEN_SAMPLES, check_finite, choose_golden_inputs, ranges_of
from keras_notes.conversion._pipeline import ConversionPipeline, ConvertedFiles
from keras_notes.conversion._recipes import (
    InputRange,
    RecipeByLayer,
    parse_input_range,
    tolerance_for,
    with_own_tolerances,
)
from keras_notes.conversion._reference_outputs import reference_outputs, with_reference
from keras_notes.conversion._refusals import complete_remedy
from keras_notes.conversion._tensor_errors import tensor_errors
from keras_notes.conversion._trained_figures import measure_trained
from keras_notes.conversion._trial_run import run_trial
from keras_notes.conversion.graph._deploy_graph import SIGNATURE, DeployGraph, GraphRun, deploy_graph
from keras_notes.errors import ConversionError

__all__ = ["BundleBuilder", "BundleContent"]

BundleContent: TypeAlias = tuple[Manifest, dict[str, bytes]]
"""The manifest of a bundle, and its other files by name: the arguments of `write_bundle`."""

_SPREADS_OF_THE_LARGEST = 5.0
_log = logging.getLogger(__name__)
_PACKAGES = ("ai-edge-litert", "ai-edge-quantizer", "keras", "keras-notes", "tensorflow")


class BundleBuilder:
    """A trained model, its outputs for its golden samples, and the words that travel with it to the device.

    The arguments are those of `convert`.

    Raises:
        ValueError: If samples or labels do not fit the model.
        ConversionError: If the inputs of the model are not known, or its outputs are not finite.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        calibration: ArrayLike | None = None,
        golden: ArrayLike | None = None,
        labels: Sequence[str] | None = None,
        preprocessing: str | None = None,
        signatures: Mapping[str, keras.Model] | None = None,
        batch_size: int | None = 1,
        lowering: str | Mapping[str, str] = "auto",
        reference: keras.Model | ArrayLike | None = None,
        input_range: InputRange | None = None,
    ) -> None:
        self._labels = labels
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._golden: dict[str, GraphRun] = {}
        self._input_ranges: dict[str, dict[str, tuple[float, float]]] = {}
        graphs, ranges, are_drawn = [], {}, {}
        calibration_by_signature = _by_signature("calibration", calibration, signatures)
        golden_by_signature = _by_signature("golden", golden, signatures)
        for name, entry in {SIGNATURE: model, **(signatures or {})}.items():
            own_calibration = read_for_model("calibration", calibration_by_signature.get(name), entry)
            own_golden = read_for_model("golden", golden_by_signature.get(name), entry, GOLDEN_SAMPLES)
            _log.info("running the signature %s of the model on its golden samples", name)
            graph = deploy_graph(entry, name, own_golden if own_calibration is None else own_calibration)
            samples = None if own_calibration is None else graph.arrays("calibration", own_calibration)
            golden_inputs = choose_golden_inputs(graph, own_golden, samples)
            self._golden[name] = graph.run(golden_inputs.arrays)
            check_finite(entry, self._golden[name].outputs, golden_inputs)
            are_drawn[name] = golden_inputs.argument is None
            self._input_ranges[name] = ranges_of(samples or (golden_inputs.arrays if golden_inputs.argument else {}))
            if samples is not None:
                ranges[name] = graph.run(samples).inputs if graph.states else golden_inputs.others(samples)
            graphs.append(graph)
        _check_label_names(labels, self._golden[SIGNATURE].outputs)
        self.name = model.name
        self.graphs = tuple(graphs)
        self._reference = reference_outputs(
            model, self.graphs[0], self._golden[SIGNATURE], reference, is_drawn=are_drawn[SIGNATURE]
        )
        declared = parse_input_range(input_range, {name for graph in graphs for name in graph.input_specs})
        self._pipeline = ConversionPipeline(self.graphs, batch_size, ranges, lowering, declared)

    def check_labelled(self, data: ArrayLike) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns samples by input name, and their class ids.

        Args:
            data: Inputs and class ids, (x, y), or a dataset of them.

        Raises:
            ValueError: If x are not inputs of the model, or y are not class ids of it.
        """
        samples, y = self.read_labelled(data)
        graph, outputs = self.graphs[0], self._golden[SIGNATURE].outputs
        labels = check_labels(y, [outputs[name].shape[1:] for name in graph.output_names])
        if (count := len(next(iter(samples.values())))) != len(labels):
            raise ValueError(
                f"`validation_data` must hold one class id a sample. Received: {len(labels)} for {count} samples."
            )
        return samples, labels

    def read_labelled(self, data: ArrayLike) -> tuple[dict[str, np.ndarray], ArrayLike]:
        """Returns samples by input name, and labels.

        Args:
            data: Inputs and labels, (x, y), or a dataset of them.

        Raises:
            ValueError: If x are not inputs of the model.
        """
        graph = self.graphs[0]
        if graph.states:
            raise ValueError(
                f"`validation_data` must be None for a model with states, of which {self.name!r} has "
                f"{len(graph.states)}: its samples are the steps of one sequence."
            )
        shapes = {name: tuple(spec.shape) for name, spec in graph.input_specs.items()}
        x, y = data if is_pair(data) else read_labelled("validation_data", data, shapes)
        return graph.arrays("validation_data", x), y

    def measure_trained(
        self, data: tuple[Mapping[str, np.ndarray], ArrayLike], budget: float
    ) -> tuple[tuple[TrainedFigure, ...], dict[str, bytes]]:
        """Returns the trained model's figures on labelled samples, and the files with the scores of the samples.

        Args:
            data: The samples by input name, and their labels.
            budget: The largest loss that the file may have.

        Raises:
            ValueError: If the labels do not fit the outputs.
        """
        figures, scores = measure_trained(self.graphs[0], *data, self._labels)
        return tuple(dataclasses.replace(figure, budget=budget) for figure in figures), scores

    def measure_accuracy(self, samples: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
        """Returns the accuracy of the trained model, computed by Keras."""
        graph = self.graphs[0]
        outputs = graph.run(samples).outputs[graph.output_names[0]]
        return float((outputs.argmax(-1) == labels).mean())

    def build(self, recipes: RecipeByLayer, edges: str, *, try_remedy: bool = False) -> BundleContent:
        """Converts the model, and returns the content of its bundle.

        Args:
            recipes: The number formats.
            edges: The type of the inputs and outputs.
            try_remedy: Whether the remedy of an error is tried, until it holds all exceptions that are needed.

        Raises:
            ConversionError: If the model cannot be converted so, or the file does not hold what the recipe says.
        """
        try:
            converted, file = self._convert(recipes, edges)
        except ConversionError as error:
            if not try_remedy or error.remedy is None or self._pipeline.is_trained:
                raise
            raise complete_remedy(error, lambda other: self._convert(other, edges)) from error
        recipes = converted.recipes
        files: dict[str, bytes] = {}
        entries = tuple(
            _signature_entry(graph, file, self._golden[graph.signature], recipes.tolerance, files)
            for graph in self.graphs
        )
        if not self._pipeline.is_trained:  # whose training saw what the file computes
            entries = tuple(
                with_own_tolerances(entry, recipes.tolerance, self._golden[entry.name].outputs) for entry in entries
            )
        entries = tuple(_with_ranges(entry, self._input_ranges[entry.name]) for entry in entries)
        entries = (with_reference(entries[0], self._reference, files), *entries[1:])
        _warn_of_misfits(file, entries[0], self._golden[SIGNATURE].inputs)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            manifest_sha256="",
            name=self.name,
            recipe=recipes.default.name,
            exceptions=recipes.exceptions,
            edges=edges,
            batch_size=self._batch_size,
            signatures=entries,
            tolerance=tolerance_for(recipes.tolerance, entries),
            labels=None if self._labels is None else tuple(self._labels),
            preprocessing=self._preprocessing,
            versions={package: version(package) for package in _PACKAGES},
            metrics={},
            files={},
        )
        converted.file.run_passes([functools.partial(add_description, description=_description(manifest))])
        converted.file.share_vectors()
        samples = {name: run.inputs for name, run in self._golden.items()}
        run_trial(converted.file, file, entries, samples, self.name, recipes, is_trained=self._pipeline.is_trained)
        if converted.reference is not None:
            files[TENSORS_FILE] = tensor_errors(converted.file, converted.reference, entries[0], samples[SIGNATURE])
        tflite = converted.file.to_bytes()
        files[MODEL_FILE] = tflite if self._labels is None else append_labels(tflite, self._labels)
        return manifest, files

    def _convert(self, recipes: RecipeByLayer, edges: str) -> tuple[ConvertedFiles, TfliteFile]:
        """Converts the model and audits its file."""
        converted = self._pipeline.run(recipes, edges)
        _log.info("auditing the file")
        file = describe_model(converted.file.model)
        audit(file, self.name, converted.recipes, trained=self._pipeline.is_trained)
        return converted, file


def _with_ranges(signature: SignatureEntry, ranges: Mapping[str, tuple[float, float]]) -> SignatureEntry:
    """Returns a signature whose inputs state their ranges."""
    inputs = tuple(dataclasses.replace(entry, range=ranges.get(entry.name)) for entry in signature.inputs)
    return dataclasses.replace(signature, inputs=inputs)


def _signature_entry(
    graph: DeployGraph, file: TfliteFile, golden: GraphRun, tolerance: Tolerance, files: dict[str, bytes]
) -> SignatureEntry:
    """Describes a signature, and adds its golden files to `files`."""
    signature = next(entry for entry in file.signatures if entry.name == graph.signature)
    main = file.graph(signature)

    def edge(side: str, name: str, index: int, grid: Tensor, values: np.ndarray) -> TensorEntry:
        path = f"golden/{signature.name}.{side}.{name}.bin"
        files[path] = values.astype(values.dtype.newbyteorder("<")).tobytes()
        tensor = main.tensors[index]
        is_relative = side == "output" and (grid.scale is None or tolerance.max_error_lsb is None)
        magnitude = _magnitude(values) if is_relative and values.dtype.kind == "f" else None
        return TensorEntry(
            name, tensor.dtype, tensor.shape, grid.scale, grid.zero_point, path, values.dtype.name, magnitude
        )

    return SignatureEntry(
        name=signature.name,
        inputs=tuple(
            edge("input", name, index, main.input_grid(index), golden.inputs[name])
            # In the order of the model's inputs, in which a list of arrays is read.
            for name, index in sorted(signature.inputs.items(), key=lambda item: list(golden.inputs).index(item[0]))
        ),
        outputs=tuple(
            edge("output", name, index, main.output_grid(index), golden.outputs[name])
            for name, index in sorted(signature.outputs.items())
        ),
        golden_samples=len(next(iter(golden.inputs.values()))),
        states=tuple(StateEntry(state.input, state.output) for state in graph.states),
    )


def _warn_of_misfits(file: TfliteFile, signature: SignatureEntry, golden: Mapping[str, np.ndarray]) -> None:
    for misfit in describe_misfits(file, signature, {"the golden samples": golden}):
        _log.warning("%s", misfit)


def _magnitude(values: np.ndarray) -> float | None:
    """Returns what errors of an output are relative to: its largest value, but at least 5 standard deviations.

    Few golden samples may hold no large value: the largest of 32 differs by a factor of 2 from draw to draw, which made
    the verdict on a sound file depend on it. The largest of a million values of a normal distribution is 5 standard
    deviations from its mean.
    """
    largest = float(np.abs(values).max())
    spread = _SPREADS_OF_THE_LARGEST * float(values.astype(np.float64).std())
    return spread if spread > largest else None


def _by_signature(
    argument: str, values: ArrayLike | None, signatures: Mapping[str, keras.Model] | None
) -> dict[str, ArrayLike]:
    if values is None:
        return {}
    if not signatures:
        return {SIGNATURE: values}
    expected = {SIGNATURE, *signatures}
    if not isinstance(values, Mapping) or set(values) != expected:
        raise ValueError(
            f"`{argument}` must be a dict with samples for each of the signatures {sorted(expected)}. "
            f"Received: {sorted(values) if isinstance(values, Mapping) else type(values).__name__}."
        )
    return dict(values)


def _description(manifest: Manifest) -> Json:
    """Returns the part of the manifest that travels inside the file: all but measurements on it and files beside it."""
    content = dataclasses.asdict(manifest)
    beside = ("manifest_sha256", "tolerance", "metrics", "files", "trained_figures")
    for signature in content["signatures"]:
        for entry in (*signature["inputs"], *signature["outputs"]):
            del entry["magnitude"], entry["reference"], entry["tolerance"]
    return {key: value for key, value in content.items() if key not in beside}


def _check_label_names(labels: Sequence[str] | None, outputs: Mapping[str, np.ndarray]) -> None:
    if labels is None:
        return
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"`labels` must be a sequence of strings. {received(labels=labels)}")
    classes = next(iter(outputs.values())).shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must hold one name a class. Received: {len(labels)} for {classes} classes.")
