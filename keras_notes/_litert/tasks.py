"""What the sandbox's worker does with a .tflite file, by name. Arguments and results are plain values and arrays."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_notes._litert.reader import read_tflite
from keras_notes._litert.runtime import Runtime
from keras_notes.bundle import SignatureEntry

__all__ = ["TASKS"]

Arrays = Mapping[str, np.ndarray]
Result = tuple[Any, Arrays]
Beat = Callable[..., None]

_SECONDS_BETWEEN_BEATS = 0.02


def describe(path: Path, arrays: Arrays, beat: Beat) -> Result:
    """What the file holds."""
    return dataclasses.asdict(read_tflite(path)), {}


def outputs(
    path: Path, arrays: Arrays, beat: Beat, *, signature: dict[str, Any], kernels: str, batch_size: int
) -> Result:
    """What a signature gives for samples."""
    runtime = Runtime(path, SignatureEntry.from_dict(signature), kernels)
    return None, runtime.outputs(arrays, batch_size, beat)


def latencies(
    path: Path, arrays: Arrays, beat: Beat, *, signature: dict[str, Any], kernels: str, threads: int, repeat: int
) -> Result:
    """Milliseconds that loading, the first invocation, and each of `repeat` more take; the memory that they add.

    An invocation is timed alone: neither the copy of its inputs nor that of its outputs counts. `peak_bytes` is None
    where the system does not say how much memory a process held at most.
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
    last_beat = start
    for run in range(repeat + 1):
        sample = {name: array[run % samples : run % samples + 1] for name, array in arrays.items()}
        runtime.interpreter.reset_all_variables()
        for name, values in runtime.feed(sample).items():
            native.SetTensor(indices[name], values, graph)
        start = time.perf_counter()
        native.Invoke(graph)
        end = time.perf_counter()
        elapsed.append(1000 * (end - start))
        # Each sign of life wakes the other process, which on a small machine takes time from the next invocation.
        if end - last_beat > _SECONDS_BETWEEN_BEATS:
            beat()
            last_beat = end
    value = {"load_ms": load_ms, "first_ms": elapsed[0], "peak_bytes": _added_bytes(before)}
    return value, {"warm_ms": np.array(elapsed[1:])}


def tensor_errors(
    path: Path, arrays: Arrays, beat: Beat, *, reference: str, signature: dict[str, Any], reference_signature: dict
) -> Result:
    """How far each tensor of the main graph is from the tensor of that name in a float file, over the samples.

    Both run on the builtin kernels, since XNNPACK keeps no inner tensors.
    """
    ours = _Tensors(path, signature)
    theirs = _Tensors(Path(reference), reference_signature)
    shared = [name for name in ours.indices if name in theirs.indices]
    sums: dict[str, dict[str, float]] = {}
    count = len(next(iter(arrays.values())))
    for index in range(count):
        sample = {name: array[index : index + 1] for name, array in arrays.items()}
        ours.run(sample)
        theirs.run(sample)
        for name in shared:
            _add_error(sums, name, ours.values(name), theirs.values(name))
        beat()
    return [{"name": name, **sums[name]} for name in shared if name in sums], {}


class _Tensors:
    """A signature that keeps the values of its inner tensors."""

    def __init__(self, path: Path, signature: dict[str, Any]) -> None:
        self._runtime = Runtime(path, SignatureEntry.from_dict(signature), "builtin", keeps_tensors=True)
        runner = self._runtime.interpreter.get_signature_runner(self._runtime.signature.name)
        self._graph = runner._subgraph_index  # private, but nothing public says it
        details = self._runtime.interpreter.get_tensor_details(self._graph)
        self._details = {detail["index"]: detail for detail in details}
        made = [index for operator in read_tflite(path).graphs[self._graph].operators for index in operator.outputs]
        self.indices = {self._details[index]["name"]: index for index in made if index in self._details}

    def run(self, sample: Arrays) -> None:
        self._runtime.outputs(sample, 1, lambda _: None)

    def values(self, name: str) -> tuple[np.ndarray, float | None] | None:
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


def _add_error(sums, name: str, ours, theirs) -> None:
    if ours is None or theirs is None:
        return
    (got, scale), (wanted, _) = ours, theirs
    if got.shape != wanted.shape or wanted.dtype.kind != "f":
        return
    error = got - wanted
    entry = sums.setdefault(
        name, {"scale": scale, "size": 0, "error_squares": 0.0, "squares": 0.0, "max_error": 0.0, "max_value": 0.0}
    )
    entry["size"] += error.size
    entry["error_squares"] += float(np.square(error).sum())
    entry["squares"] += float(np.square(wanted).sum())
    entry["max_error"] = max(entry["max_error"], float(np.abs(error).max(initial=0.0)))
    entry["max_value"] = max(entry["max_value"], float(np.abs(wanted).max(initial=0.0)))


def _forget_peak() -> int | None:
    """Starts the peak of this process's memory anew, at what it holds now, which it returns; None where it cannot.

    A worker that ran another file before has that file's peak, and memory that malloc keeps for the next one.
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
    """The most memory that this process held at once; None where the system does not say."""
    try:
        lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) * 1024 for line in lines if line[0] == "VmHWM:"), None)


TASKS: dict[str, Callable[..., Result]] = {
    task.__name__: task for task in (describe, outputs, latencies, tensor_errors)
}
