"""The bundle: the border between training and device.

    DIRECTORY/
      model.tflite     the converted model
      model.json       the manifest: what the file holds, how to feed it, hashes of every file
      golden/*.bin     inputs, and the trained model's outputs for them: raw, little-endian, row-major

`tflite/bundle.schema.json` defines the manifest; the classes below read and write exactly that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_notes._checks import received
from keras_notes.errors import BundleError

__all__ = [
    "Bundle",
    "FileEntry",
    "Manifest",
    "SignatureEntry",
    "TensorEntry",
    "Tolerance",
    "check_target",
    "open_bundle",
    "write_bundle",
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
        golden: The file with its golden values, always in the units of the trained model: float32, or int32 for ids.
        golden_dtype: The type of the values in that file.
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


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, whose hashes held when it was opened."""

    directory: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        return self.directory / MODEL_FILE

    @property
    def model_bytes(self) -> int:
        """Size of the .tflite file."""
        return self.manifest.files[MODEL_FILE].bytes

    def golden(self, signature: SignatureEntry) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The golden inputs and outputs by name, each of shape (samples, ...)."""

        def read(entry: TensorEntry) -> np.ndarray:
            dtype = np.dtype(entry.golden_dtype).newbyteorder("<")
            values = np.fromfile(self.directory / entry.golden, dtype=dtype)
            return values.reshape(signature.golden_samples, *entry.shape[1:]).astype(entry.golden_dtype)

        return {e.name: read(e) for e in signature.inputs}, {e.name: read(e) for e in signature.outputs}

    def with_metrics(self, metrics: Mapping[str, float]) -> Bundle:
        """Records figures that were measured on the .tflite file itself in the manifest, and returns the new bundle."""
        merged = {**self.manifest.metrics, **{name: float(value) for name, value in metrics.items()}}
        manifest = dataclasses.replace(self.manifest, metrics=merged)
        beside = self.directory / (MANIFEST_FILE + ".new")
        beside.write_text(_to_json(manifest))
        os.replace(beside, self.directory / MANIFEST_FILE)
        return Bundle(self.directory, manifest)


def open_bundle(directory: str | os.PathLike[str]) -> Bundle:
    """Opens a bundle and checks every file's size and hash.

    Raises:
        BundleError: If the directory is no bundle, the manifest is malformed, or a file is missing or was changed.
    """
    path = Path(directory)
    manifest_path = path / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BundleError(f"A bundle must hold {MANIFEST_FILE}. {received(directory=str(path))}")
    manifest = _from_json(manifest_path)
    for name, entry in manifest.files.items():
        _check_file(path, name, entry)
    return Bundle(path, manifest)


def check_target(directory: str | os.PathLike[str], overwrite: bool) -> Path:
    """Returns the path to write a bundle to, which must be free, or hold a bundle that may be replaced.

    Raises:
        BundleError: If something is in the way.
    """
    path = Path(directory)
    if not path.exists():
        return path
    if not overwrite:
        raise BundleError(
            f"The directory for a new bundle must not exist yet. {received(directory=str(path))} "
            f"Choose another one, or pass overwrite=True to replace the bundle in it."
        )
    if not (path / MANIFEST_FILE).is_file():
        raise BundleError(
            f"Only a bundle may be overwritten, and {str(path)!r} holds no {MANIFEST_FILE}. Choose another directory."
        )
    return path


def write_bundle(
    directory: str | os.PathLike[str],
    manifest: Manifest,
    files: Mapping[str, bytes],
    *,
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle whole or not at all: beside the target first, then moved into place.

    Args:
        directory: Where it shall stand. Parents are made.
        manifest: The manifest; its `files` are filled in here.
        files: The content by relative name, `model.tflite` and the golden files.
        overwrite: Whether a bundle that stands there already is replaced.

    Raises:
        BundleError: If something is in the way.
    """
    target = check_target(directory, overwrite)
    entries = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    manifest = dataclasses.replace(manifest, files=entries)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, data in files.items():
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_bytes(data)
        (beside / MANIFEST_FILE).write_text(_to_json(manifest))
        beside.chmod(0o755)
        _move_into_place(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Bundle(target, manifest)


def _move_into_place(beside: Path, target: Path) -> None:
    if not target.exists():
        beside.rename(target)
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.old.", dir=target.parent) as old:
        target.rename(Path(old) / "bundle")
        beside.rename(target)


def _check_file(directory: Path, name: str, entry: FileEntry) -> None:
    path = directory / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(f"A bundle's files must lie inside it. {received(file=name)}")
    if not path.is_file():
        raise BundleError(f"The bundle {str(directory)!r} is incomplete: {name} is missing. Copy it again.")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"The bundle {str(directory)!r} is damaged: {name} must have {entry.bytes} bytes. "
            f"Received: {size} bytes. Copy it again."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != entry.sha256:
        raise BundleError(
            f"The bundle {str(directory)!r} is damaged: {name} must have the SHA-256 {entry.sha256}. "
            f"Received: {digest}. Copy it again."
        )


def _to_json(manifest: Manifest) -> str:
    return json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"


def _from_json(path: Path) -> Manifest:
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
    try:
        return _manifest(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{str(path)!r} does not follow the bundle schema: {error!r}.") from error


def _manifest(data: dict[str, Any]) -> Manifest:
    manifest = Manifest(**data)
    labels = manifest.labels
    if not manifest.signatures:
        raise ValueError("`signatures` must not be empty")
    for name in (MODEL_FILE, *(t["golden"] for s in data["signatures"] for t in (*s["inputs"], *s["outputs"]))):
        if name not in manifest.files:
            raise ValueError(f"`files` must list {name}")
    return dataclasses.replace(
        manifest,
        signatures=tuple(_signature(entry) for entry in data["signatures"]),
        tolerance=Tolerance(**data["tolerance"]),
        labels=None if labels is None else tuple(labels),
        files={name: FileEntry(**entry) for name, entry in data["files"].items()},
    )


def _signature(data: dict[str, Any]) -> SignatureEntry:
    def tensors(entries: list[dict[str, Any]]) -> tuple[TensorEntry, ...]:
        return tuple(TensorEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries)

    return SignatureEntry(**{**data, "inputs": tensors(data["inputs"]), "outputs": tensors(data["outputs"])})
