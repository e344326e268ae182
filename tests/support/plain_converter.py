"""TFLiteConverter's own int8 file beside ours, and the figures by which they are compared."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

import keras_notes as kn
from keras_notes._litert.metadata import DESCRIPTION
from keras_notes._litert.model import EDGE_OPERATORS
from keras_notes._litert.reader import read_tflite

__all__ = ["SIGNATURE_BYTES", "Figures", "compare", "is_worse"]

# Our files have a signature with names of inputs and outputs, by which runners call them.
SIGNATURE_BYTES = 200


@dataclass(frozen=True)
class Figures:
    """What a file is measured by.

    Attributes:
        operators: Number of operators, without those of the edges.
        float_operators: Number of those in floating point.
        bytes: Size of the file, without the description of the bundle in it, which the plain converter's file lacks.
        errors: Root mean square error of each output, as a share of the range of the output; None for a file that
            LiteRT cannot open.
    """

    operators: int
    float_operators: int
    bytes: int
    errors: tuple[float, ...] | None


def convert_plainly(model: keras.Model, x: Sequence[np.ndarray]) -> bytes:
    """Converts by TFLiteConverter, in int8 with float32 edges."""
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]

    @tf.function(input_signature=specs)
    def run_model(*inputs: tf.Tensor) -> object:
        return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    # Without the model beside it, the function's variables are frozen, those of nested models too.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([run_model.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([array[i : i + 1] for array in x] for i in range(len(x[0])))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return converter.convert()


def measure(path: Path, x: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Figures:
    """Measures a file.

    Args:
        path: The file.
        x: Samples for each input.
        expected: The outputs of Keras for them.
    """
    file = read_tflite(path)
    counts = file.operator_counts()
    operators = sum(count for name, count in counts.items() if name not in EDGE_OPERATORS)
    size = path.stat().st_size - size_of_description(path)
    try:
        actual = run(path, x)
    except (ValueError, RuntimeError):
        return Figures(operators, len(file.float_operators()), size, None)
    # Outputs are told by their shape and nearest values: their order differs between the two files.
    errors = []
    for output in expected:
        same_shape = [values for values in actual if values.shape == output.shape]
        spread = max(float(np.ptp(output)), 1e-9)
        errors.append(min(float(np.sqrt(np.mean((values - output) ** 2))) / spread for values in same_shape))
    return Figures(operators, len(file.float_operators()), size, tuple(errors))


def size_of_description(path: Path) -> int:
    """Returns the bytes of the description that `convert` adds to a file."""
    model = flatbuffer_utils.read_model(str(path))
    entries = [entry for entry in model.metadata or () if entry.name.decode() == DESCRIPTION]
    return sum(len(model.buffers[entry.buffer].data) for entry in entries)


def run(path: Path, x: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Runs a file on samples; returns its outputs."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    # By the number in "serving_default_x:0" or "args_1": both converters keep the order of the names.
    details = sorted(details, key=lambda detail: detail["name"])
    outputs = []
    for index in range(len(x[0])):
        for detail, array in zip(details, x, strict=True):
            interpreter.set_tensor(detail["index"], array[index : index + 1])
        interpreter.invoke()
        outputs.append([interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()])
    return [np.concatenate(values) for values in zip(*outputs, strict=True)]


def compare(
    model: keras.Model, calibration: Sequence[np.ndarray], test: Sequence[np.ndarray]
) -> tuple[Figures, Figures]:
    """Returns the figures of our file, and those of the plain converter's."""
    expected = [np.asarray(values) for values in keras.tree.flatten(model(test[0] if len(test) == 1 else list(test)))]
    with tempfile.TemporaryDirectory() as directory:
        bundle = kn.convert(model, Path(directory) / "bundle", "static_int8", calibration=list(calibration))
        plain = Path(directory) / "plain.tflite"
        plain.write_bytes(convert_plainly(model, calibration))
        return measure(bundle.model_path, test, expected), measure(plain, test, expected)


def is_worse(ours: Figures, plain: Figures) -> bool:
    """Whether our file has more operators, bytes or errors; of errors, a tenth and 0.02 % of the range are chance."""
    if ours.operators > plain.operators or ours.bytes > plain.bytes + SIGNATURE_BYTES:
        return True
    if ours.float_operators > 0:
        return True
    if ours.errors is None or plain.errors is None:
        return ours.errors is None
    return any(mine > 1.1 * other + 2e-4 for mine, other in zip(ours.errors, plain.errors, strict=True))
