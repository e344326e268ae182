"""The manifest of a bundle, model.json.

`tflite/bundle.schema.json` defines the format. Reading and writing validate against it; the classes below only give its
objects names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_notes._shared.checks import one_line, received
from keras_notes._shared.types import Config, Json
from keras_notes.bundle._schema import find_violation, parse_json
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
    "TrainedFigure",
    "listed_files",
    "read_manifest",
    "to_json",
]

FORMAT_VERSION = 2
MODEL_FILE = "model.tflite"
MANIFEST_FILE = "model.json"
# Stands for the manifest's own hash while the hash is computed.
_NO_HASH = "0" * 64
_BYTES_OF_A_SCORE = 4
# Far more than any manifest needs: parsing takes several times that memory.
_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle.

    Attributes:
        bytes: Size of the file.
        sha256: SHA-256 of its content, as hexadecimal digits.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> entry = bundle.manifest.files["model.tflite"]
        >>> entry.bytes, entry.sha256[:12]
        (3999, '446f86007ef7')
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorEntry:
    """An input or output of a signature.

    Attributes:
        name: Name of the tensor in the signature.
        dtype: Type at the edge of the file, as NumPy names it.
        shape: Sizes of all dimensions, the batch of 1 included.
        scale: Size of one step (LSB) of the integer grid, also where the edge itself is float32; None without a grid.
        zero_point: The integer that stands for 0.0; None without a grid.
        golden: Path of the file with the golden values, which are in the units of the trained model.
        golden_dtype: Type of the golden values: float32, or an integer type for ids.
        magnitude: Value of an output that relative limits are relative to; None for its largest absolute golden value.
        reference: Path of the file with the outputs of the float model that a quantization-aware model came from, for
            the golden inputs, laid out like the golden values; None without such a model.
        range: Minimum and maximum of an input in the samples that were given to `convert`, in the units of the trained
            model; None without samples.
        tolerance: Largest errors of an output that has limits of its own; None for those of the bundle.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> (entry,) = bundle.manifest.signatures[0].inputs
        >>> entry.name, entry.dtype, entry.shape, entry.zero_point
        ('image', 'float32', (1, 8, 8, 1), -36)

        The integer grid of the file is known even though the file takes float32:

        >>> round((0.5 / entry.scale) + entry.zero_point)  # the integer that 0.5 becomes
        6
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    golden: str
    golden_dtype: str
    magnitude: float | None = None
    reference: str | None = None
    range: tuple[float, float] | None = None
    tolerance: Tolerance | None = None

    @classmethod
    def from_dict(cls, data: Config) -> TensorEntry:
        """Returns the tensor that a dictionary describes as model.json does.

        Args:
            data: Entry of `inputs` or `outputs` of a signature in model.json.

        Example:
            >>> content = json.loads(Path("tflite/testdata/bars_static_int8/model.json").read_text())
            >>> TensorEntry.from_dict(content["signatures"][0]["inputs"][0]).shape
            (1, 8, 8, 1)
        """
        tuples: Config = {name: tuple(data[name]) for name in ("shape", "range") if data.get(name) is not None}
        own: Config = {"tolerance": Tolerance(**data["tolerance"])} if data.get("tolerance") is not None else {}
        return cls(**{**data, **tuples, **own})


@dataclass(frozen=True)
class StateEntry:
    """A state that a model carries from one step to the next.

    Attributes:
        input: Name of the input that takes the state.
        output: Name of the output whose value is fed to that input at the next step.

    Example:
        >>> import numpy as np
        >>> entry = StateEntry("lstm_state_0", "lstm_state_0_next")
        >>> states = {entry.input: np.zeros((1, 16))}
        >>> results = {"output": np.ones((1, 6)), "lstm_state_0_next": np.ones((1, 16))}  # of one step on a device
        >>> states = {entry.input: results[entry.output]}
        >>> float(states["lstm_state_0"].mean())
        1.0
    """

    input: str
    output: str


@dataclass(frozen=True)
class SignatureEntry:
    """A named entry point of the model.

    Attributes:
        name: Key of the signature in model.tflite.
        inputs: Inputs, sorted by name.
        outputs: Outputs, sorted by name.
        golden_samples: Number of golden samples; with states they are the steps of one sequence.
        states: States that are carried from step to step.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> (signature,) = bundle.manifest.signatures
        >>> signature.name, [entry.name for entry in signature.outputs], signature.golden_samples
        ('serving_default', ['output'], 16)
    """

    name: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    golden_samples: int
    states: tuple[StateEntry, ...] = ()

    @classmethod
    def from_dict(cls, data: Config) -> SignatureEntry:
        """Returns the signature that a dictionary describes as model.json does.

        Args:
            data: Entry of `signatures` in model.json.

        Example:
            >>> content = json.loads(Path("tflite/testdata/bars_static_int8/model.json").read_text())
            >>> signature = SignatureEntry.from_dict(content["signatures"][0])
            >>> signature.inputs[0].shape
            (1, 8, 8, 1)
        """

        def tensors(entries: list[Config]) -> tuple[TensorEntry, ...]:
            return tuple(map(TensorEntry.from_dict, entries))

        states = tuple(StateEntry(**state) for state in data["states"])
        return cls(**{**data, "inputs": tensors(data["inputs"]), "outputs": tensors(data["outputs"]), "states": states})


