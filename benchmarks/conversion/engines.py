"""TFLiteConverter's own quantization beside ai-edge-quantizer's, on the same float files and calibration data.

    python -m benchmarks conversion engines [--seeds 3]

Scikit-learn's digits: student and teacher of examples/teacher_to_device.py, trained for 20 and 8 epochs, and a small
net of depthwise convolutions, BatchNormalization and SiLU; 200 calibration samples. Of each file: bytes, test accuracy,
agreement with the float model, error as a share of the range of the logits (root mean square; largest).
ai-edge-quantizer is measured with its own ranges (moving averages) and, as "ranges", with the smallest and largest
value, as `convert` takes them. Nothing is chosen by the test images.
"""

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, quantizer, recipe

from benchmarks import command_line
from examples.teacher_to_device import build_student, build_teacher, digits

CALIBRATION = 200
NAME = "serving_default"
INTEGERS = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
INTEGERS_16X8 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8


def build_depthwise():
    """Builds a residual net of depthwise convolutions."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU(6)(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    for _ in range(2):
        before = x
        x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = layers.Conv2D(16, 1)(layers.Activation("silu")(x))
        x = layers.Add()([before, layers.BatchNormalization()(x)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def train(build, epochs, seed, x, y):
    """Builds and trains a net."""
    keras.utils.set_random_seed(seed)
    net = build()
    net.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    return net


def convert_by_tensorflow(saved, operators=None, x=None, *, types=(), quantize=True):
    """Converts by TFLiteConverter and returns the file."""
    converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=[NAME])
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantize else []
    converter.target_spec.supported_ops = [operators or tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.target_spec.supported_types = list(types)
    if operators is not None:
        converter.representative_dataset = lambda: ((NAME, {"x": sample[None]}) for sample in x)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return converter.convert()


def convert_by_quantizer(tflite, plan, x=None, widest=False):
    """Quantizes a float file by ai-edge-quantizer and returns the file."""
    engine = quantizer.Quantizer(bytearray(tflite), plan)
    ranges = None
    if engine.need_calibration:
        options = {"qsv_update_func": _widest} if widest else {}
        measured = calibrator.Calibrator(engine._float_model_buffer, num_threads=1, **options)
        measured.calibrate({NAME: [{"x": sample[None]} for sample in x]}, engine._recipe_manager)
        ranges = measured.get_model_qsvs()
    return bytes(engine.quantize(ranges, enable_progress_report=False).quantized_model)


def _widest(first, second):
    return {"min": np.minimum(first["min"], second["min"]), "max": np.maximum(first["max"], second["max"])}


def run_file(tflite, x):
    """Runs a file and returns its logits; integer edges are quantized here."""
    run = Interpreter(model_content=tflite, num_threads=1).get_signature_runner(NAME)
    source, result = run.get_input_details()["x"], run.get_output_details()["output"]
    if source["dtype"] != np.float32:
        scale, zero_point = source["quantization"]
        limits = np.iinfo(source["dtype"])
        x = np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(source["dtype"])
    values = np.concatenate([run(x=sample[None])["output"] for sample in x])
    if result["dtype"] == np.float32:
        return values
    scale, zero_point = result["quantization"]
    return (values.astype(np.float32) - zero_point) * scale


def convert_all(net, x):
    """Converts a net in every way and returns the files by name."""
    with tempfile.TemporaryDirectory() as saved:
        archive = keras.export.ExportArchive()
        archive.track(net)
        spec = keras.InputSpec(shape=(1, *x.shape[1:]), dtype="float32", name="x")
        archive.add_endpoint(NAME, lambda x: {"output": net(x, training=False)}, input_signature=[spec])
        archive.write_out(saved, verbose=False)
        plain = convert_by_tensorflow(saved, quantize=False)
        return {
            "float32": plain,
            "converter, float16": convert_by_tensorflow(saved, types=[tf.float16]),
            "converter, dynamic int8": convert_by_tensorflow(saved),
            "quantizer, dynamic int8": convert_by_quantizer(plain, recipe.dynamic_wi8_afp32()),
            "quantizer, dynamic int4": convert_by_quantizer(plain, recipe.dynamic_wi4_afp32()),
            "converter, int8": convert_by_tensorflow(saved, INTEGERS, x),
            "quantizer, int8": convert_by_quantizer(plain, recipe.static_wi8_ai8(), x),
            "quantizer, int8, ranges": convert_by_quantizer(plain, recipe.static_wi8_ai8(), x, widest=True),
            "converter, int16x8": convert_by_tensorflow(saved, INTEGERS_16X8, x),
            "quantizer, int16x8, ranges": convert_by_quantizer(plain, recipe.static_wi8_ai16(), x, widest=True),
        }


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("conversion engines", __doc__)
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each net, seed and file."""
    options = build_parser().parse_args(arguments)
    logging.disable(logging.WARNING)
    x, x_test, y, y_test = digits()
    print(f"{'net':<10} {'seed':>4} {'file':<27} {'bytes':>8} {'accuracy':>8} {'agrees':>7} {'rms':>8} {'largest':>8}")
    for seed in range(options.seeds):
        for build, epochs in ((build_student, 20), (build_teacher, 8), (build_depthwise, 12)):
            net = train(build, epochs, seed, x, y)
            expected = net.predict(x_test, verbose=0)
            for name, tflite in convert_all(net, x[:CALIBRATION]).items():
                actual = run_file(tflite, x_test)
                error = np.abs(actual - expected) / np.ptp(expected)
                agreement = (actual.argmax(-1) == expected.argmax(-1)).mean()
                print(
                    f"{build.__name__[6:]:<10} {seed:>4} {name:<27} {len(tflite):>8,} "
                    f"{(actual.argmax(-1) == y_test).mean():>8.4f} {agreement:>7.4f} "
                    f"{np.sqrt(np.square(error).mean()):>8.5f} {error.max():>8.5f}",
                    flush=True,
                )
