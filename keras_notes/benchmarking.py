"""Benchmarking: the latency of a bundle on LiteRT, alone or compared with another bundle.

Times are those of this machine: they show which of two files is faster, not how fast a phone is. For that,
`tflite/python/run.py` prints the latency of the device that it runs on. LiteRT's Python API does not give the times of
single operators (its profiler is in the C API only), so there is no profile here. This module imports neither Keras nor
TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes._litert.runtime import KERNELS
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits
from keras_notes._shared.checks import check_at_least, check_choice, received
from keras_notes._shared.text_table import align
from keras_notes._shared.types import Config
from keras_notes.bundle import MANIFEST_FILE, Bundle, as_bundle

__all__ = ["BenchReport", "BenchRow", "Limits", "Ratio", "bench", "bundle_bytes"]

# The order of the rounds is the same in every run.
_SEED = 0


@dataclass(frozen=True)
class BenchRow:
    """The times of one bundle on a number of threads, in milliseconds, and its sizes in bytes.

    Attributes:
        bundle: "A" for the first bundle of the call, "B" for the other one.
        name: Name of the model.
        recipe: Recipe of the bundle.
        threads: Number of threads.
        load_ms: Time from the file to a model that is ready to run; median over the rounds.
        first_ms: Time of the first invocation after that; median over the rounds.
        p50_ms: Median of the warm invocations of all rounds.
        p95_ms: 95th percentile of the warm invocations of all rounds.
        peak_bytes: Peak memory that loading and running add to a process that has run the file before: weights,
            activations and tables of the runtime, without LiteRT's own code; accurate to about 100 KiB. None on systems
            other than Linux that do not report it.
        model_bytes: Size of the .tflite file.
        bundle_bytes: Size of all files of the bundle.

    Example:
        >>> report = bench("tflite/testdata/bars_static_int8", threads=[1], repeat=10, rounds=2)
        >>> (row,) = report.rows
        >>> row.name, row.threads, row.model_bytes, 0 < row.p50_ms <= row.p95_ms
        ('bars', 1, 3999, True)
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
    """The ratio p50 of A / p50 of B over the rounds; above 1, A is slower.

    Attributes:
        threads: Number of threads.
        median: Median over the rounds.
        lower: Lower quartile over the rounds.
        upper: Upper quartile over the rounds.

    Example:
        A bundle against itself:

        >>> directory = "tflite/testdata/bars_static_int8"
        >>> report = bench(directory, directory, threads=[1], repeat=10, rounds=2)
        >>> (ratio,) = report.ratios
        >>> ratio.threads, 0 < ratio.lower <= ratio.median <= ratio.upper
        (1, True)
    """

    threads: int
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class BenchReport:
    """The result of `bench`. `str(report)` is a table to read.

    Attributes:
        kernels: Set of kernels that the files ran on.
        runtime_version: Version of LiteRT.
        machine: System and processor.
        cores: Number of cores that the process may use.
        repeat: Number of warm invocations of a bundle in a round.
        rounds: Number of rounds.
        rows: Times by bundle and number of threads.
        ratios: Ratios of A to B by number of threads; () unless two bundles were compared.

    Example:
        >>> report = bench("tflite/testdata/bars_static_int8", threads=[1], repeat=10, rounds=2)
        >>> report.kernels, report.repeat, report.rounds, len(report.rows), report.ratios
        ('xnnpack', 10, 2, 1, ())
    """

    kernels: str
    runtime_version: str
    machine: str
    cores: int
    repeat: int
    rounds: int
    rows: tuple[BenchRow, ...]
    ratios: tuple[Ratio, ...]

    def to_dict(self) -> Config:
        """Returns the report as plain values, for JSON.

        Example:
            >>> report = bench("tflite/testdata/bars_static_int8", threads=[1], repeat=10, rounds=2)
            >>> values = report.to_dict()
            >>> values["kernels"], values["rows"][0]["recipe"]
            ('xnnpack', 'static_int8')
        """
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
    """Measures the latency and memory of a bundle, or compares two.

    Each round loads the file again and runs the golden inputs of the first signature in turn; only the invocations are
    timed, without the copies of inputs and outputs. A round on one sample comes first and does not count. Two bundles
    take turns within each round, in the order A B B A or B A A B by a seeded coin, so that a machine that slows down
    does so for both. Their ratio is

        p50 of A / p50 of B

    in each round, and the report has its median and quartiles over the rounds.

    Args:
        bundle_or_directory: A bundle, or its folder: A.
        other: Another bundle, or its folder, to compare with: B. It may hold another model.
        threads: Numbers of threads to measure with, each >= 1.
        kernels: "xnnpack" (LiteRT's default), "builtin" or "reference".
        repeat: Number of warm invocations of a bundle in a round, >= 1.
        rounds: Number of rounds, >= 1.
        limits: Time and memory that the files may use.

    Returns:
        The `BenchReport`: times in milliseconds, sizes in bytes.

    Raises:
        BundleError: If a bundle is damaged, or LiteRT cannot run it, crashes, or exceeds a limit.
        ValueError: If an argument is out of its range.
        TypeError: If a count is not an integer.

    Example:
        >>> report = bench("tflite/testdata/bars_static_int8", threads=[1, 2], repeat=10, rounds=2)
        >>> [(row.name, row.threads, row.p50_ms < 1000) for row in report.rows]
        [('bars', 1, True), ('bars', 2, True)]
    """
    check_choice("kernels", kernels, KERNELS)
    repeat, rounds = check_at_least("repeat", repeat, 1), check_at_least("rounds", rounds, 1)
    counts = _check_threads(threads)
    bundles = [bundle_or_directory] if other is None else [bundle_or_directory, other]
    runs = [_Run(letter, bundle, kernels, limits) for letter, bundle in zip("AB", bundles, strict=False)]
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
    """Returns the size of all files of a bundle, the manifest included.

    Args:
        bundle: The bundle.

    Returns:
        The size in bytes.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> bundle_bytes(bundle) > bundle.model_bytes
        True
    """
    listed = sum(entry.bytes for entry in bundle.manifest.files.values())
    return listed + (bundle.directory / MANIFEST_FILE).stat().st_size


