"""Comparison of the outputs of a file with the golden outputs of the trained model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from keras_notes._litert.model import INTEGER_DTYPES, TfliteFile
from keras_notes.bundle import Bundle, SignatureEntry, TensorEntry, Tolerance, distance_between
from keras_notes.errors import BundleError
from keras_notes.verification._channels import find_lost_channels
from keras_notes.verification._output_operators import last_operator
from keras_notes.verification._report import OutputReport

__all__ = ["compare_signature", "distance_warnings", "stray_warnings"]

# A quantization-aware model of these distances to its float model answers otherwise than that.
_FEWEST_AGREEING, _FAR = 0.9, 0.3
# How far a measure over the golden samples may be off by their draw: beyond it lie 0.1 % of the draws.
_STANDARD_ERRORS = 3
# Operators that move channels to another axis, or make the channels of several results one output.
_CHANNEL_MOVERS = ("CONCATENATION", "PACK", "TRANSPOSE")


def compare_signature(bundle: Bundle, signature: SignatureEntry, file: TfliteFile, run: Callable) -> list[OutputReport]:
    """Runs the golden samples of a signature, and returns the errors of each output.

    Args:
        bundle: The bundle.
        signature: The signature.
        file: The content of the bundle's file.
        run: The function that runs the file, as `_litert.client.outputs` without its path.

    Raises:
        BundleError: If a file of any batch size gives other outputs for a batch than for its samples alone.
    """
    inputs, golden = bundle.golden(signature)
    outputs = run(signature, inputs)
    if bundle.manifest.batch_size is None and signature.golden_samples > 1:
        _check_batched(signature, outputs, run(signature, inputs, batch_size=signature.golden_samples))
    labelled = bundle.manifest.labels is not None and signature is bundle.manifest.signatures[0]
    references = bundle.reference(signature)
    return [
        _compare_output(
            bundle,
            signature,
            entry,
            file,
            golden[entry.name],
            outputs[entry.name],
            references.get(entry.name),
            has_classes=labelled,
        )
        for entry in signature.outputs
    ]


def _compare_output(
    bundle: Bundle,
    signature: SignatureEntry,
    entry: TensorEntry,
    file: TfliteFile,
    golden: np.ndarray,
    output: np.ndarray,
    reference: np.ndarray | None,
    *,
    has_classes: bool,
) -> OutputReport:
    tolerance = entry.tolerance or bundle.manifest.tolerance
    expected, actual = golden.astype(np.float64), output.astype(np.float64)
    report = _output_report(signature, entry, expected, actual)
    if reference is not None:
        report = dataclasses.replace(report, distance=distance_between(reference, output))
    if report.agreement is not None and tolerance.agreement is not None:
        return dataclasses.replace(report, failures=tuple(_disagreement(report, tolerance.agreement)))
    failures = _failures(
        report, _beyond_chance(actual - expected), tolerance, entry.magnitude or float(np.abs(expected).max()) or 1.0
    )
    path = _path(signature.name, entry.name)
    if failures and (outside := _count_outside_of_grid(file, signature.name, entry.name, expected)):
        failures.append(
            f"{outside} of {expected.size} golden values of the output {path!r} "
            f"lie outside of its grid: calibrate with more samples"
        )
    if report.agreement is None:
        axes = _channel_axes(file, signature, entry)
        models = (expected,) if reference is None else (expected, reference.astype(np.float64))
        lost = (find_lost_channels(model, actual, axes, has_classes=has_classes) for model in models)
        failures += [channels.describe(path, entry.scale) for channels in lost if channels is not None][:1]
    return dataclasses.replace(report, failures=tuple(failures))


def stray_warnings(bundle: Bundle, outputs: Iterable[OutputReport]) -> Iterator[str]:
    """Yields a sentence for each output that is within its own tolerance only, not within that of the recipe."""
    tolerance = bundle.manifest.tolerance
    own = {(s.name, entry.name): entry.tolerance for s in bundle.manifest.signatures for entry in s.outputs}
    for output in outputs:
        limits = own[output.signature, output.name]
        error, usual = output.rms_error_lsb, tolerance.rms_error_lsb
        if limits is None or limits.rms_error_lsb is None or error is None or usual is None or output.failures:
            continue
        # Not `<= limits.rms_error_lsb`: an error above it passes if the draw of the samples explains the rest.
        if usual < error:
            yield (
                f"the root mean square error of the output {_path(output.signature, output.name)!r} is {error:.3g} "
                f"LSB: more than the {usual:.3g} of small networks; its own limit is {limits.rms_error_lsb:.3g}, by "
                f"what it varies by in the trained model. Whether the task suffers, `verify(bundle, x, y)` says"
            )


def distance_warnings(outputs: Iterable[OutputReport]) -> Iterator[str]:
    """Yields a sentence for each output that is far from the float model, whatever the tolerance says."""
    for output in outputs:
        distance = output.distance
        if distance is None:
            continue
        disagrees = distance.top1_agreement is not None and distance.top1_agreement < _FEWEST_AGREEING
        if disagrees or distance.rms_error > _FAR * distance.spread > 0:
            yield (
                f"the output {_path(output.signature, output.name)!r} is far from the float model: {distance}. Train "
                f"longer, with a smaller learning rate, or leave layers in float (`skip`)"
            )


def _channel_axes(file: TfliteFile, signature: SignatureEntry, entry: TensorEntry) -> tuple[int, ...]:
    """Returns the axes that may be those of channels: the last, and any if an operator moves channels there."""
    last = len(entry.shape) - 1
    if last < 1:
        return ()
    operator = last_operator(file, signature.name, entry.name)
    return tuple(range(last, 0, -1)) if operator is not None and operator.name in _CHANNEL_MOVERS else (last,)


def _count_outside_of_grid(file: TfliteFile, signature_name: str, output: str, values: np.ndarray) -> int:
    """Returns how many values lie outside of the range of an output's integers, by more than a step."""
    signature = next(signature for signature in file.signatures if signature.name == signature_name)
    grid = file.graph(signature).output_grid(signature.outputs[output])
    if grid.dtype not in INTEGER_DTYPES or not grid.scale or grid.zero_point is None:
        return 0
    ends = np.iinfo(grid.dtype)
    with np.errstate(all="ignore"):  # a damaged file may have any scale
        steps = values / grid.scale + grid.zero_point
    return int(((steps < ends.min - 1) | (steps > ends.max + 1)).sum())