@dataclass(frozen=True)
class Tolerance:
    """The largest errors that the golden outputs allow; None where a measure does not apply.

    An output with an integer grid is measured in steps of that grid if there are limits in steps; every other output is
    measured relative to its largest absolute golden value.

    Attributes:
        max_error: Largest absolute error, relative to the largest absolute golden output.
        rms_error: Root mean square of the error, relative to the largest absolute golden output.
        max_error_lsb: Largest absolute error in steps of the output's integer grid.
        rms_error_lsb: Largest root mean square of the error, in those steps.
        mean_error_lsb: Largest absolute value of the mean signed error, in those steps.
        agreement: Smallest share of equal integers in an output of integers, such as class ids; None to measure such
            an output as any other.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> bundle.manifest.tolerance.max_error_lsb, bundle.manifest.tolerance.rms_error_lsb
        (60.0, 2.0)
    """

    max_error: float | None
    rms_error: float | None
    max_error_lsb: float | None
    rms_error_lsb: float | None
    mean_error_lsb: float | None
    agreement: float | None = None


@dataclass(frozen=True)
class TrainedFigure:
    """The trained model's own figure on labelled samples, to stand beside that of the file.

    Attributes:
        output: Name of the output of the first signature.
        metric: Name of the metric, such as "accuracy" or "rmse".
        value: Figure of the trained model, computed by Keras.
        samples: Number of samples.
        data_sha256: SHA-256 of the samples and their labels: on the same data each sample is compared with itself.
        threshold: Value of the output from which a single label is true; None for metrics without one.
        scores: Path of the file with the score of each sample in float32, little-endian; None if there are none.
        budget: Largest loss that the file may have, in points: 0.01 is one point; None for one point.

    Example:
        >>> figure = TrainedFigure("output", "accuracy", 0.971, 600, 64 * "0", None, None)
        >>> f"{figure.metric} {figure.value} on {figure.samples} samples"
        'accuracy 0.971 on 600 samples'
    """

    output: str
    metric: str
    value: float
    samples: int
    data_sha256: str
    threshold: float | None = None
    scores: str | None = None
    budget: float | None = None


@dataclass(frozen=True)
class Manifest:
    """The content of model.json, as `tflite/bundle.schema.json` defines it.

    Attributes:
        format_version: Version of the bundle format; `FORMAT_VERSION`.
        manifest_sha256: SHA-256 of model.json with 64 zeros in the place of this value; filled in when it is written.
        name: Name of the trained model.
        recipe: Number format of the file, such as "static_int8".
        exceptions: Recipe by layer pattern, for layers that differ from `recipe`.
        edges: Type of the inputs and outputs that was asked for, such as "float32".
        batch_size: Number of samples that the model takes at once: 1, or None for any number.
        signatures: Entry points of model.tflite; accuracy and latency are measured on the first.
        tolerance: Largest errors that a runner accepts, of outputs without a tolerance of their own.
        labels: Class names in the order of the outputs; None if none were given.
        preprocessing: Description of how raw data becomes the model's input; None if none was given.
        versions: Version of each package that made the bundle.
        metrics: Figures measured on model.tflite itself, by name.
        files: Size and hash of every other file, by its path in the bundle.
        trained_figures: Figures of the trained model on validation data; None if no such data were given.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> bundle.manifest.name, bundle.manifest.recipe, bundle.manifest.labels
        ('bars', 'static_int8', ('row', 'column', 'diagonal', 'blob'))
    """

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
    trained_figures: tuple[TrainedFigure, ...] | None = None


def to_json(manifest: Manifest) -> str:
    """Returns the content of model.json, with its hash.

    Raises:
        BundleError: If the manifest does not follow the schema.
    """
    content = _without_options(dataclasses.replace(manifest, manifest_sha256=_NO_HASH))
    unsigned = json.dumps(content, indent=2) + "\n"
    _check_schema(_parse(unsigned, "The manifest"), "The manifest")
    return unsigned.replace(_NO_HASH, hashlib.sha256(unsigned.encode()).hexdigest(), 1)


