"""`keras-notes inspect`: the content of a bundle or a .tflite file, as text or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

from keras_notes._litert import client as tflite_process
from keras_notes._litert.metadata import DESCRIPTION
from keras_notes._litert.model import TfliteFile
from keras_notes._shared.text_table import align
from keras_notes.bundle import (
    MANIFEST_FILE,
    TENSORS_FILE,
    Bundle,
    TensorEntry,
    distance_between,
    open_bundle,
    read_choice,
    read_tensor_errors,
)
from keras_notes.errors import BundleError

__all__ = ["inspect"]

# Below this ratio the noise of quantization has more than a tenth of the signal's power.
_BAD_DB = 10.0


def inspect(options: argparse.Namespace) -> None:
    """Prints the content of `options.directory`, a bundle or a .tflite file.

    Raises:
        BundleError: If it is neither.
    """
    path: Path = options.directory
    if path.is_file():
        _inspect_file(path, options.json)
        return
    bundle = open_bundle(path)
    if options.debug:
        _print_errors(bundle, options.json)
    elif options.json:
        print((bundle.directory / MANIFEST_FILE).read_text(), end="")
    else:
        _print_bundle(bundle, tflite_process.describe(bundle.model_path))


def _inspect_file(path: Path, as_json: bool) -> None:
    file = tflite_process.describe(path)
    embedded = file.metadata.get(DESCRIPTION)
    try:
        description = None if embedded is None else json.loads(embedded)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"The description in {str(path)!r} must be JSON. Received: {error}.") from error
    if as_json:
        print(json.dumps({"description": description, "operators": file.operator_counts()}))
        return
    print(f"{path.name}: {path.stat().st_size} bytes")
    if isinstance(description, dict):
        origin = ", ".join(f"{key} {description.get(key)}" for key in ("name", "recipe", "edges"))
        print(f"made by keras_notes: {origin}; labels: {description.get('labels')}")
    for signature in file.signatures:
        print(f"signature {signature.name}: {', '.join(signature.inputs)} -> {', '.join(signature.outputs)}")
    _print_file(file)


def _print_bundle(bundle: Bundle, file: TfliteFile) -> None:
    manifest = bundle.manifest
    print(f"{manifest.name}: recipe {manifest.recipe}, edges {manifest.edges}, {bundle.model_bytes} bytes")
    if manifest.exceptions:
        print("layers: " + ", ".join(f"{pattern} {recipe}" for pattern, recipe in manifest.exceptions.items()))
    for signature in manifest.signatures:
        print(f"signature {signature.name}, {signature.golden_samples} golden samples")
        for role, entries in (("input", signature.inputs), ("output", signature.outputs)):
            for entry in entries:
                print(f"  {role} {_format_tensor(entry)}")
        for state in signature.states:
            print(f"  state {state.output} -> {state.input}")
    _print_file(file)
    if manifest.preprocessing is not None:
        print(f"preprocessing: {manifest.preprocessing}")
    if manifest.labels is not None:
        print(f"labels: {', '.join(manifest.labels)}")
    for name, value in manifest.metrics.items():
        print(f"{name}: {value:g}")
    for figure in manifest.trained_figures or ():
        samples = f"{figure.samples} validation samples"
        print(f"{figure.metric} of the trained model at {figure.output!r}: {figure.value:.4f} on {samples}")
    for signature in manifest.signatures:
        golden, references = bundle.golden(signature)[1], bundle.reference(signature)
        for name, reference in references.items():
            distance = distance_between(reference, golden[name])
            print(f"{signature.name}/{name}, trained model against the float model: {distance}")
    if (choice := read_choice(bundle)) is not None:
        print(choice)
    print("made by " + ", ".join(f"{package} {number}" for package, number in manifest.versions.items()))


def _print_file(file: TfliteFile) -> None:
    print("operators: " + ", ".join(f"{count} {name}" for name, count in file.operator_counts().items()))
    float_operators = file.float_operators()
    if file.is_mixed or not float_operators:
        print(f"in floating point: {', '.join(float_operators) or 'none'}")


def _format_tensor(entry: TensorEntry) -> str:
    grid = "" if entry.scale is None else f", 1 LSB = {entry.scale:.6g}, zero point {entry.zero_point}"
    return f"{entry.name}: {entry.dtype} {list(entry.shape)}{grid}"


def _print_errors(bundle: Bundle, as_json: bool) -> None:
    errors = read_tensor_errors(bundle)
    if errors is None:
        raise BundleError(
            f"The bundle {str(bundle.directory)!r} must hold {TENSORS_FILE} to be debugged. Received: recipe "
            f"{bundle.manifest.recipe!r}; a float32 file has no error of quantization."
        )
    if as_json:
        print(json.dumps([dataclasses.asdict(error) for error in errors]))
        return
    header = ("tensor", "SQNR", "largest error", "largest value")
    rows = ((e.name, f"{e.sqnr_db:.1f} dB", f"{e.max_error:.4g}", f"{e.max_value:.4g}") for e in errors)
    print("\n".join(align([header, *rows])))
    bad = [error.name for error in errors if not math.isnan(error.sqnr_db) and error.sqnr_db < _BAD_DB]
    print(f"first tensor below {_BAD_DB:g} dB: {bad[0] if bad else 'none'}")
