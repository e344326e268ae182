"""How nearly a file gives on LiteRT what a model gives, in steps of the file's output (LSB), by LiteRT's kernels."""

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
    """Of a file of one input and one output, and a model.

    Attributes:
        floats: The number of the file's operators in floating point.
        equal: The share of outputs that are the same integers, by kernels.
        largest: The largest difference, in LSB, by kernels.
    """

    floats: int
    equal: dict[str, float]
    largest: dict[str, float]

    def cells(self) -> list[str]:
        """For a table: equal and largest on XNNPACK, then on the plain kernels."""
        return [text for one in KERNELS for text in (f"{self.equal[one]:.4f}", f"{self.largest[one]:.0f}")]


def likeness(path: Path, x: np.ndarray, wanted: np.ndarray) -> Likeness:
    """Runs the file on samples for which the model gives `wanted`."""
    file = read_tflite(path)
    grid = file.main.output_grid(Interpreter(str(path)).get_output_details()[0]["index"])
    if grid.scale is None:
        raise ValueError(f"{path} must end in integers. Received: {grid}.")
    errors = {name: np.abs(outputs(path, x, resolver) - wanted) / grid.scale for name, resolver in KERNELS.items()}
    return Likeness(
        len(file.float_operators()),
        {name: float(np.mean(error < 0.5)) for name, error in errors.items()},
        {name: float(error.max()) for name, error in errors.items()},
    )


def likeness_of_bytes(tflite: bytes, x: np.ndarray, wanted: np.ndarray) -> Likeness:
    """As `likeness`, of a file that is not on disk."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        path.write_bytes(tflite)
        return likeness(path, x, wanted)


def outputs(path: Path, x: np.ndarray, resolver: OpResolverType) -> np.ndarray:
    """What the file gives for each sample, as floats."""
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    inside, outside = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for sample in x:
        interpreter.set_tensor(inside["index"], sample[None].astype(inside["dtype"]))
        interpreter.invoke()
        found.append(interpreter.get_tensor(outside["index"])[0])
    return np.array(found)