def _check_batched(signature: SignatureEntry, one_by_one: Mapping[str, np.ndarray], at_once: Mapping[str, np.ndarray]):
    """Raises BundleError unless a batch gives the outputs of its samples alone, up to the order of sums."""
    for entry in signature.outputs:
        step = (entry.scale or 0.0) + 1e-4 * float(np.abs(one_by_one[entry.name]).max() or 1.0)
        largest = float(np.abs(at_once[entry.name].astype(np.float64) - one_by_one[entry.name]).max())
        if not largest <= step:
            raise BundleError(
                f"A model of any batch size must give for a batch what it gives for each sample alone. Received: a "
                f"difference of {largest:.3g} at the output {_path(signature.name, entry.name)!r}. "
                f"Convert it with batch_size=1."
            )


def _output_report(
    signature: SignatureEntry, entry: TensorEntry, expected: np.ndarray, actual: np.ndarray
) -> OutputReport:
    error = actual - expected
    largest, mean = float(np.abs(error).max()), float(error.mean())
    rms = float(np.sqrt(np.square(error).mean()))
    are_ids = np.dtype(entry.golden_dtype).kind in "iub" and entry.scale is None
    has_classes = expected.ndim > 1 and expected.shape[-1] > 1 and not are_ids
    top1_agreement = float((expected.argmax(-1) == actual.argmax(-1)).mean()) if has_classes else None
    return OutputReport(
        signature=signature.name,
        name=entry.name,
        max_error=largest,
        rms_error=rms,
        mean_error=mean,
        max_error_lsb=None if entry.scale is None else largest / entry.scale,
        rms_error_lsb=None if entry.scale is None else rms / entry.scale,
        mean_error_lsb=None if entry.scale is None else mean / entry.scale,
        top1_agreement=top1_agreement,
        agreement=float((expected == actual).mean()) if are_ids else None,
        rms_error_by_quarter=_drift_by_quarter(error) if signature.states else None,
    )


