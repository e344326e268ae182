"""A worker process for .tflite files, so that a damaged file cannot harm the caller.

LiteRT is native code that trusts what it loads: a wrong offset can crash it, a wrong size can allocate gigabytes, and a
wrong loop may never end. So a worker with limits on CPU time and memory parses and runs the files; its death becomes a
`BundleError`. A worker is kept for the next file as long as nothing went wrong in LiteRT.
"""

from __future__ import annotations

import atexit
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np

from keras_notes._litert.messages import read_message, write_message
from keras_notes._shared.checks import check_at_least, check_positive, one_line
from keras_notes._shared.types import Config, Json
from keras_notes.errors import BundleError

__all__ = ["DEFAULT_LIMITS", "Limits", "run_task"]

_PROGRAM = Path(__file__).with_name("sandbox_worker.py")
_MIB, _GIB = 2**20, 2**30
# The tasks that run no native code on the content of the file.
_IN_PYTHON = ("describe",)
# A process that has closed its streams is about to end.
_SECONDS_TO_END = 5.0


@dataclass(frozen=True)
class Limits:
    """Time and memory that a .tflite file may use.

    Attributes:
        cpu_seconds: CPU time of one step (loading, or one sample) in seconds; one second is added per MiB of the file.
        memory_bytes: Address space beyond that of the worker itself.
        wall_seconds: Time between two heartbeats of the worker in seconds, for a file that waits without computing.

    Raises:
        ValueError: If a limit is not positive.
        TypeError: If a limit is not a number.

    Example:
        >>> Limits(cpu_seconds=60.0).memory_bytes
        4294967296
    """

    cpu_seconds: float = 5.0
    memory_bytes: int = 4 * _GIB
    wall_seconds: float = 120.0

    def __post_init__(self) -> None:
        check_positive("cpu_seconds", self.cpu_seconds)
        check_at_least("memory_bytes", self.memory_bytes, 1)
        check_positive("wall_seconds", self.wall_seconds)


DEFAULT_LIMITS = Limits()

Answer: TypeAlias = tuple[Config, dict[str, np.ndarray]]


def run_task(
    task: str,
    path: Path,
    arguments: Config,
    arrays: Mapping[str, np.ndarray],
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Json, dict[str, np.ndarray]]:
    """Runs a task of `sandbox_worker.py` on a .tflite file; returns its value and its arrays.

    Raises:
        BundleError: If the task refuses the file, or its process dies or goes over a limit.
    """
    cpu_seconds = limits.cpu_seconds + path.stat().st_size / _MIB
    request = {
        "task": task,
        "path": str(path),
        "arguments": dict(arguments),
        "cpu_seconds": cpu_seconds,
        "memory_bytes": limits.memory_bytes,
    }
    wall_seconds = max(limits.wall_seconds, 4 * cpu_seconds)
    with _lock:
        reply, results = _answer(path, request, arrays, wall_seconds)
    if "error" in reply:
        raise BundleError(one_line(f"{str(path)!r} {reply['error']}"))
    return reply["value"], results


_REMEDY = "If the file is sound, it needs more time or memory than `keras_notes.verification.Limits` grants it."


def _answer(path: Path, request: Config, arrays: Mapping[str, np.ndarray], wall_seconds: float) -> Answer:
    while True:
        worker = _usable_worker()
        try:
            reply, results = worker.ask(request, arrays, wall_seconds)
        except _NoAnswerError as error:
            worker.close()
            # The harm of an earlier file, and what happened to the worker while it was idle, show only now.
            if not worker.is_new and not error.is_over_a_limit:
                continue
            raise BundleError(one_line(f"LiteRT {error} on {str(path)!r}. {_REMEDY}")) from error
        except BaseException:
            worker.close()
            raise
        if "error" in reply and request["task"] not in _IN_PYTHON:
            worker.close()  # native code may be in a bad state after a bad file
        else:
            worker.is_new = False
            _idle.append(worker)
        return reply, results