def _without_options(value: object) -> Json:
    """Returns a dataclass as plain values; a field that is None by default is left out if it is None."""
    if dataclasses.is_dataclass(value):
        items = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {
            field.name: _without_options(item) for field, item in items if not (item is None and field.default is None)
        }
    if isinstance(value, dict):
        return {key: _without_options(item) for key, item in value.items()}
    return [_without_options(item) for item in value] if isinstance(value, tuple) else value


def read_manifest(path: Path) -> Manifest:
    """Reads model.json.

    Raises:
        BundleError: If the file is not JSON, has another format version, or does not follow the schema.
    """
    subject = repr(str(path))
    if path.stat().st_size > _MAX_BYTES:
        raise BundleError(f"{subject} must have at most {_MAX_BYTES} bytes. {received(bytes=path.stat().st_size)}")
    content = path.read_bytes()
    data = _parse(content, subject)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{subject} must have format_version {FORMAT_VERSION}. {one_line(received(format_version=version))} "
            f"Convert the model again with this version of keras_notes."
        )
    _check_schema(data, subject)
    stated = data["manifest_sha256"]
    actual = hashlib.sha256(content.replace(stated.encode(), _NO_HASH.encode(), 1)).hexdigest()
    if actual != stated:
        raise BundleError(
            f"{subject} is damaged: it must have the SHA-256 {stated}. Received: {actual}. Copy the bundle again."
        )
    manifest = _manifest_from(data)
    _check_golden_sizes(path, manifest)
    _check_states(path, manifest)
    return manifest


def _parse(content: str | bytes, subject: str) -> Json:
    """Parses the JSON of a manifest, which `subject` names in errors."""
    try:
        return parse_json(content)
    except ValueError as error:
        raise BundleError(one_line(f"{subject} must be JSON. Received: {error}.")) from error
    except RecursionError as error:
        raise BundleError(
            f"{subject} must be JSON of a few levels. Received: more levels than can be parsed."
        ) from error


def listed_files(path: Path) -> set[str]:
    """Returns the files that a model.json of any format version lists.

    Raises:
        BundleError: If it does not list files.
    """
    data = _parse(path.read_bytes(), repr(str(path)))
    if not isinstance(data, dict) or "format_version" not in data or not isinstance(data.get("files"), dict):
        raise BundleError(
            f"Only a bundle may be overwritten, and {str(path)!r} does not list the files of one. "
            f"Choose another directory."
        )
    return set(data["files"])


def _check_schema(data: Json, subject: str) -> None:
    if violation := find_violation(data, "bundle.schema.json"):
        raise BundleError(f"{subject} does not follow the bundle schema: {violation}.")


def _manifest_from(data: Config) -> Manifest:
    figures = data.get("trained_figures")
    return Manifest(
        **{
            **data,
            "signatures": tuple(SignatureEntry.from_dict(entry) for entry in data["signatures"]),
            "tolerance": Tolerance(**data["tolerance"]),
            "labels": None if data["labels"] is None else tuple(data["labels"]),
            "files": {name: FileEntry(**entry) for name, entry in data["files"].items()},
            "trained_figures": None if figures is None else tuple(TrainedFigure(**entry) for entry in figures),
        }
    )


def _check_golden_sizes(path: Path, manifest: Manifest) -> None:
    """Raises BundleError unless each golden file is listed with the size of its samples; a schema cannot check that."""
    for signature in manifest.signatures:
        for entry in (*signature.inputs, *signature.outputs):
            size = signature.golden_samples * math.prod(entry.shape[1:]) * np.dtype(entry.golden_dtype).itemsize
            for file in (entry.golden, entry.reference):
                _check_size(path, manifest, file, size, signature.golden_samples)
    for figure in manifest.trained_figures or ():
        _check_size(path, manifest, figure.scores, _BYTES_OF_A_SCORE * figure.samples, figure.samples)


def _check_size(path: Path, manifest: Manifest, file: str | None, size: int, samples: int) -> None:
    listed = None if file is None else manifest.files.get(file)
    if file is not None and (listed is None or listed.bytes != size):
        raise BundleError(
            f"{str(path)!r} must list {one_line(file)} with {size} bytes, for {samples} samples. "
            f"{received(bytes=listed and listed.bytes)}"
        )


def _check_states(path: Path, manifest: Manifest) -> None:
    """Raises BundleError unless states join an existing input and output of one shape, which a schema cannot check."""
    for signature in manifest.signatures:
        inputs, outputs = ({e.name: e.shape for e in entries} for entries in (signature.inputs, signature.outputs))
        for state in signature.states:
            if inputs.get(state.input, "no such input") != outputs.get(state.output, "no such output"):
                joined = (
                    f"{state.input!r}, {inputs.get(state.input)}, and {state.output!r}, {outputs.get(state.output)}"
                )
                raise BundleError(
                    f"{str(path)!r} must have states that join an input and an output of one shape. "
                    f"Received: {one_line(joined)}."
                )
