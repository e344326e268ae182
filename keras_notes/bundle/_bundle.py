"""The bundle: the border between training and device.

    DIRECTORY/
      model.tflite     the converted model
      model.json       the manifest: content of the file, how to feed it, hashes of every file
      golden/*.bin     inputs, and the trained model's outputs for them: raw, little-endian, row-major; also the scores
                       of validation samples, and the outputs of the float model of a quantization-aware one
      tensors.json     the error of each inner tensor (`_tensor_errors`); not for float32 files
      candidates.json  the candidates of the recipe "auto" (`_candidates`)
      tokenizer.json   the tokenizer of a model of text, in the format of Hugging Face's tokenizers

`tflite/bundle.schema.json`, `tflite/tensors.schema.json` and `tflite/candidates.schema.json` define the JSON files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_notes._shared.atomic_files import hidden_beside, move_directory, write_atomically, write_synced
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
    TrainedFigure,
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
    "as_bundle",
    "check_target",
    "open_bundle",
    "write_bundle",
]

# A new manifest is written to this file before it replaces the old one; a kill in between leaves it behind.
_NEW_MANIFEST_FILE = f"{MANIFEST_FILE}.new"
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose hashes were right when it was opened: see `open_bundle`.

    Attributes:
        directory: Folder of the bundle.
        manifest: Content of its model.json.

    Example:
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> inputs, outputs = bundle.golden(bundle.manifest.signatures[0])
        >>> inputs["image"].shape, outputs["output"].shape
        ((16, 8, 8, 1), (16, 4))
    """

    directory: Path
    manifest: Manifest

    def __repr__(self) -> str:
        # Without the manifest, whose hashes and entries fill a screen.
        name, recipe = self.manifest.name, self.manifest.recipe
        return f"Bundle({str(self.directory)!r}, name={name!r}, recipe={recipe!r}, model_bytes={self.model_bytes})"

    @property
    def model_path(self) -> Path:
        """Path of the .tflite file."""
        return self.directory / MODEL_FILE

    @property
    def model_bytes(self) -> int:
        """Size of the .tflite file in bytes."""
        return self.manifest.files[MODEL_FILE].bytes

    def golden(self, signature: SignatureEntry) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Returns the golden inputs and outputs by name, each of shape (samples, ...).

        Args:
            signature: A signature of the manifest.

        Example:
            >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
            >>> (signature,) = bundle.manifest.signatures
            >>> inputs, outputs = bundle.golden(signature)
            >>> [bundle.manifest.labels[index] for index in outputs["output"].argmax(-1)[:3]]
            ['diagonal', 'column', 'row']
        """
        inputs, outputs = (
            {entry.name: self._read(signature, entry, entry.golden) for entry in entries}
            for entries in (signature.inputs, signature.outputs)
        )
        return inputs, outputs

    def reference(self, signature: SignatureEntry) -> dict[str, np.ndarray]:
        """Returns the outputs of the float model that a quantization-aware model came from, for the golden inputs.

        Args:
            signature: A signature of the manifest.

        Returns:
            The values by output name, each of shape (samples, ...); {} for a bundle without them.

        Example:
            >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
            >>> bundle.reference(bundle.manifest.signatures[0])
            {}
        """
        return {
            entry.name: self._read(signature, entry, entry.reference)
            for entry in signature.outputs
            if entry.reference is not None
        }

    def scores(self, figure: TrainedFigure) -> np.ndarray | None:
        """Returns the trained model's score for each sample of a figure; None if the bundle does not hold them.

        Args:
            figure: A figure of the manifest.

        Example:
            >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
            >>> [bundle.scores(figure) for figure in bundle.manifest.trained_figures or ()]
            []
        """
        return None if figure.scores is None else np.fromfile(self.directory / figure.scores, dtype="<f4")

    def _read(self, signature: SignatureEntry, entry: TensorEntry, path: str) -> np.ndarray:
        values = np.fromfile(self.directory / path, dtype=np.dtype(entry.golden_dtype).newbyteorder("<"))
        return values.reshape(signature.golden_samples, *entry.shape[1:]).astype(entry.golden_dtype)

    def with_metrics(self, metrics: Mapping[str, float]) -> Bundle:
        """Records figures in the manifest, and returns the new bundle.

        Args:
            metrics: Figures by name that were measured on the .tflite file itself; they replace those of the same name.

        Raises:
            BundleError: If a name or a figure does not follow the schema.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     copy = shutil.copytree("tflite/testdata/bars_static_int8", f"{folder}/copy")
            ...     bundle = open_bundle(copy).with_metrics({"accuracy_on_phone": 0.992})
            ...     open_bundle(copy).manifest.metrics["accuracy_on_phone"]
            0.992
        """
        merged = {**self.manifest.metrics, **{name: float(value) for name, value in metrics.items()}}
        manifest = dataclasses.replace(self.manifest, metrics=merged)
        content = to_json(manifest).encode()
        with write_atomically(self.directory / MANIFEST_FILE, self.directory / _NEW_MANIFEST_FILE) as file:
            file.write(content)
        return open_bundle(self.directory)


def open_bundle(directory: str | os.PathLike[str]) -> Bundle:
    """Opens a bundle and checks every file's size and hash.

    Args:
        directory: Folder of the bundle.

    Returns:
        The bundle.

    Raises:
        BundleError: If the folder does not hold a bundle, the manifest is malformed, or a file is missing or changed.

    Example:
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> bundle.manifest.recipe, [entry.name for entry in bundle.manifest.signatures[0].inputs]
        ('static_int8', ['image'])
    """
    path = Path(directory)
    manifest_path = path / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BundleError(f"A bundle must hold {MANIFEST_FILE}. {received(directory=str(path))}")
    manifest = read_manifest(manifest_path)
    for name, entry in manifest.files.items():
        _check_file(path, name, entry)
    return Bundle(path, manifest)


def as_bundle(bundle_or_directory: Bundle | str | os.PathLike[str]) -> Bundle:
    """Opens a bundle that is given as an object or by its folder; its files are read and hashed again in either case.

    Args:
        bundle_or_directory: A bundle, or its folder.

    Returns:
        The bundle as it is on disk now.

    Raises:
        BundleError: If the bundle is missing, malformed or damaged.

    Example:
        >>> bundle = as_bundle("tflite/testdata/bars_static_int8")
        >>> as_bundle(bundle) == bundle
        True
    """
    return open_bundle(
        bundle_or_directory.directory if isinstance(bundle_or_directory, Bundle) else bundle_or_directory
    )


def check_target(directory: str | os.PathLike[str], overwrite: bool) -> Path:
    """Checks that a bundle can be written to a folder.

    Args:
        directory: Folder for the bundle.
        overwrite: Whether a bundle in that folder may be replaced.

    Returns:
        The absolute path of the folder.

    Raises:
        BundleError: If something other than a bundle that may be replaced is there.

    Example:
        >>> check_target("tflite/testdata/bars_static_int8", overwrite=True).name
        'bars_static_int8'
        >>> check_target("tflite/testdata/bars_static_int8", overwrite=False)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        keras_notes.errors.BundleError: The directory for a new bundle must not exist yet. ...
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
    """Writes a bundle completely or not at all: into a hidden folder, which is then moved into place.

    Args:
        directory: Folder for the bundle; its parents are created.
        manifest: Manifest of the bundle; its `files` are filled in.
        files: Content by path in the bundle: `model.tflite`, the golden files, and further ones that a bundle may hold.
        overwrite: Whether a bundle that is there already is replaced.

    Returns:
        The bundle.

    Raises:
        BundleError: If something is in the way, or the manifest does not follow the schema.

    Example:
        >>> import tempfile
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> files = {name: (bundle.directory / name).read_bytes() for name in bundle.manifest.files}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bundle(f"{folder}/copy", bundle.manifest, files).manifest == bundle.manifest
        True
    """
    target = check_target(directory, overwrite)
    entries = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    manifest = dataclasses.replace(manifest, files=entries)
    content = to_json(manifest).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden_beside(target)
    temporary.mkdir(mode=0o700)
    try:
        for name, data in {**files, MANIFEST_FILE: content}.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            write_synced(temporary / name, data)
        temporary.chmod(0o755)
        move_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_bundle(target)


def _check_file(directory: Path, name: str, entry: FileEntry) -> None:
    path, label = directory / name, one_line(name)
    # Not `Path.is_file`, which raises for a name that is too long.
    if not os.path.isfile(path):
        raise BundleError(f"The bundle {str(directory)!r} is incomplete: {label} is missing. Copy it again.")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"The bundle {str(directory)!r} is damaged: {label} must have {entry.bytes} bytes. "
            f"Received: {size} bytes. Copy it again."
        )
    digest = _sha256(path)
    if digest != entry.sha256:
        raise BundleError(
            f"The bundle {str(directory)!r} is damaged: {label} must have the SHA-256 {entry.sha256}. "
            f"Received: {digest}. Copy it again."
        )


def _sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, read in blocks: a sparse file may be larger than the memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
