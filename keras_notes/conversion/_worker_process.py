"""Runs the converter in a process of its own, and tells what became of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_notes.conversion import _converter
from keras_notes.conversion._deploy_graph import SIGNATURE, DeployGraph
from keras_notes.conversion._recipes import Recipe
from keras_notes.errors import ConversionError

__all__ = ["convert_in_worker"]

# The last line of a Python traceback: "package.SomeError: reason".
_EXCEPTION_LINE = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)
_LONGEST_REASON = 600
_SIGNAL_HINTS = {
    signal.SIGSEGV: (
        "Known cause: a rolled LSTM, GRU or SimpleRNN in full int8 (tensorflow/tensorflow#101050). Build the layer "
        "with unroll=True, or use the recipe 'float32'."
    ),
    signal.SIGKILL: "Likely cause: the machine ran out of memory. Give fewer calibration samples.",
}


def convert_in_worker(
    graph: DeployGraph, recipe: Recipe, edges: str, calibration: Mapping[str, np.ndarray] | None
) -> bytes:
    """Returns the .tflite file.

    Raises:
        ConversionError: If the converter refuses the model or its process dies; says which model and recipe.
    """
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        job = Path(directory)
        graph.save(job / "saved_model")
        settings = {
            "signature": SIGNATURE,
            "is_integer": recipe.is_integer,
            "edges": edges,
            "inputs": list(calibration or ()),
        }
        (job / "job.json").write_text(json.dumps(settings))
        if calibration is not None:
            # By position: `np.savez` takes names as keywords, and an input may be called "file".
            np.savez(job / "calibration.npz", *calibration.values())
        result = subprocess.run(
            [sys.executable, _converter.__file__, str(job)],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
            check=False,
        )
        tflite = job / "model.tflite"
        if result.returncode != 0 or not tflite.is_file():
            raise ConversionError(
                f"The model {graph.model.name!r} could not be converted with the recipe {recipe.name!r}: "
                f"{_reason(result.returncode, result.stderr)}"
            )
        return tflite.read_bytes()


def _reason(returncode: int, stderr: str) -> str:
    if returncode < 0:
        number = signal.Signals(-returncode)
        return f"the converter crashed with {number.name}. {_SIGNAL_HINTS.get(number, '')}".rstrip()
    matches = _EXCEPTION_LINE.findall(stderr)
    reason = matches[-1][:_LONGEST_REASON] if matches else stderr.strip()[-_LONGEST_REASON:]
    return reason or f"the converter ended with exit code {returncode} and wrote nothing."
