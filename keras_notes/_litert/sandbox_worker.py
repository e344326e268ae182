"""The process that parses and runs .tflite files; a program, started by `sandbox.py`.

Answers requests on stdin, one after the other, on stdout. While a task runs, each of its steps sends a heartbeat and
restarts the clock of CPU time; when that runs out, SIGPROF ends the process.
"""

import contextlib
import os
import signal
import sys
import types
from pathlib import Path
from typing import BinaryIO

if "keras_notes" not in sys.modules:
    _folder = Path(__file__).parent
    # The modules of this folder must not hide others of the same names.
    sys.path[:] = [path for path in sys.path if path != str(_folder)]
    # Importing the package would import Keras and its backend, which nothing here needs, and take seconds.
    _package = types.ModuleType("keras_notes")
    _package.__path__ = [str(_folder.parent)]
    sys.modules["keras_notes"] = _package

from keras_notes._litert.messages import read_message, write_message
from keras_notes._litert.tasks import TASKS
from keras_notes.errors import BundleError

# The most that LiteRT may print.
_MAX_BYTES_WRITTEN = 2**24


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers requests until there are no more."""
    while True:
        try:
            request, arrays = read_message(requests)
        except EOFError:
            return
        limit_memory(request["memory_bytes"])

        def heartbeat(steps: int = 1, seconds: float = request["cpu_seconds"]) -> None:
            limit_cpu(seconds * steps)
            write_message(answers, {"heartbeat": True}, {})

        heartbeat()
        try:
            value, results = TASKS[request["task"]](Path(request["path"]), arrays, heartbeat, **request["arguments"])
        except BundleError as error:
            write_message(answers, {"error": str(error)}, {})
        except MemoryError:
            gib = request["memory_bytes"] / 2**30
            write_message(answers, {"error": f"must run in {gib:.3g} GiB of memory. Received: it asks for more."}, {})
        except Exception as error:  # a parser may raise anything for a damaged file
            write_message(answers, {"error": f"must be a .tflite file that LiteRT can run. Received: {error!r}."}, {})
        else:
            write_message(answers, {"value": value}, results)
        limit_cpu(0)
        limit_memory(None)


def limit_cpu(seconds: float) -> None:
    """Ends this process by SIGPROF after so many seconds of CPU time; 0 removes the limit. Not on Windows."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_memory(size: int | None) -> None:
    """Lets this process map `size` bytes more than it has mapped now; None removes the limit. On Linux only."""
    with contextlib.suppress(ImportError, FileNotFoundError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = hard
        if size is not None:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            soft = mapped + size if hard == resource.RLIM_INFINITY else min(mapped + size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def limit_files() -> None:
    """Forbids core dumps, and limits the text on stderr so that it cannot fill the disk. On POSIX only."""
    with contextlib.suppress(ImportError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_BYTES_WRITTEN, _MAX_BYTES_WRITTEN))


def main() -> None:
    """Serves the process that started this one."""
    # An interrupt at the terminal reaches every process; this one ends when the process that asks it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_files()
    # LiteRT may print to stdout, so the answers have a separate stream.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
