"""TFLiteConverter's int8 after training, straight from a Keras model; a program, because it may end its process.

    keras_int8.py FOLDER

FOLDER holds model.keras and calibration.npy; model.tflite is put there.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def converted(folder: Path) -> bytes:
    """The file."""
    model = keras.saving.load_model(folder / "model.keras")
    samples = np.load(folder / "calibration.npy")
    signature = [keras.InputSpec(shape=(1, *samples.shape[1:]), dtype="float32")]
    model.export(folder / "saved_model", format="tf_saved_model", input_signature=signature, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    return converter.convert()


if __name__ == "__main__":
    (Path(sys.argv[1]) / "model.tflite").write_bytes(converted(Path(sys.argv[1])))
