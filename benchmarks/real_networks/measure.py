"""Measurements of one network: the files of both converters, their errors on test data, and their latency in turns."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import keras_notes as kn
from benchmarks.real_networks.convert_plain import SIGNATURE
from benchmarks.real_networks.network import Network

# LSTMs are converted by TensorFlow's converter for minutes, or never.
PLAIN_SECONDS = 300
ROUNDS, SECONDS_A_ROUND = 15, 0.05
# An output that is nearly constant on the test data has no scale of its own.
_SMALLEST_DEVIATION = 1e-12


@dataclass
class FileResult:
    """The figures of one file.

    Attributes:
        converter: "convert" or "plain".
        recipe: The number format.
        seconds: The time of the conversion; the plain converter's program begins with TensorFlow's import.
        bytes: The size of the .tflite file.
        rms: The root mean square error on the test data of each output, as a share of its standard deviation.
        largest: The largest error, likewise.
        agreement: Share of the test data's answers (of each place, in a map) whose class is that of the float model.
        verdict: "ok" or "refused" of `verify`, and why; "" for the plain converter's file.
        reason: Why there is no file, or why it does not run; "" if it runs.
    """

    converter: str
    recipe: str
    seconds: float = 0.0
    bytes: int = 0
    rms: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    agreement: float | None = None
    verdict: str = ""
    reason: str = ""


@dataclass
class Comparison:
    """A file of `convert` beside the plain converter's, by one recipe.

    Attributes:
        ours: The figures of `convert`.
        plain: The figures of the plain converter.
        latency: Median, lower and upper quartile of ours / plain over the rounds; () unless both run.
    """

    ours: FileResult
    plain: FileResult
    latency: tuple[float, ...] = ()


def compare_files(network: Network, recipe: str, directory: Path, *, with_latency: bool = True) -> Comparison:
    """Converts a network by both converters, and measures the files.

    Args:
        network: The network.
        recipe: The number format.
        directory: A directory for the files, which is created if it is missing.
        with_latency: Whether the latencies are measured too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    expected = [np.asarray(output) for output in keras.tree.flatten(network.model.predict(network.test, verbose=0))]
    ours, path = convert_ours(network, recipe, directory)
    if path is None:
        return Comparison(ours, FileResult("plain", recipe, reason="not converted: nothing to compare it with"))
    plain, plain_path = convert_plain(network, recipe, directory)
    for result, file in ((ours, path), (plain, plain_path)):
        if file is not None:
            _measure_errors(result, file, network, expected)
    comparison = Comparison(ours, plain)
    if with_latency and plain_path and not ours.reason and not plain.reason:
        comparison.latency = measure_ratio(path, plain_path, network.test[:8])
    return comparison


def convert_ours(network: Network, recipe: str, directory: Path) -> tuple[FileResult, Path | None]:
    """Converts by `convert`; returns the figures, with the verdict of `verify`, and the file."""
    result = FileResult("convert", recipe)
    samples = {"calibration" if recipe in ("static_int8", "int16x8") else "golden": network.calibration}
    if "golden" in samples:
        samples["golden"] = network.calibration[:32]
    start = time.perf_counter()
    try:
        bundle = kn.convert(network.model, directory / f"{recipe}_bundle", recipe, **samples)
    except kn.errors.KerasNotesError as error:
        result.reason = _one_line(error)
        return result, None
    result.seconds = time.perf_counter() - start
    result.bytes = bundle.model_bytes
    try:
        kn.verify(bundle)
        result.verdict = "ok"
    except kn.errors.KerasNotesError as error:
        result.verdict = f"refused: {_one_line(error)}"
    return result, bundle.model_path


