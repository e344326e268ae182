"""Errors of sound static_int8 files against the trained model: the evidence for the tolerance in _recipes.py.

    python -m benchmarks conversion tolerance [--epochs 10]

Eleven small networks on digits, 597 test images as golden samples, on XNNPACK and on the reference kernels. Errors in
steps (LSB) of the output's grid; accuracy of the float model and of the file. Then a deep one: MobileNetV2 (width 0.35,
6 epochs on 12,000 images of Fashion-MNIST), by each recipe, errors as a share of the largest output too.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_notes as kn
from benchmarks import command_line
from examples.datasets import fashion_mnist
from examples.teacher_to_device import build_student, build_teacher, digits


def residual(activation, blocks, last=None):
    """Conv, batch normalization and addition, `blocks` times."""
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    for _ in range(blocks):
        skipped = hidden
        for _ in range(2):
            hidden = layers.Conv2D(16, 3, padding="same", use_bias=False)(hidden)
            hidden = layers.Activation(activation)(layers.BatchNormalization()(hidden))
        hidden = layers.Add()([hidden, skipped])
    outputs = layers.Dense(10, activation=last)(layers.GlobalAveragePooling2D()(hidden))
    return keras.Model(inputs, outputs, name=f"residual_{blocks}_{activation}_{last or 'logits'}")


def depthwise():
    """Depthwise and pointwise convolutions, as in MobileNet."""
    stack = [
        layers.Conv2D(16, 3, padding="same", activation="relu6"),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.Conv2D(32, 1, activation="relu6"),
        layers.AveragePooling2D(2),
        layers.DepthwiseConv2D(3, padding="same", activation="relu6"),
        layers.Conv2D(32, 1, activation="relu6"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *stack], name="depthwise")


def dense():
    """Three dense layers with saturating activations."""
    stack = [layers.Flatten(), layers.Dense(64, "tanh"), layers.Dense(64, "sigmoid"), layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *stack], name="dense")


def recurrent(layer):
    """A recurrent layer over the rows of an image."""
    inputs = keras.Input((8, 8, 1))
    hidden = layer(32)(layers.Reshape((8, 8))(inputs))
    return keras.Model(inputs, layers.Dense(10)(hidden), name=layer.__name__.lower())


def transformer():
    """Two blocks of attention between the rows of an image."""
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Dense(32)(layers.Reshape((8, 8))(inputs))
    for _ in range(2):
        normal = layers.LayerNormalization()(hidden)
        hidden = layers.Add()([hidden, layers.MultiHeadAttention(4, 8)(normal, normal)])
        fed_forward = layers.Dense(64, "gelu")(layers.LayerNormalization()(hidden))
        hidden = layers.Add()([hidden, layers.Dense(32)(fed_forward)])
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(hidden))
    return keras.Model(inputs, layers.Dense(10)(pooled), name="transformer")


BUILDERS = (
    build_teacher,
    build_student,
    lambda: residual("relu", 2),
    lambda: residual("relu", 3, "softmax"),
    lambda: residual("swish", 4),
    lambda: residual("gelu", 3),
    depthwise,
    dense,
    lambda: recurrent(layers.LSTM),
    lambda: recurrent(layers.GRU),
    transformer,
)


def verify_bundle(bundle, test, kernels):
    """Verifies a bundle and returns the report, whether it passes or not."""
    try:
        return kn.verify(bundle, *test, kernels=kernels)
    except kn.errors.VerificationError as error:
        return error.report


def measure_network(build, seed, epochs):
    """Trains one network, converts it, and prints a line for each set of kernels."""
    x, x_test, y, y_test = digits()
    keras.utils.set_random_seed(seed)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not model.name.endswith("softmax"))
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    with tempfile.TemporaryDirectory() as directory:
        bundle = kn.convert(model, Path(directory) / "bundle", calibration=x, golden=x_test)
        for kernels in ("xnnpack", "reference"):
            report = verify_bundle(bundle, (x_test, y_test), kernels)
            (output,) = report.outputs
            errors = f"{output.max_error_lsb:8.1f} {output.rms_error_lsb:8.2f} {output.mean_error_lsb:9.2f}"
            accuracies = f"{output.top1_agreement:10.3f} {accuracy:9.4f} {report.accuracy:9.4f}"
            print(f"{model.name:<28} {kernels:<10} {errors} {accuracies}", flush=True)


def measure_deep():
    """Trains a MobileNetV2 and prints a line for each recipe."""
    (x, y), (x_test, y_test) = fashion_mnist()
    x, y, x_test, y_test = _to_colour(x[:12_000]), y[:12_000], _to_colour(x_test[:600]), y_test[:600]
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # its own, 0.999, needs more steps than these
    model.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=6, verbose=0)
    own = float((model.predict(x_test, verbose=0).argmax(-1) == y_test).mean())
    for recipe in ("float16", "dynamic_int8", "static_int8", "int16x8", "weight_int4"):
        ranges = {"calibration": x[:256]} if recipe in ("static_int8", "int16x8") else {}
        with tempfile.TemporaryDirectory() as directory:
            bundle = kn.convert(model, Path(directory) / "bundle", recipe, golden=x_test, **ranges)
            largest = abs(bundle.golden(bundle.manifest.signatures[0])[1]["output"]).max()
            report = verify_bundle(bundle, (x_test, y_test), "xnnpack")
        (output,) = report.outputs
        steps = "" if output.max_error_lsb is None else f"{output.max_error_lsb:10.1f} {output.rms_error_lsb:8.2f}"
        mean = "" if output.mean_error_lsb is None else f" {output.mean_error_lsb:8.2f}"
        shares = f"{output.max_error / largest:8.4f} {output.rms_error / largest:8.4f}"
        accuracies = f"{output.top1_agreement:8.3f} {own:8.4f} {report.accuracy:8.4f}"
        print(f"mobilenet_v2 {recipe:<14} {shares} {accuracies} {steps}{mean}", flush=True)


def _to_colour(images):
    """Grey images of 28 x 28 pixels as colour images of 32 x 32, from -1 to 1."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None].astype("float32") / 127.5 - 1
    return np.repeat(padded, 3, axis=-1)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("conversion tolerance", __doc__)
    parser.add_argument("--epochs", type=int, default=10)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the lines of the small networks, then those of the deep one."""
    options = build_parser().parse_args(arguments)
    errors = f"{'max LSB':>8} {'rms LSB':>8} {'mean LSB':>9}"
    print(f"{'network':<28} {'kernels':<10} {errors} {'agreement':>10} {'float':>9} {'int8':>9}")
    for seed, build in enumerate(BUILDERS):
        measure_network(build, seed, options.epochs)
    measure_deep()
