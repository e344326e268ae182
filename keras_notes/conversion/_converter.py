"""The converter itself: the only code that imports tensorflow, run as a program of its own.

    python _converter.py JOB

JOB is a directory with `saved_model/`, `job.json` ({"signature", "is_integer", "edges", "inputs"}) and, for an integer
recipe, `calibration.npz` (samples of each input, in the order of "inputs"). The result is JOB/model.tflite.

It is a program and not a function because TensorFlow's converter can end its process (a rolled LSTM in full int8 does,
tensorflow/tensorflow#101050), and because it leaks memory from one conversion to the next. It imports nothing of
keras_notes, so that it starts without Keras.
"""

import json
import sys
from pathlib import Path


def convert(job: Path) -> bytes:
    """Converts JOB/saved_model as JOB/job.json says, and returns the .tflite file."""
    import tensorflow as tf

    settings = json.loads((job / "job.json").read_text())
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(job / "saved_model"), signature_keys=[settings["signature"]]
    )
    # Built-in operators only: a file that needs Flex converts, and then runs in no stock runtime.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if settings["is_integer"]:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: calibration_samples(job, settings)
        edge_dtype = tf.as_dtype(settings["edges"])
        converter.inference_input_type = edge_dtype
        converter.inference_output_type = edge_dtype
    return converter.convert()


def calibration_samples(job: Path, settings: dict):
    """Yields the calibration data one sample at a time, as (signature, {input name: array of batch 1})."""
    import numpy as np

    with np.load(job / "calibration.npz") as arrays:
        samples = dict(zip(settings["inputs"], arrays.values(), strict=True))
    for index in range(len(next(iter(samples.values())))):
        yield settings["signature"], {name: array[index : index + 1] for name, array in samples.items()}


if __name__ == "__main__":
    job_directory = Path(sys.argv[1])
    (job_directory / "model.tflite").write_bytes(convert(job_directory))
