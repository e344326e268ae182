"""The plain converter: TensorFlow's own conversion and quantization of a SavedModel.

    convert_plain.py DIRECTORY FORMAT

DIRECTORY holds `saved_model/` with the signature "serving_default" of one input "x" and `calibration.npy`; FORMAT is
"static_int8", "dynamic_int8" or "int16x8". The file is DIRECTORY/FORMAT.tflite. A program, because the converter may
end its process.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

SIGNATURE = "serving_default"
_OPERATORS = {
    "static_int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16x8": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
    "dynamic_int8": tf.lite.OpsSet.TFLITE_BUILTINS,
}


def convert(directory: Path, recipe: str) -> bytes:
    """Converts DIRECTORY/saved_model and returns the file."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(directory / "saved_model"), signature_keys=[SIGNATURE])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [_OPERATORS[recipe]]
    if recipe != "dynamic_int8":
        calibration = np.load(directory / "calibration.npy")
        converter.representative_dataset = lambda: ((SIGNATURE, {"x": sample[None]}) for sample in calibration)
    return converter.convert()


if __name__ == "__main__":
    path = Path(sys.argv[1]) / f"{sys.argv[2]}.tflite"
    path.write_bytes(convert(Path(sys.argv[1]), sys.argv[2]))