@dataclass(frozen=True)
class _Round:
    """The measurements of one bundle in one round."""

    load_ms: float
    first_ms: float
    peak_bytes: int | None
    warm_ms: np.ndarray


class _Run:
    """A bundle with its kernels and limits, ready to measure."""

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
        p50_ms, p95_ms = np.percentile(np.concatenate([measured.warm_ms for measured in rounds]), [50, 95])
        peaks = [measured.peak_bytes for measured in rounds if measured.peak_bytes is not None]
        manifest = self._bundle.manifest
        return BenchRow(
            bundle=self.letter,
            name=manifest.name,
            recipe=manifest.recipe,
            threads=threads,
            load_ms=float(np.median([measured.load_ms for measured in rounds])),
            first_ms=float(np.median([measured.first_ms for measured in rounds])),
            p50_ms=float(p50_ms),
            p95_ms=float(p95_ms),
            peak_bytes=max(peaks, default=None),
            model_bytes=self._bundle.model_bytes,
            bundle_bytes=bundle_bytes(self._bundle),
        )


def _rounds(runs: Sequence[_Run], threads: int, repeat: int, rounds: int) -> dict[str, list[_Round]]:
    """Measures the bundles in turns; returns the rounds of each by its letter."""
    for run in runs:
        run.round(threads, 1)
    measured: dict[str, list[_Round]] = {run.letter: [] for run in runs}
    for is_turned in _turns(rounds):
        for run in reversed(runs) if is_turned else runs:
            measured[run.letter].append(run.round(threads, repeat))
    return measured


def _turns(rounds: int) -> list[bool]:
    """Returns for each round whether B comes first: A B B A or B A A B, by a coin for each two rounds."""
    coins = np.random.default_rng(_SEED).integers(0, 2, (rounds + 1) // 2)
    return [bool(coin) != second for coin in coins for second in (False, True)][:rounds]


def _ratio(threads: int, first: Sequence[_Round], second: Sequence[_Round]) -> Ratio:
    ratios = [np.median(a.warm_ms) / np.median(b.warm_ms) for a, b in zip(first, second, strict=True)]
    lower, median, upper = np.percentile(ratios, [25, 50, 75])
    return Ratio(threads, float(median), float(lower), float(upper))


def _check_threads(threads: Sequence[int]) -> list[int]:
    if isinstance(threads, str) or not isinstance(threads, Sequence):
        raise TypeError(f"`threads` must be a sequence of numbers, such as (1, 2). {received(threads=threads)}")
    if not threads or len(set(threads)) < len(threads):
        raise ValueError(f"`threads` must hold at least one number, and each once. {received(threads=threads)}")
    return [check_at_least("threads", count, 1) for count in threads]


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cells(row: BenchRow) -> tuple[str, ...]:
    times = (f"{value:.4f}" for value in (row.load_ms, row.first_ms, row.p50_ms, row.p95_ms))
    sizes = ("-" if value is None else f"{value:,}" for value in (row.peak_bytes, row.model_bytes, row.bundle_bytes))
    return (f"{row.bundle} {row.name} ({row.recipe})", str(row.threads), *times, *sizes)
