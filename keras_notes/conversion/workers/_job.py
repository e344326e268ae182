"""The programs of conversion, each run in a process of its own on a directory of its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from keras_notes._shared.types import Json
from keras_notes._shared.worker_program import run_program
from keras_notes.errors import ConversionError

__all__ = ["Job"]

_PROGRAMS = Path(__file__).parent
_log = logging.getLogger(__name__)


class Job:
    """A directory that programs work in.

    Args:
        directory: The directory, which exists.
        failure: The beginning of the error message if a program fails.

    Attributes:
        directory: The same directory.
        failure: The same beginning.
    """

    def __init__(self, directory: Path, failure: str) -> None:
        self.directory = directory
        self.failure = failure

    def run(self, program: str, gives: str, **settings: Json) -> Path:
        """Runs a program.

        Args:
            program: The file name of the program.
            gives: The file or folder that the program leaves in the directory.
            **settings: The content of job.json.

        Returns:
            The path of what the program left.

        Raises:
            ConversionError: If the program fails, its process dies, or it leaves nothing.
        """
        _log.info("running %s", program.removeprefix("_run_").removesuffix(".py"))
        (self.directory / "job.json").write_text(json.dumps(settings))
        reason = run_program(_PROGRAMS / program, self.directory)
        result = self.directory / gives
        if reason is None and not (result.exists() and result.stat().st_size > 0):
            reason = "its process ended well, but gave no .tflite file."
        if reason is not None:
            raise ConversionError(f"{self.failure}: {reason}")
        return result
