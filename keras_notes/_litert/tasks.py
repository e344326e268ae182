"""The tasks of the sandbox's worker on a .tflite file, by name. Arguments and results are plain values and arrays."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from keras_notes._litert.reader import read_tflite
from keras_notes._litert.runtime import Runtime
from keras_notes._shared.types import Config, Json
from keras_notes.bundle import SignatureEntry

__all__ = ["TASKS"]

Arrays: TypeAlias = Mapping[str, np.ndarray]
Result: TypeAlias = tuple[Json, Arrays]
Heartbeat: TypeAlias = Callable[..., None]

_SECONDS_BETWEEN_HEARTBEATS = 0.02


def describe(path: Path, arrays: Arrays, heartbeat: Heartbeat) -> Result:
    """Returns the content of the file, as `TfliteFile.from_dict` takes it."""
    return dataclasses.asdict(read_tflite(path)), {}


def outputs(
    path: Path, arrays: Arrays, heartbeat: Heartbeat, *, signature: Config, kernels: str, batch_size: int
) -> Result:
    """Returns the outputs of a signature for samples."""
    runtime = Runtime(path, SignatureEntry.from_dict(signature), kernels)
    return None, runtime.outputs(arrays, batch_size, heartbeat)


def latencies(
    path: Path, arrays: Arrays, heartbeat: Heartbeat, *, signature: Config, kernels: str, threads: int, repeat: int
) -> Result:
    """Returns the milliseconds of loading, of the first invocation and of `repeat` more, and the memory that they add.

    Only the invocation is timed, without the copies of inputs and outputs. `peak_bytes` is None where the system does
    not report the peak memory of a process.
    """
    before = _forget_peak()
    start = time.perf_counter()
    runtime = Runtime(path, SignatureEntry.from_dict(signature), kernels, threads)
    runner = runtime.interpreter.get_signature_runner(runtime.signature.name)
    # Private, but what is public either copies inputs and outputs in the same call, or runs the first graph only.
    native, graph, indices = runner._interpreter_wrapper, runner._subgraph_index, runner._inputs
    native.AllocateTensors(graph)
    load_ms = 1000 * (time.perf_counter() - start)
    samples = len(next(iter(arrays.values())))
    elapsed = []
    last_heartbeat = start
    for run in range(repeat + 1):
        sample = {name: array[run % samples : run % samples + 1] for name, array in arrays.items()}
        runtime.interpreter.reset_all_variables()
        for name, values in runtime.feed(sample).items():
            native.SetTensor(indices[name], values, graph)
        start = time.perf_counter()
        native.Invoke(graph)
        end = time.perf_counter()
        elapsed.append(1000 * (end - start))
        # Each heartbeat wakes the other process, which on a small machine takes time from the next invocation.
        if end - last_heartbeat > _SECONDS_BETWEEN_HEARTBEATS:
            heartbeat()
            last_heartbeat = end
    value = {"load_ms": load_ms, "first_ms": elapsed[0], "peak_bytes": _added_bytes(before)}
    return value, {"warm_ms": np.array(elapsed[1:])}


def tensor_errors(
    path: Path, arrays: Arrays, heartbeat: Heartbeat, *, reference: str, signature: Config, reference_signature: Config
) -> Result:
    """Returns the error of each tensor against the tensor of the same name in a float file, over the samples.

    Both run on the builtin kernels, since XNNPACK keeps no inner tensors.
    """
    ours = _Tensors(path, signature)
    theirs = _Tensors(Path(reference), reference_signature)
    shared = [name for name in ours.indices if name in theirs.indices]
    sums: dict[str, Config] = {}
    count = len(next(iter(arrays.values())))
    for index in range(count):
        sample = {name: array[index : index + 1] for name, array in arrays.items()}
        ours.run(sample)
        theirs.run(sample)
        for name in shared:
            _add_error(sums, name, ours.values(name), theirs.values(name))
        heartbeat()
    return [{"name": name, **sums[name]} for name in shared if name in sums], {}


Values: TypeAlias = tuple[np.ndarray, float | None]
"""Dequantized values of a tensor, and its scale; None with several scales or without any."""


class _Tensors:
    """A signature that keeps the values of its inner tensors."""

    def __init__(self, path: Path, signature: Config) -> None:
        self._runtime = Runtime(path, SignatureEntry.from_dict(signature), "builtin", keeps_tensors=True)
        runner = self._runtime.interpreter.get_signature_runner(self._runtime.signature.name)
        self._graph = runner._subgraph_index  # private, but there is no public way
        details = self._runtime.interpreter.get_tensor_details(self._graph)
        self._details = {detail["index"]: detail for detail in details}
        results = [index for operator in read_tflite(path).graphs[self._graph].operators for index in operator.outputs]
        self.indices = {self._details[index]["name"]: index for index in results if index in self._details}

    def run(self, sample: Arrays) -> None:
        self._runtime.outputs(sample, 1, lambda _: None)

    def values(self, name: str) -> Values | None:
        index = self.indices[name]
        try:
            values = self._runtime.interpreter.get_tensor(index, self._graph)
        except ValueError:  # a result of a loop that nothing uses is never computed
            return None
        scales = self._details[index]["quantization_parameters"]["scales"]
        if len(scales) != 1:
            return values.astype(np.float64), None
        zero_point = self._details[index]["quantization_parameters"]["zero_points"][0]
        return (values.astype(np.float64) - zero_point) * scales[0], float(scales[0])


def _add_error(sums: dict[str, Config], name: str, ours: Values | None, theirs: Values | None) -> None:
    if ours is None or theirs is None:
        return
    (actual, scale), (expected, _) = ours, theirs
    if actual.shape != expected.shape or expected.dtype.kind != "f":
        return
    error = actual - expected
    entry = sums.setdefault(
        name, {"scale": scale, "size": 0, "error_squares": 0.0, "squares": 0.0, "max_error": 0.0, "max_value": 0.0}
    )
    entry["size"] += error.size
    entry["error_squares"] += float(np.square(error).sum())
    entry["squares"] += float(np.square(expected).sum())
    entry["max_error"] = max(entry["max_error"], float(np.abs(error).max(initial=0.0)))
    entry["max_value"] = max(entry["max_value"], float(np.abs(expected).max(initial=0.0)))


def _forget_peak() -> int | None:
    """Resets the peak memory of this process to its current memory, and returns that; None where it cannot be reset.

    A worker that ran another file has the peak of that file, and memory that malloc keeps.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _peak_bytes()


def _added_bytes(before: int | None) -> int | None:
    peak = _peak_bytes()
    return None if before is None or peak is None else peak - before


def _peak_bytes() -> int | None:
    """Returns the peak memory of this process; None where the system does not report it."""
    try:
        lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) * 1024 for line in lines if line[0] == "VmHWM:"), None)


TASKS: dict[str, Callable[..., Result]] = {
    task.__name__: task for task in (describe, outputs, latencies, tensor_errors)
}
