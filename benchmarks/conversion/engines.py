"""TFLiteConverter's own quantization beside ai-edge-quantizer's, on the same float files and calibration data.

    python benchmarks/conversion/engines.py [--seeds 3]

Scikit-learn's digits: student and teacher of examples/teacher_to_device.py, trained for 20 and 8 epochs, and a small
net of depthwise convolutions, BatchNormalization and SiLU; 200 calibration samples. Of each file: bytes, test accuracy,
agreement with the float model, error as a share of the range of the logits (root mean square; largest).
ai-edge-quantizer stands there with its own ranges (moving averages) and, as "ranges", with the least and largest value,
as `convert` takes them. Nothing is chosen by the test images.
"""

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, quantizer, recipe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "examples"))

from teacher_to_device import build_student, build_teacher, digits

CALIBRATION = 200
NAME = "serving_default"
INTEGERS = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
INTEGERS_16X8 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8


def build_depthwise():
    """A residual net of depthwise convolutions."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU(6)(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    for _ in range(2):
        before = x
        x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = layers.Conv2D(16, 1)(layers.Activation("silu")(x))
        x = layers.Add()([before, layers.BatchNormalization()(x)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def trained(build, epochs, seed, x, y):
    """A trained net."""
    keras.utils.set_random_seed(seed)
    net = build()
    net.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    return net


def by_tensorflow(saved, operators=None, x=None, *, types=(), quantize=True):
    """The file that TFLiteConverter makes."""
    converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=[NAME])
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantize else []
    converter.target_spec.supported_ops = [operators or tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.target_spec.supported_types = list(types)
    if operators is not None:
        converter.representative_dataset = lambda: ((NAME, {"x": sample[None]}) for sample in x)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return converter.convert()


def by_quantizer(tflite, plan, x=None, widest=False):
    """The file that ai-edge-quantizer makes of a float one."""
    engine = quantizer.Quantizer(bytearray(tflite), plan)
    ranges = None
    if engine.need_calibration:
        options = {"qsv_update_func": _widest} if widest else {}
        measured = calibrator.Calibrator(engine._float_model_buffer, num_threads=1, **options)
        measured.calibrate({NAME: [{"x": sample[None]} for sample in x]}, engine._recipe_manager)
        ranges = measured.get_model_qsvs()
    return bytes(engine.quantize(ranges, enable_progress_report=False).quantized_model)


def _widest(one, other):
    return {"min": np.minimum(one["min"], other["min"]), "max": np.maximum(one["max"], other["max"])}


def outputs(tflite, x):
    """The logits of a file, integer edges quantized here."""
    run = Interpreter(model_content=tflite, num_threads=1).get_signature_runner(NAME)
    source, result = run.get_input_details()["x"], run.get_output_details()["output"]
    if source["dtype"] != np.float32:
        scale, zero_point = source["quantization"]
        limits = np.iinfo(source["dtype"])
        x = np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(source["dtype"])
    got = np.concatenate([run(x=sample[None])["output"] for sample in x])
    if result["dtype"] == np.float32:
        return got
    scale, zero_point = result["quantization"]
    return (got.astype(np.float32) - zero_point) * scale


def files(net, x):
    """Every file of a net, by name."""
    with tempfile.TemporaryDirectory() as saved:
        archive = keras.export.ExportArchive()
        archive.track(net)
        spec = keras.InputSpec(shape=(1, *x.shape[1:]), dtype="float32", name="x")
        archive.add_endpoint(NAME, lambda x: {"output": net(x, training=False)}, input_signature=[spec])
        archive.write_out(saved, verbose=False)
        plain = by_tensorflow(saved, quantize=False)
        return {
            "float32": plain,
            "converter, float16": by_tensorflow(saved, types=[tf.float16]),
            "converter, dynamic int8": by_tensorflow(saved),
            "quantizer, dynamic int8": by_quantizer(plain, recipe.dynamic_wi8_afp32()),
            "quantizer, dynamic int4": by_quantizer(plain, recipe.dynamic_wi4_afp32()),
            "converter, int8": by_tensorflow(saved, INTEGERS, x),
            "quantizer, int8": by_quantizer(plain, recipe.static_wi8_ai8(), x),
            "quantizer, int8, ranges": by_quantizer(plain, recipe.static_wi8_ai8(), x, widest=True),
            "converter, int16x8": by_tensorflow(saved, INTEGERS_16X8, x),
            "quantizer, int16x8, ranges": by_quantizer(plain, recipe.static_wi8_ai16(), x, widest=True),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    x, x_test, y, y_test = digits()
    print(f"{'net':<10} {'seed':>4} {'file':<27} {'bytes':>8} {'accuracy':>8} {'agrees':>7} {'rms':>8} {'largest':>8}")
    for seed in range(options.seeds):
        for build, epochs in ((build_student, 20), (build_teacher, 8), (build_depthwise, 12)):
            net = trained(build, epochs, seed, x, y)
            wanted = net.predict(x_test, verbose=0)
            for name, tflite in files(net, x[:CALIBRATION]).items():
                got = outputs(tflite, x_test)
                error = np.abs(got - wanted) / np.ptp(wanted)
                print(
                    f"{build.__name__[6:]:<10} {seed:>4} {name:<27} {len(tflite):>8,} "
                    f"{(got.argmax(-1) == y_test).mean():>8.4f} {(got.argmax(-1) == wanted.argmax(-1)).mean():>7.4f} "
                    f"{np.sqrt(np.square(error).mean()):>8.5f} {error.max():>8.5f}",
                    flush=True,
                )