def convert_plain(network: Network, recipe: str, directory: Path) -> tuple[FileResult, Path | None]:
    """Converts by TensorFlow's converter alone, from a graph with a batch of 1; returns the figures and the file."""
    result, saved = FileResult("plain", recipe), directory / "saved_model"
    if not saved.exists():
        _save(network.model, saved)
        np.save(directory / "calibration.npy", network.calibration)
    program = [sys.executable, str(Path(__file__).with_name("convert_plain.py")), str(directory), recipe]
    start = time.perf_counter()
    try:
        run = subprocess.run(program, capture_output=True, text=True, check=False, timeout=PLAIN_SECONDS)
        if run.returncode != 0:
            lines = run.stderr.strip().splitlines()
            result.reason = _one_line(lines[-1] if run.returncode > 0 and lines else f"exit code {run.returncode}")
    except subprocess.TimeoutExpired:
        result.reason = f"longer than {PLAIN_SECONDS} s"
    result.seconds = time.perf_counter() - start
    if result.reason:
        return result, None
    path = directory / f"{recipe}.tflite"
    result.bytes = path.stat().st_size
    return result, path


def _save(model: keras.Model, directory: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = keras.InputSpec(shape=(1, *model.inputs[0].shape[1:]), dtype=model.inputs[0].dtype, name="x")

    def serve(x):
        return {f"output_{i}": y for i, y in enumerate(keras.tree.flatten(model(x, training=False)))}

    archive.add_endpoint(SIGNATURE, serve, input_signature=[spec])
    with contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(str(directory), verbose=False)


def _measure_errors(result: FileResult, path: Path, network: Network, expected: list[np.ndarray]) -> None:
    """Adds errors and agreement to the figures, or why the file does not run."""
    try:
        outputs = run_file(path, network.test, [array.shape[1:] for array in expected])
    except (RuntimeError, ValueError) as error:
        result.reason = f"does not run: {_one_line(error)}"
        return
    for actual, exact in zip(outputs, expected, strict=True):
        error, deviation = actual - exact, max(float(exact.std()), _SMALLEST_DEVIATION)
        result.rms.append(float(np.sqrt(np.square(error).mean())) / deviation)
        result.largest.append(float(np.abs(error).max()) / deviation)
        if exact.shape[-1] == network.classes:
            result.agreement = float((actual.argmax(-1) == exact.argmax(-1)).mean())


def run_file(path: Path, x: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Runs a file on samples, one by one; returns its outputs in the order of the shapes, which must differ.

    Raises:
        RuntimeError: If LiteRT cannot open the file or run it.
        ValueError: If it has no output of a shape.
    """
    interpreter = _open(path)
    source, details = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()
    order = [next(d["index"] for d in details if tuple(d["shape"][1:]) == shape) for shape in shapes]
    outputs: list[list[np.ndarray]] = [[] for _ in order]
    for sample in x:
        interpreter.set_tensor(source, sample[None])
        interpreter.invoke()
        for values, index in zip(outputs, order, strict=True):
            values.append(interpreter.get_tensor(index))
    return [np.concatenate(values).astype(np.float64) for values in outputs]


def measure_ratio(path: Path, plain: Path, x: np.ndarray) -> tuple[float, float, float]:
    """Runs two files in turns on one thread; returns median and quartiles of the ratio of their median times."""
    runs = [_timed(_open(file), x) for file in (path, plain)]
    single = max(run() for run in runs for _ in range(3))
    repeat = int(np.clip(SECONDS_A_ROUND / single, 3, 200))
    ratios = []
    for number in range(ROUNDS):
        times: list[list[float]] = [[], []]
        for _ in range(repeat):
            for place in (0, 1) if number % 2 else (1, 0):
                times[place].append(runs[place]())
        ratios.append(np.median(times[0]) / np.median(times[1]))
    lower, median, upper = np.percentile(ratios, [25, 50, 75])
    return float(median), float(lower), float(upper)


def _timed(interpreter: Interpreter, x: np.ndarray) -> Callable[[], float]:
    """Returns a function that runs the next sample and returns the seconds that it takes."""
    source, position = interpreter.get_input_details()[0]["index"], 0

    def run() -> float:
        nonlocal position
        position += 1
        interpreter.set_tensor(source, x[position % len(x)][None])
        start = time.perf_counter()
        interpreter.invoke()
        return time.perf_counter() - start

    return run


def _open(path: Path) -> Interpreter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _one_line(error: object) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:400]


def measure_network(network: Network, recipes: Sequence[str]) -> list[Comparison]:
    """Compares the files of a network by each recipe."""
    with tempfile.TemporaryDirectory(prefix="real_network_") as directory:
        return [compare_files(network, recipe, Path(directory)) for recipe in recipes]
