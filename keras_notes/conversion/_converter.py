"""The converter itself: the only code that imports tensorflow, run as a program of its own.

    python _converter.py JOB

JOB is a directory with `saved_model/` and `job.json` ({"signatures": names, ...}). The result is JOB/float.tflite, in
float32.

It is a program and not a function because TensorFlow's converter can end its process (tensorflow/tensorflow#101050),
and because it leaks memory from one conversion to the next. It imports nothing of keras_notes, so that it starts
without Keras.
"""

import json
import sys
from pathlib import Path


def convert(job: Path) -> bytes:
    """Converts JOB/saved_model, and returns the .tflite file."""
    import tensorflow as tf

    signatures = json.loads((job / "job.json").read_text())["signatures"]
    converter = tf.lite.TFLiteConverter.from_saved_model(str(job / "saved_model"), signature_keys=list(signatures))
    # Built-in operators only: a file that needs Flex converts, and then runs in no stock runtime.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


if __name__ == "__main__":
    job_directory = Path(sys.argv[1])
    (job_directory / "float.tflite").write_bytes(convert(job_directory))
