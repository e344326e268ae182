"""Benchmarking: how long a bundle takes on LiteRT, alone or beside another one. Imports neither Keras nor TensorFlow.

Times are of this machine, so they say which of two files is the faster, not how fast a phone is: for that,
`tflite/python/run.py` prints the latency of the device that it runs on. LiteRT's Python API gives no times of single
operators (its profiler is in the C API alone), so there is no profile here.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes._litert.runtime import KERNELS
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits
from keras_notes._shared.checks import check_at_least, check_choice, received
from keras_notes._shared.text_table import align
from keras_notes.bundle import MANIFEST_FILE, Bundle, as_bundle

__all__ = ["BenchReport", "BenchRow", "Limits", "Ratio", "bench", "bundle_bytes"]

# The order of the rounds, and so the report but for its times, is the same in every run.
_SEED = 0


@dataclass(frozen=True)
class BenchRow:
    """The times of one bundle on a number of threads, in milliseconds, and its sizes in bytes.

    Attributes:
        bundle: "A" is the first bundle of the call, "B" the other one.
        name: Name of the model.
        load_ms: From the file to a model that is ready to run; median over the rounds.
        first_ms: The first invocation after that; median over the rounds.
        p50_ms: Median of the warm invocations of all rounds.
        p95_ms: Their 95th percentile.
        peak_bytes: Memory that loading and running add at most to a process that has run the file before: weights,
            activations and the runtime's tables, without LiteRT's own code; to some 100 KiB. None where the system
            does not say, as Linux does.
        model_bytes: Size of the .tflite file.
        bundle_bytes: Size of all files of the bundle.
    """

    bundle: str
    name: str
    recipe: str
    threads: int
    load_ms: float
    first_ms: float
    p50_ms: float
    p95_ms: float
    peak_bytes: int | None
    model_bytes: int
    bundle_bytes: int


@dataclass(frozen=True)
class Ratio:
    """p50 of A / p50 of B in each round: the median over the rounds, and their quartiles. Above 1, A is the slower."""

    threads: int
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured. `str(report)` is a table to read.

    Attributes:
        rows: One for each bundle and number of threads.
        ratios: One for each number of threads; empty unless two bundles were compared.
        repeat: Warm invocations of a bundle in a round.
    """

    kernels: str
    runtime_version: str
    machine: str
    cores: int
    repeat: int
    rounds: int
    rows: tuple[BenchRow, ...]
    ratios: tuple[Ratio, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        header = ("", "threads", "load ms", "first ms", "p50 ms", "p95 ms", "peak bytes", "file bytes", "bundle bytes")
        lines = [
            f"LiteRT {self.runtime_version} with {self.kernels} kernels on {self.machine}, {self.cores} cores; "
            f"{self.rounds} rounds of {self.repeat} invocations",
            *align([header, *map(_cells, self.rows)]),
        ]
        lines += [
            f"A/B with threads={ratio.threads}: {ratio.median:.3f} of the p50s, median of {self.rounds} rounds "
            f"(quartiles {ratio.lower:.3f} to {ratio.upper:.3f})"
            for ratio in self.ratios
        ]
        return "\n".join(lines)


def bench(
    bundle_or_directory: Bundle | str | os.PathLike[str],
    other: Bundle | str | os.PathLike[str] | None = None,
    *,
    threads: Sequence[int] = (1, 2),
    kernels: str = "xnnpack",
    repeat: int = 200,
    rounds: int = 5,
    limits: Limits = DEFAULT_LIMITS,
) -> BenchReport:
    """Measures how long a bundle takes, and which of two takes longer.

    Each round loads the file anew and runs the golden inputs of the first signature in turn; an invocation is timed
    alone, without the copies of its inputs and outputs. A round on one sample comes first and does not count. Two
    bundles take turns within each round, A B B A or B A A B by the toss of a seeded coin, so that a machine that grows
    slower meanwhile does so for both; their ratio is

        p50 of A / p50 of B

    in each round, and the report states its median and quartiles over the rounds.

    Args:
        bundle_or_directory: A bundle, or where it stands: A.
        other: Another one to compare it with: B. It may be of another model.
        threads: Numbers of threads to measure with, each >= 1.
        kernels: "xnnpack" (LiteRT's default), "builtin" or "reference".
        repeat: Warm invocations of a bundle in a round, >= 1.
        rounds: How often everything is repeated, >= 1.
        limits: The time and memory that the files may use.

    Returns:
        The `BenchReport`: times in milliseconds, sizes in bytes.

    Raises:
        BundleError: If a bundle is damaged, LiteRT cannot run it, crashes, or goes over a limit.
        ValueError: If an argument is out of its range.
        TypeError: If a count is not an integer.

    Example:
        report = bench("build/int8", "build/float32", threads=[1])
        print(report)                    # a table
        print(report.ratios[0].median)   # 0.5: the int8 file takes half the time
    """
    check_choice("kernels", kernels, KERNELS)
    repeat, rounds = check_at_least("repeat", repeat, 1), check_at_least("rounds", rounds, 1)
    counts = _checked_threads(threads)
    given = [bundle_or_directory] if other is None else [bundle_or_directory, other]
    runs = [_Run(letter, bundle, kernels, limits) for letter, bundle in zip("AB", given, strict=False)]
    rows: list[BenchRow] = []
    ratios: list[Ratio] = []
    for count in counts:
        measured = _rounds(runs, count, repeat, rounds)
        rows += [run.row(count, measured[run.letter]) for run in runs]
        if other is not None:
            ratios.append(_ratio(count, measured["A"], measured["B"]))
    return BenchReport(
        kernels=kernels,
        runtime_version=version("ai-edge-litert"),
        machine=f"{platform.system()} {platform.machine()}",
        cores=_cores(),
        repeat=repeat,
        rounds=rounds,
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def bundle_bytes(bundle: Bundle) -> int:
    """Size of all files of a bundle, the manifest included."""
    listed = sum(entry.bytes for entry in bundle.manifest.files.values())
    return listed + (bundle.directory / MANIFEST_FILE).stat().st_size


@dataclass(frozen=True)
class _Round:
    """What one round measured of one bundle."""

    load_ms: float
    first_ms: float
    peak_bytes: int | None
    warm_ms: np.ndarray


class _Run:
    """A bundle, and how to run it."""

    def __init__(self, letter: str, bundle: Bundle | str | os.PathLike[str], kernels: str, limits: Limits) -> None:
        self.letter = letter
        self._bundle = as_bundle(bundle)
        self._signature = self._bundle.manifest.signatures[0]
        self._inputs = self._bundle.golden(self._signature)[0]
        self._kernels = kernels
        self._limits = limits

    def round(self, threads: int, repeat: int) -> _Round:
        value, warm_ms = tflite_process.latencies(
            self._bundle.model_path, self._signature, self._inputs, self._kernels, threads, repeat, self._limits
        )
        peak = value["peak_bytes"]
        return _Round(value["load_ms"], value["first_ms"], None if peak is None else int(peak), warm_ms)

    def row(self, threads: int, rounds: Sequence[_Round]) -> BenchRow:
        p50_ms, p95_ms = np.percentile(np.concatenate([one.warm_ms for one in rounds]), [50, 95])
        peaks = [one.peak_bytes for one in rounds if one.peak_bytes is not None]
        manifest = self._bundle.manifest
        return BenchRow(
            bundle=self.letter,
            name=manifest.name,
            recipe=manifest.recipe,
            threads=threads,
            load_ms=float(np.median([one.load_ms for one in rounds])),
            first_ms=float(np.median([one.first_ms for one in rounds])),
            p50_ms=float(p50_ms),
            p95_ms=float(p95_ms),
            peak_bytes=max(peaks, default=None),
            model_bytes=self._bundle.model_bytes,
            bundle_bytes=bundle_bytes(self._bundle),
        )


def _rounds(runs: Sequence[_Run], threads: int, repeat: int, rounds: int) -> dict[str, list[_Round]]:
    """The rounds of each bundle by its letter, measured in turns."""
    for run in runs:
        run.round(threads, 1)
    measured: dict[str, list[_Round]] = {run.letter: [] for run in runs}
    for is_turned in _turns(rounds):
        for run in reversed(runs) if is_turned else runs:
            measured[run.letter].append(run.round(threads, repeat))
    return measured


def _turns(rounds: int) -> list[bool]:
    """Whether B comes first, for each round: A B B A or B A A B, by a coin for each two rounds."""
    coins = np.random.default_rng(_SEED).integers(0, 2, (rounds + 1) // 2)
    return [bool(coin) != second for coin in coins for second in (False, True)][:rounds]


def _ratio(threads: int, first: Sequence[_Round], second: Sequence[_Round]) -> Ratio:
    ratios = [np.median(a.warm_ms) / np.median(b.warm_ms) for a, b in zip(first, second, strict=True)]
    lower, median, upper = np.percentile(ratios, [25, 50, 75])
    return Ratio(threads, float(median), float(lower), float(upper))


def _checked_threads(threads: Any) -> list[int]:
    if isinstance(threads, str) or not isinstance(threads, Sequence):
        raise TypeError(f"`threads` must be a sequence of numbers, such as (1, 2). {received(threads=threads)}")
    if not threads or len(set(threads)) < len(threads):
        raise ValueError(f"`threads` must hold at least one number, and each once. {received(threads=threads)}")
    return [check_at_least("threads", count, 1) for count in threads]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cells(row: BenchRow) -> tuple[str, ...]:
    times = (f"{value:.4f}" for value in (row.load_ms, row.first_ms, row.p50_ms, row.p95_ms))
    sizes = ("-" if value is None else f"{value:,}" for value in (row.peak_bytes, row.model_bytes, row.bundle_bytes))
    return (f"{row.bundle} {row.name} ({row.recipe})", str(row.threads), *times, *sizes)
