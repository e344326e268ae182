"""How far sound static_int8 files stray from the trained model: the evidence for the tolerance in _recipes.py.

    python tests/benchmarks/tolerance.py [--epochs 10]

Eight small networks on digits, 597 test images as golden samples, on XNNPACK and on the reference kernels. Errors in
steps (LSB) of the output's grid; accuracy of the float model and of the file.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import keras
from keras import layers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "examples"))

from teacher_to_device import build_student, build_teacher, digits

import keras_notes as kn


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


BUILDERS = (
    build_teacher,
    build_student,
    lambda: residual("relu", 2),
    lambda: residual("relu", 3, "softmax"),
    lambda: residual("swish", 4),
    lambda: residual("gelu", 3),
    depthwise,
    dense,
)


def report_of(bundle, test, kernels):
    """The report, whether the bundle passes or not."""
    try:
        return kn.verify(bundle, *test, kernels=kernels)
    except kn.errors.VerificationError as error:
        return error.report


def measure(build, seed, epochs):
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
            report = report_of(bundle, (x_test, y_test), kernels)
            (output,) = report.outputs
            errors = f"{output.max_error_lsb:8.1f} {output.rms_error_lsb:8.2f} {output.mean_error_lsb:9.2f}"
            accuracies = f"{output.top1_agreement:10.3f} {accuracy:9.4f} {report.accuracy:9.4f}"
            print(f"{model.name:<28} {kernels:<10} {errors} {accuracies}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    errors = f"{'max LSB':>8} {'rms LSB':>8} {'mean LSB':>9}"
    print(f"{'network':<28} {'kernels':<10} {errors} {'agreement':>10} {'float':>9} {'int8':>9}")
    for seed, build in enumerate(BUILDERS):
        measure(build, seed, options.epochs)
