"""The manifest of a bundle, model.json: its classes, and JSON that follows `bundle.schema.json` to the letter.

The schema is the one definition (`tflite/bundle.schema.json`; the file of that name beside this one is a link to it, so
that it is installed with the package). Reading validates against it; the classes below only name what it describes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from keras_notes._checks import received
from keras_notes.errors import BundleError

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "FileEntry",
    "Manifest",
    "SignatureEntry",
    "TensorEntry",
    "Tolerance",
    "read_manifest",
    "to_json",
]

FORMAT_VERSION = 1
MODEL_FILE = "model.tflite"
MANIFEST_FILE = "model.json"


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its size and SHA-256, as hexadecimal digits."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorEntry:
    """An input or output of a signature.

    Attributes:
        name: Its name in the signature.
        dtype: Its type at the edge of the file, as NumPy names it.
        shape: Its shape, the batch of 1 included.
        scale: Size of one step (LSB) of its integer grid; also given where the edge itself is float32. None for float.
        zero_point: The integer that stands for 0.0; None for float.
        golden: The file with its golden values, always in the units of the trained model.
        golden_dtype: The type of the values in that file: float32, or an integer type for ids.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    golden: str
    golden_dtype: str


@dataclass(frozen=True)
class SignatureEntry:
    """A named entry point of the model, and how many golden samples it has."""

    name: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    golden_samples: int


@dataclass(frozen=True)
class Tolerance:
    """The largest error against the golden outputs. None where a measure does not apply.

    Attributes:
        max_error: Largest absolute error, relative to max(1, largest absolute golden output).
        max_error_lsb: Largest absolute error in steps of the output's integer grid.
        mean_error_lsb: Largest absolute value of the mean signed error, in those steps.
    """

    max_error: float | None
    max_error_lsb: float | None
    mean_error_lsb: float | None


@dataclass(frozen=True)
class Manifest:
    """The content of model.json. See `tflite/bundle.schema.json`."""

    format_version: int
    name: str
    recipe: str
    edges: str
    signatures: tuple[SignatureEntry, ...]
    tolerance: Tolerance
    labels: tuple[str, ...] | None
    preprocessing: str | None
    versions: dict[str, str]
    metrics: dict[str, float]
    files: dict[str, FileEntry]


def to_json(manifest: Manifest) -> str:
    """The content of model.json."""
    return json.dumps(dataclasses.asdict(manifest), indent=2, allow_nan=False) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Reads model.json.

    Raises:
        BundleError: If it is no JSON, of another format version, or does not follow the schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{str(path)!r} must be JSON. Received: {error}.") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{str(path)!r} must have format_version {FORMAT_VERSION}. {received(format_version=version)} "
            f"Convert the model again with this version of keras_notes."
        )
    if violation := jsonschema.exceptions.best_match(_schema().iter_errors(data)):
        raise BundleError(
            f"{str(path)!r} does not follow the bundle schema: {violation.message}, at {violation.json_path}."
        )
    manifest = _manifest(data)
    _check_golden_sizes(path, manifest)
    return manifest


@functools.cache
def _schema() -> jsonschema.protocols.Validator:
    definition = json.loads(Path(__file__).with_name("bundle.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(definition)


def _manifest(data: dict[str, Any]) -> Manifest:
    return Manifest(
        **{
            **data,
            "signatures": tuple(_signature(entry) for entry in data["signatures"]),
            "tolerance": Tolerance(**data["tolerance"]),
            "labels": None if data["labels"] is None else tuple(data["labels"]),
            "files": {name: FileEntry(**entry) for name, entry in data["files"].items()},
        }
    )


def _signature(data: dict[str, Any]) -> SignatureEntry:
    def tensors(entries: list[dict[str, Any]]) -> tuple[TensorEntry, ...]:
        return tuple(TensorEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries)

    return SignatureEntry(**{**data, "inputs": tensors(data["inputs"]), "outputs": tensors(data["outputs"])})


def _check_golden_sizes(path: Path, manifest: Manifest) -> None:
    """What a schema cannot say: each golden file is listed, and as long as its samples are."""
    for signature in manifest.signatures:
        for entry in (*signature.inputs, *signature.outputs):
            wanted = signature.golden_samples * math.prod(entry.shape[1:]) * np.dtype(entry.golden_dtype).itemsize
            listed = manifest.files.get(entry.golden)
            if listed is None or listed.bytes != wanted:
                raise BundleError(
                    f"{str(path)!r} must list {entry.golden} with {wanted} bytes, for {signature.golden_samples} "
                    f"samples. {received(bytes=listed and listed.bytes)}"
                )
