"""`convert`: deploy graph -> converter -> quantizer -> audit -> golden samples -> bundle."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from keras_notes._checks import check_choice, received
from keras_notes._tensor_errors import TENSORS_FILE
from keras_notes._tflite_metadata import embed
from keras_notes.bundle import FORMAT_VERSION, MODEL_FILE, Bundle, Manifest, check_target, write_bundle
from keras_notes.conversion._audit import audit
from keras_notes.conversion._contents import described, signature_entry, tensor_errors
from keras_notes.conversion._deploy_graph import SIGNATURE, DeployGraph, deploy_graph
from keras_notes.conversion._file_maker import FileMaker
from keras_notes.conversion._recipes import EDGES, Plan, plan_of
from keras_notes.errors import ConversionError

__all__ = ["convert"]

_GOLDEN_SAMPLES = 32
_log = logging.getLogger(__name__)
_PACKAGES = ("ai-edge-litert", "ai-edge-quantizer", "keras", "keras-notes", "tensorflow")


def convert(
    model: keras.Model,
    directory: str | os.PathLike[str],
    recipe: str | Mapping[str, Any] = "static_int8",
    *,
    edges: str = "float32",
    calibration: Any = None,
    golden: Any = None,
    labels: Sequence[str] | None = None,
    preprocessing: str | None = None,
    signatures: Mapping[str, keras.Model] | None = None,
    batch_size: int | None = 1,
    overwrite: bool = False,
) -> Bundle:
    """Converts a trained model to a .tflite file and writes it as a bundle, with golden samples to prove it by.

    The file has built-in operators only. Converter and quantizer run in processes of their own, so a crash of them is
    an error here and no more; models that were trained on JAX or PyTorch are carried over to TensorFlow there. The
    bundle is written whole or not at all.

    Args:
        model: A built functional or sequential model; or a subclassed one, whose inputs are then known from the
            samples. Recurrent layers with stateful=True become inputs and outputs that carry the states.
        directory: Where the bundle shall stand.
        recipe: The number format; or a default and exceptions by layer name ("block/dense", "conv*"), the last one that
            matches counting: `{"default": "static_int8", "layers": {"head": "float32"}}`.

            - "float32";
            - "float16": weights float16, computed in float32;
            - "dynamic_int8": weights int8, computed in integers whose ranges are taken from each sample;
            - "static_int8": weights and activations int8, ranges from the calibration data;
            - "int16x8": weights int8, activations int16;
            - "weight_int4": as "dynamic_int8", with weights of 4 bits where LiteRT has the operator.
        edges: Type of the inputs and outputs: "float32" (runs everywhere); "uint8" or "int8" (for microcontrollers)
            with "static_int8", "int16" with "int16x8".
        calibration: Typical inputs of shape (samples, ...), some 100 or more, of the training set; for several inputs
            a list or a dict by name; with `signatures`, a dict of these by signature. Needed by "static_int8" and
            "int16x8". Of a model with states, the steps of one sequence.
        golden: Inputs, of the same form, whose outputs the bundle shall keep. Defaults to 32 of the calibration
            samples, evenly spaced (of a model with states the first 32); without calibration data to 32 seeded samples
            of the standard normal distribution.
        labels: One name a class, for the device to show.
        preprocessing: How raw data becomes the model's input, in words, for the device's developer.
        signatures: Further entry points by name: models that share layers with `model`, whose own is
            "serving_default". Shared weights are in the file once.
        batch_size: 1, or None for a file that takes any number of samples at once.
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
    plan = plan_of(recipe)
    _check_arguments(plan, edges, calibration, preprocessing, batch_size)
    target = check_target(directory, overwrite)
    names = _by_signature("calibration", calibration, signatures), _by_signature("golden", golden, signatures)
    graphs, ranges, inputs, outputs = [], {}, {}, {}
    for name, entry in {SIGNATURE: model, **(signatures or {})}.items():
        own_calibration, own_golden = (given.get(name) for given in names)
        _log.info("running the signature %s of the model on its golden samples", name)
        graph = deploy_graph(entry, name, own_golden if own_calibration is None else own_calibration)
        samples = None if own_calibration is None else graph.arrays("calibration", own_calibration)
        inputs[name], outputs[name] = graph.run(_golden_inputs(graph, own_golden, samples))
        _check_finite(entry, outputs[name])
        if samples is not None:
            ranges[name] = graph.run(samples)[0] if graph.states else samples
        graphs.append(graph)
    _check_labels(labels, outputs[SIGNATURE])

    converted = FileMaker(tuple(graphs), batch_size, ranges).make(plan, edges)
    _log.info("looking at the file")
    file = described(converted.tflite)
    audit(file, model.name, plan)
    files: dict[str, bytes] = {}
    entries = tuple(
        signature_entry(graph, file, inputs[graph.signature], outputs[graph.signature], files) for graph in graphs
    )
    if converted.tflite != converted.float_tflite:
        files[TENSORS_FILE] = tensor_errors(converted, entries[0], inputs[SIGNATURE])
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        manifest_sha256="",
        name=model.name,
        recipe=plan.default.name,
        exceptions={pattern: recipe.name for pattern, recipe in plan.layers.items()},
        edges=edges,
        batch_size=batch_size,
        signatures=entries,
        tolerance=plan.tolerance,
        labels=None if labels is None else tuple(labels),
        preprocessing=preprocessing,
        versions={package: version(package) for package in _PACKAGES},
        metrics={},
        files={},
    )
    files[MODEL_FILE] = embed(converted.tflite, _description(manifest), manifest.labels)
    return write_bundle(target, manifest, files, overwrite=overwrite)


def _check_arguments(plan: Plan, edges: str, calibration: Any, preprocessing: Any, batch_size: Any) -> None:
    check_choice("edges", edges, EDGES)
    if edges not in plan.default.edges:
        allowed = " or ".join(map(repr, plan.default.edges))
        raise ValueError(f"`edges` must be {allowed} for the recipe {plan.default.name!r}. {received(edges=edges)}")
    if plan.needs_calibration and calibration is None:
        raise ValueError(
            f"`calibration` must hold typical inputs for the recipe {plan.default.name!r}: they set the ranges of the "
            f"integers. Received: calibration=None. Give 100 or more samples of the training set."
        )
    if not plan.needs_calibration and calibration is not None:
        raise ValueError(
            f"`calibration` must be None for the recipe {plan.default.name!r}, which has no ranges to set. "
            f"To choose the golden samples, use `golden`."
        )
    if not isinstance(preprocessing, (str, type(None))):
        raise TypeError(f"`preprocessing` must be words. {received(preprocessing=preprocessing)}")
    if batch_size is not None and (isinstance(batch_size, bool) or batch_size != 1):
        raise ValueError(f"`batch_size` must be 1, or None for any. {received(batch_size=batch_size)}")


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
