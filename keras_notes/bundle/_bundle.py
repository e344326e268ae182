"""The bundle: the border between training and device.

    DIRECTORY/
      model.tflite     the converted model
      model.json       the manifest: what the file holds, how to feed it, hashes of every file
      golden/*.bin     inputs, and the trained model's outputs for them: raw, little-endian, row-major
      tensors.json     of a file that is not float32: the error of each tensor (`_tensor_errors`)
      candidates.json  of the recipe "auto": what was tried (`_candidates`)
      tokenizer.json   of a model of text: how a device reads and writes it, in the format of Hugging Face's tokenizers

`tflite/bundle.schema.json` defines the manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_notes._shared.checks import one_line, received
from keras_notes.bundle._manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    MODEL_FILE,
    FileEntry,
    Manifest,
    SignatureEntry,
    StateEntry,
    TensorEntry,
    Tolerance,
    listed_files,
    read_manifest,
    to_json,
)
from keras_notes.errors import BundleError

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "Bundle",
    "FileEntry",
    "Manifest",
    "SignatureEntry",
    "StateEntry",
    "TensorEntry",
    "Tolerance",
    "check_target",
    "open_bundle",
    "write_bundle",
]


# Where a new manifest is written before it takes the place of the old one; a kill in between leaves it behind.
_NEW_MANIFEST_FILE = f"{MANIFEST_FILE}.new"
_BLOCK_BYTES = 2**20


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
        content = to_json(manifest)
        beside = self.directory / _NEW_MANIFEST_FILE
        beside.unlink(missing_ok=True)
        # "x": a bundle from elsewhere may hold a link of that name, and its target is not ours to write.
        with beside.open("x") as file:
            file.write(content)
        os.replace(beside, self.directory / MANIFEST_FILE)
        return open_bundle(self.directory)


def open_bundle(directory: str | os.PathLike[str]) -> Bundle:
    """Opens a bundle and checks every file's size and hash.

    Raises:
        BundleError: If the directory is no bundle, the manifest is malformed, or a file is missing or was changed.
    """
    path = Path(directory)
    manifest_path = path / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BundleError(f"A bundle must hold {MANIFEST_FILE}. {received(directory=str(path))}")
    manifest = read_manifest(manifest_path)
    for name, entry in manifest.files.items():
        _check_file(path, name, entry)
    return Bundle(path, manifest)


def check_target(directory: str | os.PathLike[str], overwrite: bool) -> Path:
    """Returns the path to write a bundle to, which must be free, or hold a bundle that may be replaced.

    Raises:
        BundleError: If something is in the way.
    """
    path = Path(directory).resolve()
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
    listed = {MANIFEST_FILE, _NEW_MANIFEST_FILE, *listed_files(path / MANIFEST_FILE)}
    others = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()} - listed
    if others:
        raise BundleError(
            f"Only a bundle may be overwritten, and {str(path)!r} holds other files: {', '.join(sorted(others)[:5])}. "
            f"Move them, or choose another directory."
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
    content = to_json(manifest)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, data in files.items():
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_bytes(data)
        (beside / MANIFEST_FILE).write_text(content)
        beside.chmod(0o755)
        _move_into_place(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return open_bundle(target)


def _move_into_place(beside: Path, target: Path) -> None:
    if not target.exists():
        beside.rename(target)
        return
    old = beside.with_name(f"{beside.name}.old")
    target.rename(old)
    try:
        beside.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _check_file(directory: Path, name: str, entry: FileEntry) -> None:
    path, shown = directory / name, one_line(name)
    # Not `Path.is_file`, which raises for a name that is too long.
    if not os.path.isfile(path):
        raise BundleError(f"The bundle {str(directory)!r} is incomplete: {shown} is missing. Copy it again.")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"The bundle {str(directory)!r} is damaged: {shown} must have {entry.bytes} bytes. "
            f"Received: {size} bytes. Copy it again."
        )
    digest = _sha256(path)
    if digest != entry.sha256:
        raise BundleError(
            f"The bundle {str(directory)!r} is damaged: {shown} must have the SHA-256 {entry.sha256}. "
            f"Received: {digest}. Copy it again."
        )


def _sha256(path: Path) -> str:
    """Of a file that may be larger than the memory: a few bytes on the disk can stand for any number of zeros."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
