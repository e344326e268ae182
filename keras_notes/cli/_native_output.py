"""What libraries in C++ write to stderr while they start: kept away from the terminal unless the program fails."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from keras_notes.errors import KerasNotesError

__all__ = ["quiet_start"]

_STDERR = 2


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hides what is written to the file descriptor of stderr, as TensorFlow does before any setting reaches it.

    What Python writes to `sys.stderr` is shown. After an error of an unforeseen class the hidden text is shown too.
    """
    sys.stderr.flush()
    original = os.dup(_STDERR)
    # Open to the end of the process: loggers that were set up meanwhile hold it.
    shown = None
    if sys.stderr is sys.__stderr__:
        shown = sys.stderr = open(original, "w", buffering=1, closefd=False)  # noqa: SIM115
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), _STDERR)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, (KerasNotesError, ValueError, TypeError, OSError, KeyboardInterrupt)):
                hidden.seek(0)
                os.write(original, hidden.read())
            raise
        finally:
            if shown is not None:
                shown.flush()
                sys.stderr = sys.__stderr__
            os.dup2(original, _STDERR)
