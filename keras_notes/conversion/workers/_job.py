"""Runs the programs of conversion, each in a process of its own, and tells what became of them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from keras_notes.errors import ConversionError

__all__ = ["Job"]

_PROGRAMS = Path(__file__).parent
_log = logging.getLogger(__name__)
# The last line of a Python traceback: "package.SomeError: reason".
_EXCEPTION_LINE = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)
_LONGEST_REASON = 600
_SIGNAL_HINTS = {
    signal.SIGKILL: "Likely cause: the machine ran out of memory. Give fewer calibration samples.",
}


class Job:
    """A directory that a program works in, and what it is told.

    Args:
        directory: The directory, which is there.
        failure: What could not be done, if the program fails.
    """

    def __init__(self, directory: Path, failure: str) -> None:
        self.directory = directory
        self._failure = failure
        self._settings: dict[str, Any] = {}

    def settle(self, **settings: Any) -> None:
        """Adds to job.json."""
        self._settings.update(settings)
        (self.directory / "job.json").write_text(json.dumps(self._settings))

    def run(self, program: str, gives: str) -> None:
        """Runs a program, which leaves a file or folder in the directory.

        Raises:
            ConversionError: If it fails, its process dies, or leaves nothing.
        """
        _log.info("running %s", program.strip("_").removesuffix(".py"))
        result = subprocess.run(
            [sys.executable, str(_PROGRAMS / program), str(self.directory)],
            capture_output=True,
            text=True,
            errors="replace",
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "CUDA_VISIBLE_DEVICES": "-1",
            },
            check=False,
        )
        made = self.directory / gives
        if result.returncode == 0 and made.exists() and made.stat().st_size > 0:
            return
        reason = "its process ended well, but gave no .tflite file."
        if result.returncode != 0:
            reason = _reason(result.returncode, result.stderr)
        raise ConversionError(f"{self._failure}: {reason}")


def _reason(returncode: int, stderr: str) -> str:
    if returncode < 0:
        number = signal.Signals(-returncode)
        return f"its process crashed with {number.name}. {_SIGNAL_HINTS.get(number, '')}".rstrip()
    matches = _EXCEPTION_LINE.findall(stderr)
    reason = matches[-1][:_LONGEST_REASON] if matches else stderr.strip()[-_LONGEST_REASON:]
    return reason or f"its process ended with exit code {returncode} and wrote nothing."
