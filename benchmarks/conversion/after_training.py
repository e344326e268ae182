"""`convert` beside plain TFLiteConverter quantization after training, on the same students and calibration data.

    python -m benchmarks conversion after_training [--seeds 5]

Digits, 1,200 training and 597 test images; the student of examples/teacher_to_device.py, 30 epochs from labels. The
float student is the reference; nothing is chosen by the test images.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_notes as kn
from benchmarks import command_line
from examples.teacher_to_device import build_student, digits


def convert_plain(model, x):
    """Converts by TFLiteConverter alone: int8 throughout inside, float edges."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with contextlib.redirect_stdout(io.StringIO()):
        return converter.convert()


def accuracy_of(tflite, x, y):
    """Returns the accuracy of a file with one input and one output."""
    interpreter = Interpreter(model_content=tflite, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    right = 0
    for image, label in zip(x, y, strict=True):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        right += int(interpreter.get_tensor(result["index"]).argmax() == label)
    return right / len(y)


def measure_seeds(seeds):
    """Returns one row a seed: accuracy of the float student and of both files, bytes of both files."""
    x, x_test, y, y_test = digits()
    rows = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        student = build_student()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        student.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
        student.fit(x, y, epochs=30, batch_size=32, verbose=0)
        float_accuracy = student.evaluate(x_test, y_test, verbose=0)[1]
        theirs = convert_plain(student, x)
        with tempfile.TemporaryDirectory() as directory:
            bundle = kn.convert(student, Path(directory) / "bundle", "static_int8", calibration=x)
            ours = bundle.model_path.read_bytes()
        accuracies = [accuracy_of(tflite, x_test, y_test) for tflite in (theirs, ours)]
        rows.append((float_accuracy, *accuracies, len(theirs), len(ours)))
        print(f"{seed:>6} {float_accuracy:>10.4f} {accuracies[0]:>10.4f} {accuracies[1]:>12.4f} "
              f"{len(theirs):>12,} {len(ours):>12,}", flush=True)  # fmt: skip
    return np.array(rows)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("conversion after_training", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each seed, and the differences over all seeds."""
    options = build_parser().parse_args(arguments)
    print(f"{'seed':>6} {'float':>10} {'plain int8':>10} {'convert int8':>12} {'plain bytes':>12} {'our bytes':>12}")
    rows = measure_seeds(options.seeds)
    difference = rows[:, 2] - rows[:, 1]
    print(f"accuracy, convert minus plain: mean {difference.mean():+.4f}, from {difference.min():+.4f} to "
          f"{difference.max():+.4f}; bytes, convert / plain: {rows[:, 4].sum() / rows[:, 3].sum():.3f}")  # fmt: skip
