"""The manifest of a bundle, model.json: its classes, and JSON that follows `bundle.schema.json` to the letter.

The schema is the one definition (`tflite/bundle.schema.json`; the file of that name beside this one is a link to it, so
that it is installed with the package). Reading validates against it; the classes below only name what it describes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
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
# What stands in the place of the manifest's own hash while it is computed.
_NO_HASH = "0" * 64


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
        max_error: Largest absolute error, relative to the largest absolute golden output.
        max_error_lsb: Largest absolute error in steps of the output's integer grid.
        rms_error_lsb: Largest root mean square of the error, in those steps.
        mean_error_lsb: Largest absolute value of the mean signed error, in those steps.
    """

    max_error: float | None
    max_error_lsb: float | None
    rms_error_lsb: float | None
    mean_error_lsb: float | None


@dataclass(frozen=True)
class Manifest:
    """The content of model.json. See `tflite/bundle.schema.json`. `to_json` fills in `manifest_sha256`."""

    format_version: int
    manifest_sha256: str
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
    """The content of model.json, with its hash.

    Raises:
        BundleError: If it does not follow the schema.
    """
    unsigned = json.dumps({**dataclasses.asdict(manifest), "manifest_sha256": _NO_HASH}, indent=2) + "\n"
    _check_schema(json.loads(unsigned), "The manifest")
    return unsigned.replace(_NO_HASH, hashlib.sha256(unsigned.encode()).hexdigest(), 1)


def read_manifest(path: Path) -> Manifest:
    """Reads model.json.

    Raises:
        BundleError: If it is no JSON, of another format version, or does not follow the schema.
    """
    content = path.read_bytes()
    try:
        data = json.loads(content)
    except ValueError as error:
        raise BundleError(f"{str(path)!r} must be JSON. Received: {error}.") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{str(path)!r} must have format_version {FORMAT_VERSION}. {received(format_version=version)} "
            f"Convert the model again with this version of keras_notes."
        )
    _check_schema(data, repr(str(path)))
    stated = data["manifest_sha256"]
    found = hashlib.sha256(content.replace(stated.encode(), _NO_HASH.encode(), 1)).hexdigest()
    if found != stated:
        raise BundleError(
            f"{str(path)!r} is damaged: it must have the SHA-256 {stated}. Received: {found}. Copy the bundle again."
        )
    manifest = _manifest(data)
    _check_golden_sizes(path, manifest)
    return manifest


def _check_schema(data: dict[str, Any], what: str) -> None:
    if violation := jsonschema.exceptions.best_match(_schema().iter_errors(data)):
        raise BundleError(f"{what} does not follow the bundle schema: {violation.message}, at {violation.json_path}.")


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
