"""What a bundle says of a converted file: its signatures, its golden samples, the error of each of its tensors."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes._litert.model import Tensor, TfliteFile
from keras_notes.bundle import MODEL_FILE, SignatureEntry, StateEntry, TensorEntry
from keras_notes.conversion._pipeline import Converted
from keras_notes.conversion.graph._deploy_graph import DeployGraph

__all__ = ["described", "signature_entry", "tensor_errors"]

# Every tensor of two files is read for each of them.
_MOST_SAMPLES = 8


def described(tflite: bytes) -> TfliteFile:
    """What a file holds."""
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        path = Path(directory) / MODEL_FILE
        path.write_bytes(tflite)
        return tflite_process.describe(path)


def signature_entry(
    graph: DeployGraph,
    file: TfliteFile,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    files: dict[str, bytes],
) -> SignatureEntry:
    """Describes a signature, and adds its golden files to `files`."""
    entry = next(entry for entry in file.signatures if entry.name == graph.signature)
    main = file.graph(entry)

    def edge(kind: str, name: str, index: int, grid: Tensor, values: np.ndarray) -> TensorEntry:
        path = f"golden/{entry.name}.{kind}.{name}.bin"
        files[path] = values.astype(values.dtype.newbyteorder("<")).tobytes()
        tensor = main.tensors[index]
        return TensorEntry(name, tensor.dtype, tensor.shape, grid.scale, grid.zero_point, path, values.dtype.name)

    return SignatureEntry(
        name=entry.name,
        inputs=tuple(
            edge("input", name, index, main.input_grid(index), inputs[name])
            for name, index in sorted(entry.inputs.items())
        ),
        outputs=tuple(
            edge("output", name, index, main.output_grid(index), outputs[name])
            for name, index in sorted(entry.outputs.items())
        ),
        golden_samples=len(next(iter(inputs.values()))),
        states=tuple(StateEntry(state.input, state.output) for state in graph.states),
    )


def tensor_errors(converted: Converted, signature: SignatureEntry, inputs: Mapping[str, np.ndarray]) -> bytes:
    """`tensors.json`: of each tensor down the graph, how far it is from its value in the float file."""
    samples = {name: array[:_MOST_SAMPLES] for name, array in inputs.items()}
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        path, reference = Path(directory) / MODEL_FILE, Path(directory) / "float.tflite"
        path.write_bytes(converted.tflite)
        reference.write_bytes(converted.float_tflite)
        found = tflite_process.tensor_errors(path, reference, signature, _in_floats(signature), samples)
    return (json.dumps(found, indent=1) + "\n").encode()


def _in_floats(signature: SignatureEntry) -> SignatureEntry:
    """The signature of the float file."""

    def edges(entries: tuple[TensorEntry, ...]) -> tuple[TensorEntry, ...]:
        return tuple(
            dataclasses.replace(e, dtype="float32", scale=None, zero_point=None) if e.scale is not None else e
            for e in entries
        )

    return dataclasses.replace(signature, inputs=edges(signature.inputs), outputs=edges(signature.outputs))
