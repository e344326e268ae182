"""A student made smaller, step by step, each under its teacher: fewer channels, zeros, few values, integers.

    python examples/smaller_student.py [--seeds 3] [--output build/smaller]

Protocol, declared before anything runs: scikit-learn's digits, 1,200 training and 597 test images, one split for all. A
CNN is trained on the labels; a student of three convolutions is distilled from it. Then half of the student's channels
go; three quarters of the weights that are left become 0, in steps; each kernel keeps 16 different values; and at last
the student trains in the integers of the device. Each step is one `fit` of a Distiller with the same teacher. The test
images choose nothing: every model is the one after its last epoch, and every setting below is fixed.

After each step the student is converted to int8 and runs on LiteRT. Accuracies are means over the seeds, with the least
and the largest; bytes, and the table of kernels at the end, are those of the first seed, whose last bundle stays in the
output directory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_notes as kn
from keras_notes.compression import PolynomialSparsity, cluster, prune, prune_channels, quantize_aware, summary

TRAIN_IMAGES, BATCH_SIZE, TEMPERATURE = 1200, 32, 2.0
TEACHER_EPOCHS, STUDENT_EPOCHS, STEP_EPOCHS = 30, 40, 20
CHANNELS, SPARSITY, CLUSTERS = 0.5, 0.75, 16
STEPS = STEP_EPOCHS * -(-TRAIN_IMAGES // BATCH_SIZE)


def digits():
    """The images as (samples, 8, 8, 1) in [0, 1] with their labels: training and test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    return train_test_split(images, labels, train_size=TRAIN_IMAGES, stratify=labels, random_state=0)


def cnn(*widths):
    """Convolutions with batch normalization, of which all but the first halve the image, and logits."""
    parts = [keras.Input((8, 8, 1), name="image")]
    for number, width in enumerate(widths):
        parts.append(layers.Conv2D(width, 3, 2 if number else 1, padding="same", use_bias=False))
        parts += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    return keras.Sequential([*parts, layers.Flatten(), layers.Dense(10)])


def fitted(model, x, y, epochs, rate):
    """A model or a distiller after training, its learning rate going down to 0."""
    steps = epochs * -(-len(x) // BATCH_SIZE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), loss)
    model.fit(x, y, epochs=epochs, batch_size=BATCH_SIZE, verbose=0)
    return model


def distilled(teacher, student, x, y, epochs=STEP_EPOCHS, rate=1e-3):
    """The student after distillation."""
    distiller = kn.Distiller(teacher, student, student_loss_weight=0.5, temperature=TEMPERATURE)
    return fitted(distiller, x, y, epochs, rate).student


def students(teacher, x, y):
    """What was done to the student, and the student: step by step, each from the one before."""
    student = distilled(teacher, cnn(32, 48, 48), x, y, STUDENT_EPOCHS, 2e-3)
    yield "distilled", student
    student = distilled(teacher, prune_channels(student, CHANNELS), x, y)
    yield "half of the channels", student
    schedule = PolynomialSparsity(0.2, SPARSITY, begin_step=0, end_step=3 * STEPS // 4)
    student = distilled(teacher, prune(student, schedule), x, y)
    yield "three quarters zeros", student
    student = distilled(teacher, cluster(student, CLUSTERS), x, y)
    yield "16 values a kernel", student
    yield "trained in int8", distilled(teacher, quantize_aware(student, calibration=x), x, y, rate=2e-4)


def converted(student, x, directory):
    """The student's bundle in int8; one that was trained in integers brings its own ranges."""
    knows_integers = isinstance(student, kn.compression.CompressedModel) and student.scheme is not None
    calibration = None if knows_integers else x[:256]
    return kn.convert(student, directory, calibration=calibration, golden=x[:64], overwrite=True)


def zipped_bytes(path):
    """What a store ships."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.write(path, "model.tflite")
        return file.tell()


def main() -> None:
    """Prints a line for each step, and the kernels of the last one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("build/smaller"))
    options = parser.parse_args()
    x, x_test, y, y_test = digits()
    accuracies: dict[str, list[float]] = {}
    sizes, kernels = {}, None
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        teacher = fitted(cnn(64, 128, 128), x, y, TEACHER_EPOCHS, 2e-3)
        for name, student in students(teacher, x, y):
            with tempfile.TemporaryDirectory() as elsewhere:
                bundle = converted(student, x, options.output if seed == 0 else Path(elsewhere) / "bundle")
                accuracies.setdefault(name, []).append(kn.verify(bundle, x_test, y_test).accuracy)
                path = bundle.directory / "model.tflite"
                sizes.setdefault(name, (path.stat().st_size, zipped_bytes(path)))
            if seed == 0:
                kernels = summary(student)
        print(
            f"  seed {seed}: " + ", ".join(f"{name} {values[-1]:.4f}" for name, values in accuracies.items()),
            flush=True,
        )
    print(f"{'int8 on LiteRT':<24}{'accuracy':>26}{'bytes':>10}{'zipped':>10}")
    for name, values in accuracies.items():
        spread = f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
        print(f"{name:<24}{spread:>26}{sizes[name][0]:>10,}{sizes[name][1]:>10,}")
    print(f"\nthe kernels of the last one\n{kernels}")


if __name__ == "__main__":
    main()