class _NoAnswerError(Exception):
    """The worker gave no answer; the message says what it did instead."""

    def __init__(self, how: str, *, is_over_a_limit: bool = False) -> None:
        super().__init__(how)
        self.is_over_a_limit = is_over_a_limit


class _Worker:
    """A worker process.

    Attributes:
        is_new: Whether it has not answered a request yet.
    """

    def __init__(self) -> None:
        self.is_new = True
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - stderr of LiteRT, shown if it ends
        pipes: Config = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen([sys.executable, str(_PROGRAM)], bufsize=0, **pipes)
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        self._talk: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Config, arrays: Mapping[str, np.ndarray], wall_seconds: float) -> Answer:
        """Sends a request and returns its answer.

        Another thread talks to the worker, so that no read or write lasts longer than `wall_seconds`, wherever in a
        message the worker stops.
        """
        told: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
        self._talk = threading.Thread(target=self._exchange, args=(request, arrays, told.put), daemon=True)
        self._talk.start()
        is_begun = False
        while True:
            try:
                answer = told.get(timeout=wall_seconds)
            except queue.Empty:
                how = f"gave no sign of life for {wall_seconds:.3g} s"
                raise _NoAnswerError(how, is_over_a_limit=is_begun) from None
            if isinstance(answer, (EOFError, BrokenPipeError)):
                raise self._how_it_ended(request) from answer
            if isinstance(answer, ValueError):
                raise _NoAnswerError("gave an answer that cannot be read") from answer
            if isinstance(answer, Exception):
                raise answer
            if "heartbeat" not in answer[0]:
                return answer
            is_begun = True

    def _exchange(
        self, request: Config, arrays: Mapping[str, np.ndarray], tell: Callable[[Answer | Exception], None]
    ) -> None:
        try:
            write_message(self._requests, request, arrays)
            is_answered = False
            while not is_answered:
                answer = read_message(self._answers, request["memory_bytes"])
                is_answered = not answer[0].keys().isdisjoint(("value", "error"))
                if not is_answered and "heartbeat" not in answer[0]:
                    raise ValueError("An answer must be a value, an error or a sign of life.")
                tell(answer)
        except Exception as error:
            tell(error)

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        if self._talk is not None:
            # The thread may use a stream whose file number another file could take.
            self._talk.join(_SECONDS_TO_END)
        self._close_streams()

    def forget(self) -> None:
        """Releases a process that belongs to the parent of this fork."""
        self._process.returncode = 0
        self._close_streams()

    def _close_streams(self) -> None:
        self._requests.close()
        self._answers.close()
        self._log.close()

    def _how_it_ended(self, request: Config) -> _NoAnswerError:
        try:
            returncode = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return _NoAnswerError("closed its streams")
        if returncode == -getattr(signal, "SIGPROF", 0):
            return _NoAnswerError(
                f"computed for more than {request['cpu_seconds']:.3g} s in one step", is_over_a_limit=True
            )
        self._log.seek(0)
        output = self._log.read().decode(errors="replace")
        if "bad_alloc" in output:
            return _NoAnswerError(f"asked for more than {request['memory_bytes'] / _GIB:.3g} GiB of memory")
        if returncode < 0:
            return _NoAnswerError(f"crashed with {_signal_name(-returncode)}")
        last = " ".join(output.strip().splitlines()[-1:])
        return _NoAnswerError(f"ended without an answer ({last or f'exit code {returncode}'})")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


_idle: list[_Worker] = []
_lock = threading.Lock()


def _usable_worker() -> _Worker:
    while _idle:
        worker = _idle.pop()
        if worker.is_alive:
            return worker
        worker.close()
    return _Worker()


def _end_workers() -> None:
    while _idle:
        _idle.pop().close()


def _forget_workers() -> None:
    """Drops all workers in a fork: they answer the parent, and a thread that is not here may hold the lock."""
    global _lock
    _lock = threading.Lock()
    while _idle:
        _idle.pop().forget()


atexit.register(_end_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
