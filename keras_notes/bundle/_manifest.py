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

from keras_notes._shared.checks import one_line, received
from keras_notes._shared.types import Config
from keras_notes.errors import BundleError

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "FileEntry",
    "Manifest",
    "SignatureEntry",
    "StateEntry",
    "TensorEntry",
    "Tolerance",
    "listed_files",
    "read_manifest",
    "to_json",
]

FORMAT_VERSION = 2
MODEL_FILE = "model.tflite"
MANIFEST_FILE = "model.json"
# What stands in the place of the manifest's own hash while it is computed.
_NO_HASH = "0" * 64
# Far more than any manifest needs; what is read is held in memory several times over.
_MOST_BYTES = 16 * 2**20
_MOST_DIGITS = 20


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
class StateEntry:
    """What a model remembers from one step to the next: the output to feed to the input at the next step."""

    input: str
    output: str


@dataclass(frozen=True)
class SignatureEntry:
    """A named entry point of the model.

    Attributes:
        golden_samples: How many golden samples it has; with states they are the steps of one sequence.
        states: What is carried from step to step.
    """

    name: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    golden_samples: int
    states: tuple[StateEntry, ...] = ()

    @classmethod
    def from_dict(cls, data: Config) -> SignatureEntry:
        """Returns the signature that a dictionary describes as model.json does."""

        def tensors(entries: list[Config]) -> tuple[TensorEntry, ...]:
            return tuple(TensorEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries)

        states = tuple(StateEntry(**state) for state in data["states"])
        return cls(**{**data, "inputs": tensors(data["inputs"]), "outputs": tensors(data["outputs"]), "states": states})


@dataclass(frozen=True)
class Tolerance:
    """The largest error against the golden outputs. None where a measure does not apply.

    An output with an integer grid is measured in steps of it, if there are limits in steps; every other one relative to
    the largest absolute golden output.

    Attributes:
        max_error: Largest absolute error, relative to the largest absolute golden output.
        rms_error: Root mean square of the error, likewise.
        max_error_lsb: Largest absolute error in steps of the output's integer grid.
        rms_error_lsb: Largest root mean square of the error, in those steps.
        mean_error_lsb: Largest absolute value of the mean signed error, in those steps.
    """

    max_error: float | None
    rms_error: float | None
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
    exceptions: dict[str, str]
    edges: str
    batch_size: int | None
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
    _check_schema(_parsed(unsigned, "The manifest"), "The manifest")
    return unsigned.replace(_NO_HASH, hashlib.sha256(unsigned.encode()).hexdigest(), 1)


def read_manifest(path: Path) -> Manifest:
    """Reads model.json.

    Raises:
        BundleError: If it is no JSON, of another format version, or does not follow the schema.
    """
    what = repr(str(path))
    if path.stat().st_size > _MOST_BYTES:
        raise BundleError(f"{what} must have at most {_MOST_BYTES} bytes. {received(bytes=path.stat().st_size)}")
    content = path.read_bytes()
    data = _parsed(content, what)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{what} must have format_version {FORMAT_VERSION}. {one_line(received(format_version=version))} "
            f"Convert the model again with this version of keras_notes."
        )
    _check_schema(data, what)
    stated = data["manifest_sha256"]
    found = hashlib.sha256(content.replace(stated.encode(), _NO_HASH.encode(), 1)).hexdigest()
    if found != stated:
        raise BundleError(
            f"{what} is damaged: it must have the SHA-256 {stated}. Received: {found}. Copy the bundle again."
        )
    manifest = _manifest(data)
    _check_golden_sizes(path, manifest)
    _check_states(path, manifest)
    return manifest


def _parsed(content: str | bytes, what: str) -> Any:
    """The JSON, as every reader of a bundle can read it: with finite numbers only, and integers of 64 bits."""
    try:
        return json.loads(content, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:
        raise BundleError(one_line(f"{what} must be JSON. Received: {error}.")) from error
    except RecursionError as error:
        raise BundleError(f"{what} must be JSON of a few levels. Received: deeper ones.") from error


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"an integer beyond 64 bits ({one_line(text, 30)})")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite ({one_line(text, 30)})")
    return value


def listed_files(path: Path) -> set[str]:
    """The files that a model.json of any format version lists.

    Raises:
        BundleError: If it lists none.
    """
    data = _parsed(path.read_bytes(), repr(str(path)))
    if not isinstance(data, dict) or "format_version" not in data or not isinstance(data.get("files"), dict):
        raise BundleError(
            f"Only a bundle may be overwritten, and {str(path)!r} does not list the files of one. "
            f"Choose another directory."
        )
    return set(data["files"])


def _check_schema(data: dict[str, Any], what: str) -> None:
    if violation := jsonschema.exceptions.best_match(_schema().iter_errors(data)):
        message, place = one_line(violation.message), one_line(violation.json_path, 100)
        raise BundleError(f"{what} does not follow the bundle schema: {message}, at {place}.")


@functools.cache
def _schema() -> jsonschema.protocols.Validator:
    definition = json.loads(Path(__file__).with_name("bundle.schema.json").read_text(encoding="utf-8"))
    # 16.0 is an integer to a schema, but to no reader whose language has types.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)(definition)


def _manifest(data: dict[str, Any]) -> Manifest:
    return Manifest(
        **{
            **data,
            "signatures": tuple(SignatureEntry.from_dict(entry) for entry in data["signatures"]),
            "tolerance": Tolerance(**data["tolerance"]),
            "labels": None if data["labels"] is None else tuple(data["labels"]),
            "files": {name: FileEntry(**entry) for name, entry in data["files"].items()},
        }
    )


def _check_golden_sizes(path: Path, manifest: Manifest) -> None:
    """What a schema cannot say: each golden file is listed, and as long as its samples are."""
    for signature in manifest.signatures:
        for entry in (*signature.inputs, *signature.outputs):
            wanted = signature.golden_samples * math.prod(entry.shape[1:]) * np.dtype(entry.golden_dtype).itemsize
            listed = manifest.files.get(entry.golden)
            if listed is None or listed.bytes != wanted:
                raise BundleError(
                    f"{str(path)!r} must list {one_line(entry.golden)} with {wanted} bytes, "
                    f"for {signature.golden_samples} samples. {received(bytes=listed and listed.bytes)}"
                )


def _check_states(path: Path, manifest: Manifest) -> None:
    """What a schema cannot say either: states join an input and an output that are there, of one shape."""
    for signature in manifest.signatures:
        inputs, outputs = ({e.name: e.shape for e in entries} for entries in (signature.inputs, signature.outputs))
        for state in signature.states:
            if inputs.get(state.input, "no such input") != outputs.get(state.output, "no such output"):
                found = f"{state.input!r}, {inputs.get(state.input)}, and {state.output!r}, {outputs.get(state.output)}"
                raise BundleError(
                    f"{str(path)!r} must have states that join an input and an output of one shape. "
                    f"Received: {one_line(found)}."
                )
