"""The errors of a quantized file by tensor: tensors.json of a bundle."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes.bundle import MODEL_FILE, SignatureEntry, TensorEntry
from keras_notes.conversion._trial_run import TRIAL_LIMITS
from keras_notes.conversion.passes._model_file import ModelFile

__all__ = ["tensor_errors"]

# Every tensor of two files is read for each of them.
_SAMPLES_FOR_TENSOR_ERRORS = 8


def tensor_errors(
    file: ModelFile, float_file: ModelFile, signature: SignatureEntry, inputs: Mapping[str, np.ndarray]
) -> bytes:
    """Returns tensors.json: the error of each tensor of the file against its value in the float file."""
    samples = {name: array[:_SAMPLES_FOR_TENSOR_ERRORS] for name, array in inputs.items()}
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        path, reference = Path(directory) / MODEL_FILE, Path(directory) / "float.tflite"
        path.write_bytes(file.to_bytes())
        reference.write_bytes(float_file.to_bytes())
        errors = tflite_process.tensor_errors(path, reference, signature, _in_floats(signature), samples, TRIAL_LIMITS)
    return (json.dumps(errors, indent=1) + "\n").encode()


def _in_floats(signature: SignatureEntry) -> SignatureEntry:
    """Returns the signature of the float file."""

    def edges(entries: tuple[TensorEntry, ...]) -> tuple[TensorEntry, ...]:
        return tuple(
            entry if entry.scale is None else dataclasses.replace(entry, dtype="float32", scale=None, zero_point=None)
            for entry in entries
        )

    return dataclasses.replace(signature, inputs=edges(signature.inputs), outputs=edges(signature.outputs))
