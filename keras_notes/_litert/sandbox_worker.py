"""The process that parses and runs .tflite files; a program, started by `sandbox.py`.

Answers requests on stdin, one after the other, on stdout. While a task runs, each of its steps is a sign of life, and
starts the clock of CPU time anew; when that runs out, SIGPROF ends the process.
"""

import contextlib
import os
import signal
import sys
import types
from pathlib import Path

if "keras_notes" not in sys.modules:
    _folder = Path(__file__).parent
    # Modules of the package must not stand in the way of others of their names.
    sys.path[:] = [path for path in sys.path if path != str(_folder)]
    # Importing the package would import Keras and its backend, which nothing here needs, and take seconds.
    _package = types.ModuleType("keras_notes")
    _package.__path__ = [str(_folder.parent)]
    sys.modules["keras_notes"] = _package

from keras_notes._litert.messages import read_message, write_message
from keras_notes._litert.tasks import TASKS
from keras_notes.errors import BundleError

# What LiteRT may print before it has to end.
_MOST_BYTES_WRITTEN = 2**24


def serve(requests, answers) -> None:
    """Answers requests until there are no more."""
    while True:
        try:
            request, arrays = read_message(requests)
        except EOFError:
            return
        limit_memory(request["memory_bytes"])

        def beat(steps=1, seconds=request["cpu_seconds"]):
            limit_cpu(seconds * steps)
            write_message(answers, {"beat": True}, {})

        beat()
        try:
            value, results = TASKS[request["task"]](Path(request["path"]), arrays, beat, **request["arguments"])
        except BundleError as error:
            write_message(answers, {"error": str(error)}, {})
        except MemoryError:
            gib = request["memory_bytes"] / 2**30
            write_message(answers, {"error": f"must run in {gib:.3g} GiB of memory. Received: it asks for more."}, {})
        except Exception as error:  # whatever a parser meets in a file that it was not made for
            write_message(answers, {"error": f"must be a .tflite file that LiteRT can run. Received: {error!r}."}, {})
        else:
            write_message(answers, {"value": value}, results)
        limit_cpu(0)
        limit_memory(None)


def limit_cpu(seconds: float) -> None:
    """Ends this process by SIGPROF after so many seconds of CPU time; 0 is no limit. Not on Windows."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_memory(size: int | None) -> None:
    """Lets this process map `size` bytes more than it has mapped now; None is no limit. On Linux only."""
    with contextlib.suppress(ImportError, FileNotFoundError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = hard
        if size is not None:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            most = mapped + size if hard == resource.RLIM_INFINITY else min(mapped + size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def limit_files() -> None:
    """No image of the memory when this process crashes, and no end of text on stderr, which fills a disk. On POSIX."""
    with contextlib.suppress(ImportError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_BYTES_WRITTEN, _MOST_BYTES_WRITTEN))


def main() -> None:
    """Serves the process that started this one."""
    # An interrupt at the terminal reaches every process; this one ends when the one that asks it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_files()
    # LiteRT may print; the answers keep a stream of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
