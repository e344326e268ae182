"""Runs a program in a Python process of its own, and words the reason of a failure.

A program is a file that is run by its path, with a directory as its only argument. What it takes and gives lies in that
directory.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from keras_notes._shared.checks import one_line

__all__ = ["run_program"]

# The last line of a Python traceback, "package.SomeError: reason", which may go on in the lines below.
_EXCEPTION_LINE = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b", re.MULTILINE)
_LONGEST_REASON = 900
_SIGNAL_HINTS = {signal.SIGKILL: " Likely cause: the machine ran out of memory. Give fewer samples."}
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}


def run_program(program: Path, directory: Path, env: Mapping[str, str] | None = None) -> str | None:
    """Runs a program for TensorFlow on the CPU, and waits for its end.

    Args:
        program: The file of the program.
        directory: The directory that it works in, its only argument.
        env: Further environment variables.

    Returns:
        None if the program succeeds; else the reason of the failure, to follow after "...: ".
    """
    result = subprocess.run(
        [sys.executable, str(program), str(directory)],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **_ENVIRONMENT, **(env or {})},
        check=False,
    )
    return None if result.returncode == 0 else _reason_of(result.returncode, result.stderr)


def _reason_of(returncode: int, stderr: str) -> str:
    if returncode < 0:
        number = signal.Signals(-returncode)
        return f"its process crashed with {number.name}.{_SIGNAL_HINTS.get(number, '')}"
    exceptions = list(_EXCEPTION_LINE.finditer(stderr))
    if exceptions:
        return one_line(stderr[exceptions[-1].start() :], _LONGEST_REASON)
    return one_line(stderr, _LONGEST_REASON) or f"its process ended with exit code {returncode} and wrote nothing."
