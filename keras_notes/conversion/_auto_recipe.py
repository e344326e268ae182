"""The recipe "auto": converts by each recipe that fits, measures the files on this machine, and chooses the best."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_notes._shared.checks import check_choice, check_non_negative, one_line, received
from keras_notes._shared.sample_sources import is_pair, is_source
from keras_notes._shared.types import ArrayLike
from keras_notes.benchmarking import bench
from keras_notes.bundle import CANDIDATES_FILE, Bundle, Candidate, Choice, write_bundle
from keras_notes.conversion._bundle_builder import BundleBuilder, BundleContent
from keras_notes.conversion._recipes import RecipeByLayer
from keras_notes.errors import BundleError, ConversionError, VerificationError
from keras_notes.verification import Report, verify

__all__ = ["Criteria", "choose_best"]

_log = logging.getLogger(__name__)
# The kernels of phones; "reference" is an oracle.
_KERNELS = ("xnnpack", "builtin")
_PREFERENCES = ("bytes", "latency")
# For "bytes": a file that is so little larger than the smallest is taken if the smallest takes so much longer.
_SIMILAR_BYTES, _MUCH_SLOWER = 1.25, 2.0
# Runs take turns, so that a machine that becomes slower does so for all.
_ROUNDS, _REPEAT = 5, 20
# A budget is a decimal number, which a binary one misses by its last bits.
_LAST_BITS = 1e-9
# Of two latencies that differ by less, the smaller file counts: medians of a few rounds say no more.
_SAME_LATENCY = 1.05


@dataclass(frozen=True)
class Criteria:
    """The criteria for the best file: see `convert`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has another type.
    """

    validation_data: ArrayLike | None
    accuracy_budget: float
    prefer: str

    def __post_init__(self) -> None:
        check_non_negative("accuracy_budget", self.accuracy_budget)
        check_choice("prefer", self.prefer, _PREFERENCES)
        data = self.validation_data
        if data is not None and not is_pair(data) and not is_source(data, None):
            raise TypeError(
                f"`validation_data` must be inputs and their class ids, (x, y), or a dataset of them. "
                f"{received(validation_data=type(self.validation_data).__name__)}"
            )


class _Validation(NamedTuple):
    """Samples by input name, their class ids, and the accuracy of the trained model on them."""

    samples: dict[str, np.ndarray]
    labels: np.ndarray
    model_accuracy: float


@dataclass
class _Run:
    """A file on a set of kernels, and its measurements so far."""

    recipes: RecipeByLayer
    kernels: str
    content: BundleContent | None = None
    bundle: Bundle | None = None
    report: Report | None = None
    loss: float | None = None
    p50_ms: float | None = None
    reason: str = ""

    def to_candidate(self) -> Candidate:
        return Candidate(
            recipe=self.recipes.default.name,
            kernels=self.kernels,
            bytes=None if self.bundle is None else self.bundle.model_bytes,
            p50_ms=self.p50_ms,
            accuracy=None if self.report is None else self.report.accuracy,
            loss=self.loss,
            reason=self.reason,
        )


def choose_best(
    builder: BundleBuilder, candidates: Sequence[RecipeByLayer], edges: str, criteria: Criteria
) -> BundleContent:
    """Returns the content of the bundle with the best file, candidates.json included.

    Raises:
        ConversionError: If no file is within the budget; the message holds the table.
        ValueError: If the validation data do not fit the model.
    """
    validation = None
    if criteria.validation_data is not None:
        labelled = builder.check_labelled(criteria.validation_data)
        validation = _Validation(*labelled, model_accuracy=builder.measure_accuracy(*labelled))
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        runs = [run for recipes in candidates for run in _convert(builder, recipes, edges, Path(directory))]
        for run in runs:
            _verify(run, criteria, validation)
        _measure_latency([run for run in runs if run.report is not None])
    fitting = [index for index, run in enumerate(runs) if not run.reason]
    best = _best_of(runs, fitting, criteria.prefer) if fitting else -1
    golden_samples = next((run.report.golden_samples for run in runs if run.report is not None), 0)
    choice = Choice(
        accuracy_budget=criteria.accuracy_budget,
        prefer=criteria.prefer,
        model_accuracy=None if validation is None else validation.model_accuracy,
        samples=golden_samples if validation is None else len(validation.labels),
        candidates=tuple(run.to_candidate() for run in runs),
        chosen=best,
    )
    content = runs[best].content
    if not fitting or content is None:
        raise ConversionError(f"A file of {builder.name!r} must be within the accuracy budget. Received:\n{choice}")
    _log.info("the best is %s on %s kernels\n%s", runs[best].recipes.default.name, runs[best].kernels, choice)
    manifest, files = content
    table = json.dumps(choice.to_dict(), indent=1) + "\n"
    return manifest, {**files, CANDIDATES_FILE: table.encode()}


def _convert(builder: BundleBuilder, recipes: RecipeByLayer, edges: str, directory: Path) -> Iterator[_Run]:
    """Yields the file of a recipe once for each set of kernels; or the reason why there is no file."""
    try:
        content = builder.build(recipes, edges)
        bundle = write_bundle(directory / recipes.default.name, *content)
    except (BundleError, ConversionError) as error:  # LiteRT cannot load a file, or there is none
        _log.info("there is no file by %s: %s", recipes.default.name, one_line(str(error)))
        yield from (_Run(recipes, kernels, reason=one_line(str(error))) for kernels in _KERNELS)
        return
    yield from (_Run(recipes, kernels, content, bundle) for kernels in _KERNELS)


def _verify(run: _Run, criteria: Criteria, validation: _Validation | None) -> None:
    """Compares the outputs of a file with those of the trained model; sets `report`, `loss` and `reason`."""
    if run.bundle is None:
        return
    _log.info("verifying %s on %s kernels", run.recipes.default.name, run.kernels)
    x, y = (None, None) if validation is None else (validation.samples, validation.labels)
    try:
        run.report = verify(run.bundle, x, y, kernels=run.kernels)
    except VerificationError as error:
        run.report, run.reason = error.report, "; ".join(error.report.failures)
    except BundleError as error:  # kernels that cannot run the file
        run.reason = one_line(str(error))
        return
    if validation is None or run.report.accuracy is None:
        run.loss = _error_share(run.bundle, run.report)
    else:
        # Of counts: the difference of two shares can be more than the share of their difference.
        count = len(validation.labels)
        run.loss = (round(validation.model_accuracy * count) - round(run.report.accuracy * count)) / count
    if not run.reason and not run.loss <= criteria.accuracy_budget * (1 + _LAST_BITS):
        run.reason = "over the budget"


def _error_share(bundle: Bundle, report: Report) -> float:
    """Returns the largest root mean square error of an output, as a share of that output's standard deviation."""
    golden = {
        (entry.name, name): values
        for entry in bundle.manifest.signatures
        for name, values in bundle.golden(entry)[1].items()
    }
    # An output that is constant has no spread; its own size says how large an error is.
    spreads = {key: float(np.std(values) or np.abs(values).max() or 1.0) for key, values in golden.items()}
    return max(output.rms_error / spreads[output.signature, output.name] for output in report.outputs)


