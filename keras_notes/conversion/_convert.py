"""`convert`: deploy graph -> converter -> audit -> golden samples -> bundle."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_notes._checks import check_choice, received
from keras_notes._tflite_file import Signature, Tensor, TfliteFile, read_tflite
from keras_notes.bundle import (
    FORMAT_VERSION,
    MODEL_FILE,
    Bundle,
    Manifest,
    SignatureEntry,
    TensorEntry,
    check_target,
    write_bundle,
)
from keras_notes.conversion._audit import audit
from keras_notes.conversion._deploy_graph import DeployGraph, deploy_graph
from keras_notes.conversion._recipes import EDGES, Recipe, recipe_named
from keras_notes.conversion._worker_process import convert_in_worker
from keras_notes.errors import ConversionError

__all__ = ["convert"]

_GOLDEN_SAMPLES = 32
_PACKAGES = ("ai-edge-litert", "keras", "keras-notes", "tensorflow")


def convert(
    model: keras.Model,
    directory: str | os.PathLike[str],
    recipe: str = "static_int8",
    *,
    edges: str = "float32",
    calibration: Any = None,
    golden: Any = None,
    labels: Sequence[str] | None = None,
    preprocessing: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Converts a trained model to a .tflite file and writes it as a bundle, with golden samples to prove it by.

    The file has a static batch of 1 and built-in operators only. The converter runs in a process of its own, so a
    crash of it is an error here and no more. The bundle is written whole or not at all.

    Args:
        model: A built functional or sequential model, on the TensorFlow backend.
        directory: Where the bundle shall stand.
        recipe: "float32", or "static_int8": weights and activations int8, ranges from the calibration data.
        edges: Type of the inputs and outputs of an integer file: "float32" (quantized inside; runs everywhere),
            "uint8", or "int8" (for microcontrollers).
        calibration: Typical inputs of shape (samples, ...), some 100 or more, of the training set; for several inputs
            a list or a dict by name. Needed by "static_int8" and by no other recipe.
        golden: Inputs, of the same form, whose outputs the bundle shall keep. Defaults to 32 of the calibration
            samples, evenly spaced; without calibration data to 32 seeded samples of the standard normal distribution.
        labels: One name a class, for the device to show.
        preprocessing: How raw data becomes the model's input, in words, for the device's developer.
        overwrite: Whether a bundle that stands in `directory` is replaced.

    Returns:
        The `Bundle`. `keras_notes.verify(bundle)` proves it.

    Raises:
        ValueError: If an argument is out of its range, or samples have the wrong shape or are not finite.
        ConversionError: If the model cannot be converted as asked.
        BundleError: If something stands in `directory` already.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x = np.random.default_rng(0).normal(size=(100, 4))
        >>> bundle = convert(model, tempfile.mkdtemp() + "/bundle", "static_int8", calibration=x)
        >>> bundle.manifest.signatures[0].outputs[0].shape
        (1, 3)
    """
    chosen = recipe_named(recipe)
    _check_edges(chosen, edges, calibration)
    if not isinstance(preprocessing, (str, type(None))):
        raise TypeError(f"`preprocessing` must be words. {received(preprocessing=preprocessing)}")
    target = check_target(directory, overwrite)
    graph = deploy_graph(model)
    samples = None if calibration is None else graph.arrays("calibration", calibration)
    golden_inputs = _golden_inputs(graph, golden, samples)
    golden_outputs = graph.predict(golden_inputs)
    _check_labels(labels, golden_outputs)
    _check_finite(model, golden_outputs)

    tflite = convert_in_worker(graph, chosen, edges, samples)
    file = _read(tflite)
    audit(file, model.name, chosen)
    files = {MODEL_FILE: tflite}
    signatures = tuple(_signature(entry, file, golden_inputs, golden_outputs, files) for entry in file.signatures)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        manifest_sha256="",
        name=model.name,
        recipe=chosen.name,
        edges=edges,
        signatures=signatures,
        tolerance=chosen.tolerance,
        labels=None if labels is None else tuple(labels),
        preprocessing=preprocessing,
        versions={package: version(package) for package in _PACKAGES},
        metrics={},
        files={},
    )
    return write_bundle(target, manifest, files, overwrite=overwrite)


def _check_edges(recipe: Recipe, edges: str, calibration: Any) -> None:
    check_choice("edges", edges, EDGES)
    if not recipe.is_integer and edges != "float32":
        raise ValueError(f"`edges` must be 'float32' for the recipe {recipe.name!r}. {received(edges=edges)}")
    if recipe.is_integer and calibration is None:
        raise ValueError(
            f"`calibration` must hold typical inputs for the recipe {recipe.name!r}: they set the ranges of the "
            f"integers. Received: calibration=None. Give 100 or more samples of the training set."
        )
    if not recipe.is_integer and calibration is not None:
        raise ValueError(
            f"`calibration` must be None for the recipe {recipe.name!r}, which has no ranges to set. "
            f"To choose the golden samples, use `golden`."
        )


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
    if calibration is not None:
        count = len(next(iter(calibration.values())))
        chosen = np.unique(np.linspace(0, count - 1, _GOLDEN_SAMPLES).round().astype(int))
        return {name: array[chosen] for name, array in calibration.items()}
    if any(not np.issubdtype(np.dtype(spec.dtype), np.floating) for spec in graph.input_specs.values()):
        raise ValueError("`golden` must be given for a model with integer inputs: their range is not known here.")
    rng = np.random.default_rng(0)
    shapes = {name: (_GOLDEN_SAMPLES, *spec.shape[1:]) for name, spec in graph.input_specs.items()}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def _read(tflite: bytes) -> TfliteFile:
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        path = Path(directory) / MODEL_FILE
        path.write_bytes(tflite)
        return read_tflite(path)


def _signature(
    entry: Signature,
    file: TfliteFile,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    files: dict[str, bytes],
) -> SignatureEntry:
    """Describes one signature, and adds its golden files to `files`."""

    def described(kind: str, name: str, index: int, grid: Tensor, values: np.ndarray) -> TensorEntry:
        path = f"golden/{entry.name}.{kind}.{name}.bin"
        files[path] = values.astype(values.dtype.newbyteorder("<")).tobytes()
        tensor = file.tensors[index]
        return TensorEntry(name, tensor.dtype, tensor.shape, grid.scale, grid.zero_point, path, values.dtype.name)

    return SignatureEntry(
        name=entry.name,
        inputs=tuple(
            described("input", name, index, file.input_grid(index), inputs[name])
            for name, index in sorted(entry.inputs.items())
        ),
        outputs=tuple(
            described("output", name, index, file.output_grid(index), outputs[name])
            for name, index in sorted(entry.outputs.items())
        ),
        golden_samples=len(next(iter(inputs.values()))),
    )
