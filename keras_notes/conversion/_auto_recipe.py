"""The recipe "auto": makes a file by each recipe that fits, measures them on this machine, and takes the best."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_notes._shared.checks import check_choice, check_non_negative, one_line, received
from keras_notes.benchmarking import bench
from keras_notes.bundle import CANDIDATES_FILE, Bundle, Candidate, Choice, Manifest, write_bundle
from keras_notes.conversion._bundle_builder import PreparedModel
from keras_notes.conversion._recipes import Plan
from keras_notes.errors import BundleError, ConversionError, VerificationError
from keras_notes.verification import Report, verify

__all__ = ["Wish", "chosen"]

_log = logging.getLogger(__name__)
# Those that phones have; "reference" is an oracle.
_KERNELS = ("xnnpack", "builtin")
_PREFERENCES = ("bytes", "latency")
# Candidates take turns, so that a machine that grows slower does so for all.
_ROUNDS, _REPEAT = 5, 20
# Of two latencies that differ by less, the smaller file counts: medians of a few rounds say no more.
_SAME_LATENCY = 1.05

Contents = tuple[Manifest, dict[str, bytes]]
Validation = tuple[dict[str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Wish:
    """What makes a file the best: see `convert`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If one is of another type.
    """

    validation_data: Any
    accuracy_budget: float
    prefer: str

    def __post_init__(self) -> None:
        check_non_negative("accuracy_budget", self.accuracy_budget)
        check_choice("prefer", self.prefer, _PREFERENCES)
        if self.validation_data is not None and (
            not isinstance(self.validation_data, (tuple, list)) or len(self.validation_data) != 2
        ):
            raise TypeError(
                f"`validation_data` must be inputs and their class ids, (x, y). "
                f"{received(validation_data=type(self.validation_data).__name__)}"
            )


@dataclass
class _Try:
    """A plan on its way through the measurements."""

    plan: Plan
    kernels: str
    contents: Contents | None = None
    bundle: Bundle | None = None
    report: Report | None = None
    loss: float | None = None
    p50_ms: float | None = None
    reason: str = ""

    def candidate(self) -> Candidate:
        return Candidate(
            recipe=self.plan.default.name,
            kernels=self.kernels,
            bytes=None if self.bundle is None else self.bundle.model_bytes,
            p50_ms=self.p50_ms,
            accuracy=None if self.report is None else self.report.accuracy,
            loss=self.loss,
            reason=self.reason,
        )


def chosen(prepared: PreparedModel, plans: Sequence[Plan], edges: str, wish: Wish) -> Contents:
    """The contents of the best file, candidates.json among them.

    Raises:
        ConversionError: If no file is within the budget; the message holds the table.
        ValueError: If the validation data do not fit the model.
    """
    validation = None if wish.validation_data is None else prepared.labelled(*wish.validation_data)
    model_accuracy = None if validation is None else prepared.accuracy(*validation)
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        tries = [one for plan in plans for one in _converted(prepared, plan, edges, Path(directory))]
        for one in tries:
            _prove(one, wish, validation, model_accuracy)
        _time([one for one in tries if one.report is not None])
    fitting = [index for index, one in enumerate(tries) if not one.reason]
    best = _best(tries, fitting, wish.prefer) if fitting else -1
    samples = next((one.report.golden_samples for one in tries if one.report is not None), 0)
    choice = Choice(
        accuracy_budget=wish.accuracy_budget,
        prefer=wish.prefer,
        model_accuracy=model_accuracy,
        samples=samples if validation is None else len(validation[1]),
        candidates=tuple(one.candidate() for one in tries),
        chosen=best,
    )
    contents = tries[best].contents
    if not fitting or contents is None:
        raise ConversionError(f"A file of {prepared.name!r} must be within the accuracy budget. Received:\n{choice}")
    _log.info("the best is %s on %s kernels\n%s", tries[best].plan.default.name, tries[best].kernels, choice)
    manifest, files = contents
    table = json.dumps(choice.to_dict(), indent=1) + "\n"
    return manifest, {**files, CANDIDATES_FILE: table.encode()}


def _converted(prepared: PreparedModel, plan: Plan, edges: str, directory: Path) -> Iterator[_Try]:
    """The file of a plan, once for each set of kernels; or why there is none."""
    name = plan.default.name
    try:
        contents = prepared.contents(plan, edges)
    except ConversionError as error:
        yield from (_Try(plan, kernels, reason=one_line(str(error))) for kernels in _KERNELS)
        return
    bundle = write_bundle(directory / name, *contents)
    yield from (_Try(plan, kernels, contents, bundle) for kernels in _KERNELS)


def _prove(one: _Try, wish: Wish, validation: Validation | None, model_accuracy: float | None) -> None:
    """Runs a file against what the model gave."""
    if one.bundle is None:
        return
    _log.info("verifying %s on %s kernels", one.plan.default.name, one.kernels)
    x, y = validation or (None, None)
    try:
        one.report = verify(one.bundle, x, y, kernels=one.kernels)
    except VerificationError as error:
        one.report, one.reason = error.report, "; ".join(error.report.failures)
    except BundleError as error:  # kernels that cannot run the file
        one.reason = one_line(str(error))
        return
    if model_accuracy is None or one.report.accuracy is None:
        one.loss = _error_share(one.bundle, one.report)
    else:
        one.loss = model_accuracy - one.report.accuracy
    if not one.reason and not one.loss <= wish.accuracy_budget:
        one.reason = "over the budget"


def _error_share(bundle: Bundle, report: Report) -> float:
    """The root mean square error as a share of the standard deviation of the trained model's output, of the worst."""
    golden = {
        (entry.name, name): values
        for entry in bundle.manifest.signatures
        for name, values in bundle.golden(entry)[1].items()
    }
    # An output that is constant has no spread; its own size says how large an error is.
    spreads = {key: float(np.std(values) or np.abs(values).max() or 1.0) for key, values in golden.items()}
    return max(output.rms_error / spreads[output.signature, output.name] for output in report.outputs)


def _time(tries: Sequence[_Try]) -> None:
    """Measures the latency of each, in turns."""
    _log.info("measuring %d candidates, %d rounds", len(tries), _ROUNDS)
    times: list[list[float]] = [[] for _ in tries]
    for turn in range(_ROUNDS):
        order = list(zip(tries, times, strict=True))
        for one, measured in order if turn % 2 == 0 else reversed(order):
            if one.bundle is not None:
                report = bench(one.bundle, threads=(1,), kernels=one.kernels, repeat=_REPEAT, rounds=1)
                measured.append(report.rows[0].p50_ms)
    for one, measured in zip(tries, times, strict=True):
        one.p50_ms = float(np.median(measured))


def _best(tries: Sequence[_Try], fitting: Sequence[int], prefer: str) -> int:
    def size(index: int) -> tuple[float, float]:
        candidate = tries[index].candidate()
        return (candidate.bytes or 0, candidate.p50_ms or 0.0)

    if prefer == "latency":
        fastest = min(tries[index].p50_ms or 0.0 for index in fitting)
        fitting = [index for index in fitting if (tries[index].p50_ms or 0.0) <= _SAME_LATENCY * fastest]
    return min(fitting, key=size)
