"""The converter: a program of its own around TensorFlow's converter.

    python _run_converter.py JOB

JOB is a directory with `saved_model/` and `job.json` ({"signatures": {name: input names}, "int8"}). The result is
JOB/float.tflite, in float32; or, where "int8" is true, JOB/quantized.tflite, in int8 with ranges from the files
`calibration_<signature number>.npz`: TensorFlow's own quantization, for the operators that ai-edge-quantizer lacks.

If the converter lacks operations, JOB/lacking.json has them: [[operation, names of its place], ...].

It is a program and not a function because TensorFlow's converter can end its process (tensorflow/tensorflow#101050),
and because it leaks memory from one conversion to the next. It imports nothing of keras_notes, so that it starts
without Keras.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def convert(job: Path, settings: dict[str, Any]) -> bytes:
    """Converts JOB/saved_model, and returns the .tflite file."""
    import tensorflow as tf

    signatures = list(settings["signatures"])
    converter = tf.lite.TFLiteConverter.from_saved_model(str(job / "saved_model"), signature_keys=signatures)
    # Built-in operators only: a file that needs Flex converts, and then runs in no stock runtime.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if settings["int8"]:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: samples(job, settings["signatures"])
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def samples(job: Path, signatures: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields the calibration samples one by one, each with the name of its signature."""
    for number, (name, inputs) in enumerate(signatures.items()):
        with np.load(job / f"calibration_{number}.npz") as arrays:
            values = dict(zip(inputs, arrays.values(), strict=True))
        for index in range(len(next(iter(values.values())))):
            yield name, {key: array[index : index + 1] for key, array in values.items()}


def lacking_operations(message: str) -> list[tuple[str, list[str]]]:
    """Returns the operations that the converter's message says it lacks, with the names of the place of each."""
    refusals = re.findall(r"error: loc\((.*?)\): '([\w.]+)' op", message)
    return [(operation, re.findall(r'"([^"]*)"', place)) for place, operation in refusals]


if __name__ == "__main__":
    job_directory = Path(sys.argv[1])
    job_settings = json.loads((job_directory / "job.json").read_text())
    file_name = "quantized.tflite" if job_settings["int8"] else "float.tflite"
    try:
        (job_directory / file_name).write_bytes(convert(job_directory, job_settings))
    except Exception as error:
        (job_directory / "lacking.json").write_text(json.dumps(lacking_operations(str(error))))
        raise
