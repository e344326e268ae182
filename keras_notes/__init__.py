"""From a trained teacher to a verified model on a phone.

teacher -> distillation -> compression -> conversion -> BUNDLE -> verification -> tflite/*/run
           (uses losses, layers)                        (files)                   (on the device)

`import keras_notes` imports all of it, and so registers its classes with Keras: a `.keras` file that holds them can be
loaded. Only in the program `keras-notes` (and `python -m keras_notes`) the names below are imported when they are first
used: most commands need no Keras, which takes seconds to start.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING


def _is_command_line() -> bool:
    """Whether this process runs the program, and not a program of the user's."""
    program = sys.argv[0] if sys.argv else ""
    # Python sets `sys.argv[0]` to "-m" until it has found the module.
    is_module = program == "-m" and ("-m", "keras_notes") in itertools.pairwise(sys.orig_argv)
    return is_module or PurePath(program).stem == "keras-notes"


if TYPE_CHECKING or not _is_command_line():
    from keras_notes import compression, distillation, errors, layers, losses
    from keras_notes.benchmarking import bench
    from keras_notes.bundle import Bundle
    from keras_notes.conversion import convert
    from keras_notes.distillation import Distiller, FeatureMatch, TeacherCache
    from keras_notes.report import write_report
    from keras_notes.verification import Report, verify
else:
    _MODULES = {
        "Bundle": "bundle",
        "Distiller": "distillation",
        "FeatureMatch": "distillation",
        "Report": "verification",
        "TeacherCache": "distillation",
        "bench": "benchmarking",
        "convert": "conversion",
        "verify": "verification",
        "write_report": "report",
    }

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
        return getattr(module, name) if name in _MODULES else module

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Bundle",
    "Distiller",
    "FeatureMatch",
    "Report",
    "TeacherCache",
    "bench",
    "compression",
    "convert",
    "distillation",
    "errors",
    "layers",
    "losses",
    "verify",
    "write_report",
]