def _measure_latency(runs: Sequence[_Run]) -> None:
    """Measures the latency of each run, in turns."""
    _log.info("measuring %d candidates, %d rounds", len(runs), _ROUNDS)
    latencies: list[list[float]] = [[] for _ in runs]
    for number in range(_ROUNDS):
        order = list(zip(runs, latencies, strict=True))
        for run, measured in order if number % 2 == 0 else reversed(order):
            if run.bundle is not None:
                report = bench(run.bundle, threads=(1,), kernels=run.kernels, repeat=_REPEAT, rounds=1)
                measured.append(report.rows[0].p50_ms)
    for run, measured in zip(runs, latencies, strict=True):
        run.p50_ms = float(np.median(measured))


def _best_of(runs: Sequence[_Run], fitting: Sequence[int], prefer: str) -> int:
    """Returns the index of the best of the runs that fit."""

    def size(index: int) -> tuple[float, float]:
        candidate = runs[index].to_candidate()
        return (candidate.bytes or 0, candidate.p50_ms or 0.0)

    slowdown = _SAME_LATENCY
    if prefer == "bytes":
        limit = _SIMILAR_BYTES * min(size(index)[0] for index in fitting)
        fitting = [index for index in fitting if size(index)[0] <= limit]
        slowdown = _MUCH_SLOWER
    fastest = min(runs[index].p50_ms or 0.0 for index in fitting)
    return min((index for index in fitting if (runs[index].p50_ms or 0.0) <= slowdown * fastest), key=size)
