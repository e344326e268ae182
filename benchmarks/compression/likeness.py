"""Likeness of a file's outputs on LiteRT to a model's, in steps of the output's grid (LSB), by kernels."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_notes._litert.reader import read_tflite

KERNELS = {
    "XNNPACK": OpResolverType.AUTO,
    "plain": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


@dataclass(frozen=True)
class Likeness:
    """Likeness of a file with one input and one output to a model.

    Attributes:
        floats: Number of the file's operators in floating point.
        equal: Share of outputs that are the same integers, by kernels.
        largest: Largest difference, in LSB, by kernels.
    """

    floats: int
    equal: dict[str, float]
    largest: dict[str, float]

    def cells(self) -> list[str]:
        """Returns the cells of a table: equal and largest on XNNPACK, then on the plain kernels."""
        return [text for kernels in KERNELS for text in (f"{self.equal[kernels]:.4f}", f"{self.largest[kernels]:.0f}")]


def measure_likeness(path: Path, x: np.ndarray, expected: np.ndarray) -> Likeness:
    """Runs the file on samples for which the model gives `expected`."""
    file = read_tflite(path)
    grid = file.main.output_grid(Interpreter(str(path)).get_output_details()[0]["index"])
    if grid.scale is None:
        raise ValueError(f"{path} must end in integers. Received: {grid}.")
    errors = {name: np.abs(run_file(path, x, resolver) - expected) / grid.scale for name, resolver in KERNELS.items()}
    return Likeness(
        len(file.float_operators()),
        {name: float(np.mean(error < 0.5)) for name, error in errors.items()},
        {name: float(error.max()) for name, error in errors.items()},
    )


def measure_likeness_of_bytes(tflite: bytes, x: np.ndarray, expected: np.ndarray) -> Likeness:
    """Like `measure_likeness`, of a file that is not on disk."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        path.write_bytes(tflite)
        return measure_likeness(path, x, expected)


def run_file(path: Path, x: np.ndarray, resolver: OpResolverType) -> np.ndarray:
    """Runs the file on each sample and returns its outputs as floats."""
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    inside, outside = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for sample in x:
        interpreter.set_tensor(inside["index"], sample[None].astype(inside["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(outside["index"])[0])
    return np.array(results)
