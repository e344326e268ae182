"""Verification: runs a bundle on LiteRT and compares it with the trained model. Imports neither Keras nor TensorFlow.

Conversion wrote the golden outputs; here they are only compared, by the same rules as in every runner of `tflite/`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from keras_notes._checks import check_choice, received
from keras_notes._litert import KERNELS, Runtime
from keras_notes._tflite_file import TfliteFile, read_tflite
from keras_notes.bundle import Bundle, SignatureEntry, TensorEntry, Tolerance, open_bundle
from keras_notes.errors import BundleError, VerificationError

__all__ = ["OutputReport", "Report", "verify"]


@dataclass(frozen=True)
class OutputReport:
    """The error of one output over all golden samples; `*_lsb` in steps of its integer grid, None for float.

    `mean_error` is signed: the part of the error that is the same everywhere. `top1_agreement` is the share of golden
    samples with the same largest class, None where an output has no classes.
    """

    signature: str
    name: str
    max_error: float
    mean_error: float
    max_error_lsb: float | None
    rms_error_lsb: float | None
    mean_error_lsb: float | None
    top1_agreement: float | None


@dataclass(frozen=True)
class Report:
    """What `verify` found. `str(report)` is a page to read."""

    name: str
    recipe: str
    kernels: str
    runtime_version: str
    model_bytes: int
    outputs: tuple[OutputReport, ...]
    golden_samples: int
    accuracy: float | None
    accuracy_samples: int
    operators: dict[str, int]
    float_islands: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is within the bundle's tolerance."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {"ok": self.ok, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {'PASS' if self.ok else 'FAIL'}",
            f"  recipe {self.recipe}, {self.model_bytes} bytes",
            f"  LiteRT {self.runtime_version} with {self.kernels} kernels, {self.golden_samples} golden samples",
            *(f"  {line}" for line in map(_output_line, self.outputs)),
            f"  operators: {', '.join(f'{count} {name}' for name, count in self.operators.items())}",
        ]
        if self.accuracy is not None:
            lines.append(f"  accuracy {self.accuracy:.4f} on {self.accuracy_samples} samples")
        if self.recipe != "float32" and self.float_islands:
            lines.append(f"  in floating point: {', '.join(self.float_islands)}")
        return "\n".join([*lines, *(f"  FAILED: {failure}" for failure in self.failures)])


def verify(
    bundle_or_directory: Bundle | str | os.PathLike[str],
    x: Any = None,
    y: Any = None,
    *,
    kernels: str = "xnnpack",
) -> Report:
    """Proves that a bundle gives what the trained model gave, within the tolerance of its recipe.

    Checks the hashes, and that the file holds the tensors that the manifest describes; runs every golden sample on
    LiteRT, and compares: float files by the largest error, relative to the largest golden output; integer files in
    steps of the output's grid (LSB), by the largest, the root mean square and the mean error.

    Args:
        bundle_or_directory: A bundle, or where it stands. Its files are read and hashed again in either case.
        x: Test inputs of shape (samples, ...), in the units of the trained model; a dict by name for several inputs.
        y: Class ids of shape (samples,). With x and y the accuracy of the .tflite file itself is measured.
        kernels: "xnnpack" (LiteRT's default), "builtin" or "reference" (the portable oracle).

    Returns:
        The `Report`.

    Raises:
        VerificationError: If an output strays beyond the tolerance; `.report` holds every figure.
        BundleError: If the bundle is damaged, or LiteRT cannot load it.
        ValueError: If x and y do not fit the model, or a label is out of range.
    """
    check_choice("kernels", kernels, KERNELS)
    directory = bundle_or_directory.directory if isinstance(bundle_or_directory, Bundle) else bundle_or_directory
    bundle = open_bundle(directory)
    samples, labels = _checked_samples(bundle.manifest.signatures[0], x, y)
    runs = [Runtime(bundle, entry, kernels) for entry in bundle.manifest.signatures]
    file = read_tflite(bundle.model_path)
    _check_described(bundle, file)
    results = [_compare(bundle, run) for run in runs]
    outputs = tuple(output for compared in results for output, _ in compared)
    report = Report(
        name=bundle.manifest.name,
        recipe=bundle.manifest.recipe,
        kernels=kernels,
        runtime_version=version("ai-edge-litert"),
        model_bytes=bundle.model_bytes,
        outputs=outputs,
        golden_samples=sum(entry.golden_samples for entry in bundle.manifest.signatures),
        accuracy=None if labels is None else _accuracy(runs[0], samples, labels),
        accuracy_samples=0 if labels is None else len(labels),
        operators=file.operator_counts(),
        float_islands=file.float_islands(),
        failures=tuple(failure for compared in results for _, failures in compared for failure in failures),
    )
    if not report.ok:
        raise VerificationError(
            f"{report.name!r} is not equal to the trained model: {'; '.join(report.failures)}", report
        )
    return report


def _check_described(bundle: Bundle, file: TfliteFile) -> None:
    """Raises BundleError unless the file has the tensors that the manifest describes, on the same grids."""
    signatures = {signature.name: signature for signature in file.signatures}
    for described in bundle.manifest.signatures:
        found = signatures.get(described.name)
        for kind in ("inputs", "outputs"):
            grid = file.input_grid if kind == "inputs" else file.output_grid
            indices = getattr(found, kind, {})
            there = {
                (name, file.tensors[i].dtype, file.tensors[i].shape, grid(i).scale, grid(i).zero_point)
                for name, i in indices.items()
            }
            entries = getattr(described, kind)
            wanted = {(entry.name, entry.dtype, entry.shape, entry.scale, entry.zero_point) for entry in entries}
            if there != wanted:
                raise BundleError(
                    f"The model of {str(bundle.directory)!r} must have the {kind} that its manifest describes. "
                    f"Received: {sorted(there, key=str)} for {sorted(wanted, key=str)}. Convert the model again."
                )


def _compare(bundle: Bundle, run: Runtime) -> list[tuple[OutputReport, list[str]]]:
    inputs, golden = bundle.golden(run.signature)
    outputs = run.outputs(inputs)
    tolerance = bundle.manifest.tolerance
    compared = []
    for entry in run.signature.outputs:
        wanted, got = golden[entry.name].astype(np.float64), outputs[entry.name].astype(np.float64)
        output = _output_report(run.signature.name, entry, wanted, got)
        compared.append((output, _failures(output, tolerance, float(np.abs(wanted).max()) or 1.0)))
    return compared


def _output_report(signature: str, entry: TensorEntry, wanted: np.ndarray, got: np.ndarray) -> OutputReport:
    error = got - wanted
    largest, mean = float(np.abs(error).max()), float(error.mean())
    has_classes = wanted.ndim > 1 and wanted.shape[-1] > 1
    agreement = float((wanted.argmax(-1) == got.argmax(-1)).mean()) if has_classes else None
    return OutputReport(
        signature=signature,
        name=entry.name,
        max_error=largest,
        mean_error=mean,
        max_error_lsb=None if entry.scale is None else largest / entry.scale,
        rms_error_lsb=None if entry.scale is None else float(np.sqrt(np.square(error).mean())) / entry.scale,
        mean_error_lsb=None if entry.scale is None else mean / entry.scale,
        top1_agreement=agreement,
    )


def _failures(output: OutputReport, tolerance: Tolerance, magnitude: float) -> list[str]:
    # An infinite golden output must not make the limit infinite.
    limit = None if tolerance.max_error is None else tolerance.max_error * (magnitude if np.isfinite(magnitude) else 1)
    measures = (
        ("largest error", output.max_error, limit, ""),
        ("largest error", output.max_error_lsb, tolerance.max_error_lsb, " LSB"),
        ("root mean square error", output.rms_error_lsb, tolerance.rms_error_lsb, " LSB"),
        ("mean error", output.mean_error_lsb, tolerance.mean_error_lsb, " LSB"),
    )
    return [
        f"the {what} of the output {output.name!r} must be at most {most:.3g}{unit}. Received: {value}{unit}"
        for what, value, most, unit in measures
        # Not `value > most`: a NaN must fail.
        if most is not None and not (value is not None and abs(value) <= most)
    ]


def _checked_samples(signature: SignatureEntry, x: Any, y: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    if (x is None) != (y is None):
        raise ValueError("`x` and `y` must be given together. Received: only one of them.")
    if x is None:
        return {}, None
    named = dict(x) if isinstance(x, Mapping) else {signature.inputs[0].name: x}
    if set(named) != {entry.name for entry in signature.inputs}:
        raise ValueError(
            f"`x` must hold one array for each input. Received: {sorted(named)} for "
            f"{sorted(entry.name for entry in signature.inputs)}."
        )
    samples = {entry.name: np.asarray(named[entry.name]) for entry in signature.inputs}
    labels = np.asarray(y)
    if len(signature.outputs) != 1:
        raise ValueError(f"Accuracy needs a model with one output. Received: {len(signature.outputs)} outputs.")
    _check_labels(labels, signature.outputs[0])
    for entry in signature.inputs:
        array = samples[entry.name]
        if array.dtype.kind not in "fiub":
            raise TypeError(f"`x` must hold numbers. Received: dtype {array.dtype} for the input {entry.name!r}.")
        if array.ndim == 0 or array.shape[1:] != entry.shape[1:] or len(array) != len(labels):
            raise ValueError(
                f"`x` must have the shape ({len(labels)}, {', '.join(map(str, entry.shape[1:]))}), one sample for each "
                f"label. Received: shape {array.shape} for the input {entry.name!r}."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"`x` must be finite. Received: NaN or infinity for the input {entry.name!r}.")
    return samples, labels


def _check_labels(labels: np.ndarray, output: TensorEntry) -> None:
    classes = output.shape[-1]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise ValueError(
            f"`y` must hold class ids: integers of shape (samples,). "
            f"Received: dtype {labels.dtype} and shape {labels.shape}."
        )
    if len(output.shape) != 2 or classes < 2:
        raise ValueError(f"Accuracy needs an output of shape (1, classes). {received(shape=output.shape)}")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise ValueError(
            f"`y` must hold class ids in [0, {classes}). Received: {labels[wrong][0]} "
            f"({int(wrong.sum())} of {len(labels)} are out of range)."
        )


def _accuracy(run: Runtime, samples: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    outputs = run.outputs(samples)[run.signature.outputs[0].name]
    return float((outputs.argmax(-1) == labels).mean())


def _output_line(output: OutputReport) -> str:
    error = f"error max {output.max_error:.3g}, mean {output.mean_error:.3g}"
    if output.max_error_lsb is not None:
        error += (
            f"; in LSB max {output.max_error_lsb:.2f}, rms {output.rms_error_lsb:.2f}, mean {output.mean_error_lsb:.2f}"
        )
    agreement = "" if output.top1_agreement is None else f"; top-1 agreement {output.top1_agreement:.4f}"
    return f"{output.signature}/{output.name}: {error}{agreement}"
