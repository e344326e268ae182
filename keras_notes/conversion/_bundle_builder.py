"""Builds the content of a bundle from a trained model: its golden samples once, and a file by each recipe."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeAlias

import keras
import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes._litert.metadata import add_description, append_labels
from keras_notes._litert.model import Tensor, TfliteFile
from keras_notes._litert.reader import describe_model
from keras_notes._shared.checks import received
from keras_notes._shared.keras_internals import layers_of
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
)
from keras_notes.conversion._audit import audit
from keras_notes.conversion._pipeline import ConversionPipeline
from keras_notes.conversion._recipes import RecipeByLayer
from keras_notes.conversion.graph._deploy_graph import SIGNATURE, DeployGraph, GraphRun, deploy_graph
from keras_notes.conversion.passes._model_file import ModelFile
from keras_notes.errors import ConversionError

__all__ = ["BundleBuilder", "BundleContent"]

BundleContent: TypeAlias = tuple[Manifest, dict[str, bytes]]
"""The manifest of a bundle, and its other files by name: the arguments of `write_bundle`."""

_GOLDEN_SAMPLES = 32
# Every tensor of two files is read for each of them.
_SAMPLES_FOR_TENSOR_ERRORS = 8
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
    ) -> None:
        self._labels = labels
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._golden: dict[str, GraphRun] = {}
        self._input_ranges: dict[str, dict[str, tuple[float, float]]] = {}
        graphs, ranges = [], {}
        calibration_by_signature = _by_signature("calibration", calibration, signatures)
        golden_by_signature = _by_signature("golden", golden, signatures)
        for name, entry in {SIGNATURE: model, **(signatures or {})}.items():
            own_calibration = read_for_model("calibration", calibration_by_signature.get(name), entry)
            own_golden = read_for_model("golden", golden_by_signature.get(name), entry, _GOLDEN_SAMPLES)
            _log.info("running the signature %s of the model on its golden samples", name)
            graph = deploy_graph(entry, name, own_golden if own_calibration is None else own_calibration)
            samples = None if own_calibration is None else graph.arrays("calibration", own_calibration)
            golden_inputs = _golden_inputs(graph, own_golden, samples)
            self._golden[name] = graph.run(golden_inputs.arrays)
            _check_finite(entry, self._golden[name].outputs, golden_inputs)
            self._input_ranges[name] = _ranges_of(samples or (golden_inputs.arrays if golden_inputs.argument else {}))
            if samples is not None:
                ranges[name] = graph.run(samples).inputs if graph.states else samples
            graphs.append(graph)
        _check_label_names(labels, self._golden[SIGNATURE].outputs)
        self.name = model.name
        self.graphs = tuple(graphs)
        self._pipeline = ConversionPipeline(self.graphs, batch_size, ranges, lowering)

    def check_labelled(self, data: ArrayLike) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns samples by input name, and their class ids.

        Args:
            data: Inputs and class ids, (x, y), or a dataset of them.

        Raises:
            ValueError: If x are not inputs of the model, or y are not class ids of it.
        """
        graph = self.graphs[0]
        if graph.states:
            raise ValueError(
                f"`validation_data` must be None for a model with states, of which {self.name!r} has "
                f"{len(graph.states)}: its samples are the steps of one sequence."
            )
        shapes = {name: tuple(spec.shape) for name, spec in graph.input_specs.items()}
        x, y = data if is_pair(data) else read_labelled("validation_data", data, shapes)
        outputs = self._golden[SIGNATURE].outputs
        labels = check_labels(y, [outputs[name].shape[1:] for name in graph.output_names])
        samples = graph.arrays("validation_data", x)
        if (count := len(next(iter(samples.values())))) != len(labels):
            raise ValueError(
                f"`validation_data` must hold one class id a sample. Received: {len(labels)} for {count} samples."
            )
        return samples, labels

    def measure_accuracy(self, samples: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
        """Returns the accuracy of the trained model, computed by Keras."""
        graph = self.graphs[0]
        outputs = graph.run(samples).outputs[graph.output_names[0]]
        return float((outputs.argmax(-1) == labels).mean())

    def build(self, recipes: RecipeByLayer, edges: str) -> BundleContent:
        """Converts the model, and returns the content of its bundle.

        Raises:
            ConversionError: If the model cannot be converted so, or the file does not hold what the recipe says.
        """
        converted = self._pipeline.run(recipes, edges)
        _log.info("auditing the file")
        file = describe_model(converted.file.model)
        audit(file, self.name, recipes)
        files: dict[str, bytes] = {}
        entries = tuple(
            _signature_entry(graph, file, self._golden[graph.signature], self._input_ranges[graph.signature], files)
            for graph in self.graphs
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            manifest_sha256="",
            name=self.name,
            recipe=recipes.default.name,
            exceptions={pattern: recipe.name for pattern, recipe in recipes.layers.items()},
            edges=edges,
            batch_size=self._batch_size,
            signatures=entries,
            tolerance=_tolerance_for(recipes.tolerance, entries),
            labels=None if self._labels is None else tuple(self._labels),
            preprocessing=self._preprocessing,
            versions={package: version(package) for package in _PACKAGES},
            metrics={},
            files={},
        )
        converted.file.run_passes([functools.partial(add_description, description=_description(manifest))])
        if converted.reference is not None:
            inputs = self._golden[SIGNATURE].inputs
            files[TENSORS_FILE] = _tensor_errors(converted.file, converted.reference, entries[0], inputs)
        tflite = converted.file.to_bytes()
        files[MODEL_FILE] = tflite if self._labels is None else append_labels(tflite, self._labels)
        return manifest, files


def _ranges_of(samples: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Returns minimum and maximum of each input of finite numbers, in the digits of its type."""
    ends = {name: (a.min(), a.max()) for name, a in samples.items() if a.size and a.dtype.kind in "iuf"}
    return {name: (_short(low), _short(high)) for name, (low, high) in ends.items() if np.isfinite([low, high]).all()}


def _short(value: np.generic) -> float:
    return float(str(value))


def _signature_entry(
    graph: DeployGraph,
    file: TfliteFile,
    golden: GraphRun,
    input_ranges: Mapping[str, tuple[float, float]],
    files: dict[str, bytes],
) -> SignatureEntry:
    """Describes a signature, and adds its golden files to `files`."""
    signature = next(entry for entry in file.signatures if entry.name == graph.signature)
    main = file.graph(signature)

    def edge(side: str, name: str, index: int, grid: Tensor, values: np.ndarray) -> TensorEntry:
        path = f"golden/{signature.name}.{side}.{name}.bin"
        files[path] = values.astype(values.dtype.newbyteorder("<")).tobytes()
        tensor = main.tensors[index]
        ends = input_ranges.get(name) if side == "input" else None
        return TensorEntry(
            name, tensor.dtype, tensor.shape, grid.scale, grid.zero_point, path, values.dtype.name, range=ends
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


def _tensor_errors(
    file: ModelFile, float_file: ModelFile, signature: SignatureEntry, inputs: Mapping[str, np.ndarray]
) -> bytes:
    """Returns tensors.json: the error of each tensor of the file against its value in the float file."""
    samples = {name: array[:_SAMPLES_FOR_TENSOR_ERRORS] for name, array in inputs.items()}
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        path, reference = Path(directory) / MODEL_FILE, Path(directory) / "float.tflite"
        path.write_bytes(file.to_bytes())
        reference.write_bytes(float_file.to_bytes())
        errors = tflite_process.tensor_errors(path, reference, signature, _in_floats(signature), samples)
    return (json.dumps(errors, indent=1) + "\n").encode()


def _in_floats(signature: SignatureEntry) -> SignatureEntry:
    """Returns the signature of the float file."""

    def edges(entries: tuple[TensorEntry, ...]) -> tuple[TensorEntry, ...]:
        return tuple(
            entry if entry.scale is None else dataclasses.replace(entry, dtype="float32", scale=None, zero_point=None)
            for entry in entries
        )

    return dataclasses.replace(signature, inputs=edges(signature.inputs), outputs=edges(signature.outputs))


def _tolerance_for(tolerance: Tolerance, signatures: Sequence[SignatureEntry]) -> Tolerance:
    """Returns the tolerance with a smallest agreement if there are outputs of integers.

    It is 3 standard errors below that of the recipe: so far a share that is measured on these few samples may be off.
    """
    has_ids = any(
        entry.scale is None and np.dtype(entry.golden_dtype).kind in "iub" for s in signatures for entry in s.outputs
    )
    if not has_ids or (share := tolerance.agreement) is None:
        return dataclasses.replace(tolerance, agreement=None)
    samples = min(signature.golden_samples for signature in signatures)
    return dataclasses.replace(tolerance, agreement=share - 3 * math.sqrt(share * (1 - share) / samples))


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
    beside = ("manifest_sha256", "tolerance", "metrics", "files")
    return {key: value for key, value in content.items() if key not in beside}


def _check_label_names(labels: Sequence[str] | None, outputs: Mapping[str, np.ndarray]) -> None:
    if labels is None:
        return
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"`labels` must be a sequence of strings. {received(labels=labels)}")
    classes = next(iter(outputs.values())).shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must hold one name a class. Received: {len(labels)} for {classes} classes.")


class _GoldenInputs(NamedTuple):
    """Golden samples, and where they come from.

    Attributes:
        arrays: The samples by input name.
        argument: The argument that holds them; None if they are random.
        places: The number of each sample in that argument.
    """

    arrays: dict[str, np.ndarray]
    argument: str | None
    places: np.ndarray


def _check_finite(model: keras.Model, outputs: Mapping[str, np.ndarray], inputs: _GoldenInputs) -> None:
    is_finite = np.all([np.isfinite(array).reshape(len(array), -1).all(1) for array in outputs.values()], axis=0)
    if is_finite.all():
        return
    subject = f"The model {model.name!r} must give finite outputs for its golden samples. Received: NaN or infinity"
    if not is_finite.any() or inputs.argument is None:
        raise ConversionError(f"{subject}. Check its weights.")
    samples = ", ".join(map(str, inputs.places[~is_finite][:5]))
    number = int((~is_finite).sum())
    reason = ""
    if _computes_masks(model):
        reason = " A sample whose steps are all masked, such as a row of padding, has no mean over its steps."
    raise ConversionError(
        f"{subject} for {number} of {len(is_finite)} of them, sample {samples}{', ...' if number > 5 else ''} of "
        f"`{inputs.argument}`; the others are finite.{reason} Drop such samples, or let the model handle them."
    )


def _computes_masks(model: keras.Model) -> bool:
    """Returns whether a layer of a model makes masks, as `Masking` and an `Embedding` with mask_zero=True do."""
    return any(
        isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False) for layer in layers_of(model)
    )


def _golden_inputs(
    graph: DeployGraph, golden: ArrayLike | None, calibration: Mapping[str, np.ndarray] | None
) -> _GoldenInputs:
    if golden is not None:
        arrays = graph.arrays("golden", golden)
        return _GoldenInputs(arrays, "golden", np.arange(_count(arrays)))
    if calibration is not None:
        count = _count(calibration)
        spaced = np.unique(np.linspace(0, count - 1, _GOLDEN_SAMPLES).round().astype(int))
        places = np.arange(min(count, _GOLDEN_SAMPLES)) if graph.states else spaced
        return _GoldenInputs({name: array[places] for name, array in calibration.items()}, "calibration", places)
    if any(not np.issubdtype(np.dtype(spec.dtype), np.floating) for spec in graph.input_specs.values()):
        raise ValueError("`golden` must be given for a model with integer inputs: their range is not known here.")
    rng = np.random.default_rng(0)
    shapes = {name: (_GOLDEN_SAMPLES, *spec.shape[1:]) for name, spec in graph.input_specs.items()}
    arrays = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    return _GoldenInputs(arrays, None, np.arange(_GOLDEN_SAMPLES))


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values())))