def _drift_by_quarter(error: np.ndarray) -> tuple[float, float, float, float] | None:
    """Returns the root mean square error of each quarter of a sequence, whose steps are the first axis."""
    if len(error) < 4:
        return None
    first, second, third, fourth = (float(np.sqrt(np.square(part).mean())) for part in np.array_split(error, 4))
    return first, second, third, fourth


class _BeyondChance(NamedTuple):
    """The least that errors over all data are, from their spread over the golden samples."""

    rms_error: float
    mean_error: float


def _beyond_chance(error: np.ndarray) -> _BeyondChance:
    """Returns root mean square and absolute mean of errors, less what the draw of the samples explains.

    That is 3 standard errors, so that the verdict on a file does not depend on which samples are golden. An error that
    is the same in all samples counts in full, however few they are.
    """
    rows = error.reshape(len(error), -1)
    with np.errstate(invalid="ignore"):  # an infinite error gives a NaN, which fails
        squares, means = np.square(rows).mean(axis=1), rows.mean(axis=1)
        # The NaN first: `max` keeps it there.
        rms_error = math.sqrt(max(squares.mean() - _STANDARD_ERRORS * _standard_error(squares), 0.0))
        return _BeyondChance(rms_error, max(abs(means.mean()) - _STANDARD_ERRORS * _standard_error(means), 0.0))


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _failures(output: OutputReport, sure: _BeyondChance, tolerance: Tolerance, magnitude: float) -> list[str]:
    measures: tuple[tuple[str, float | None, float | None, float | None], ...]
    if output.max_error_lsb is not None and tolerance.max_error_lsb is not None:
        unit, step = " LSB", output.max_error / output.max_error_lsb if output.max_error_lsb else 1.0
        measures = (
            ("largest error", output.max_error_lsb, output.max_error_lsb, tolerance.max_error_lsb),
            ("root mean square error", output.rms_error_lsb, sure.rms_error / step, tolerance.rms_error_lsb),
            ("mean error", output.mean_error_lsb, sure.mean_error / step, tolerance.mean_error_lsb),
        )
    else:
        # An infinite golden output must not make the limit infinite.
        unit, scale = "", magnitude if np.isfinite(magnitude) else 1.0
        measures = (
            ("largest error", output.max_error, output.max_error, _times(tolerance.max_error, scale)),
            ("root mean square error", output.rms_error, sure.rms_error, _times(tolerance.rms_error, scale)),
        )
    path = _path(output.signature, output.name)
    limited = [(measure, value, minimum, limit) for measure, value, minimum, limit in measures if limit is not None]
    if not limited:
        return [f"the tolerance of the bundle must limit the output {path!r}. Received: no limit that applies"]
    return [
        f"the {measure} of the output {path!r} must be at most {limit:.3g}{unit}. Received: {value}{unit}"
        for measure, value, minimum, limit in limited
        # Not `minimum > limit`: a NaN must fail.
        if not (minimum is not None and minimum <= limit)
    ]


def _disagreement(output: OutputReport, minimum: float) -> list[str]:
    if output.agreement is not None and output.agreement >= minimum:
        return []
    return [
        f"the integers of the output {_path(output.signature, output.name)!r} must agree with those of the trained "
        f"model in a share of at least {minimum:.3g}. Received: {output.agreement:.4g}"
    ]


def _path(signature: str, output: str) -> str:
    return f"{signature}/{output}"


def _times(limit: float | None, scale: float) -> float | None:
    return None if limit is None else limit * scale
