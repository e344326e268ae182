"""From a teacher to a verified file on a device: the main job, on scikit-learn's digits (1,797 images of 8 x 8).

    python examples/teacher_to_device.py [--seeds 3] [--output build/digits]

Protocol, declared before anything runs:

* 1,200 training and 597 test images, one stratified split for all. The test images choose nothing: every model is the
  one after its last epoch, and every setting below is fixed.
* A compact student has labels for a tenth of the training images (120), and the teacher's soft labels for all 1,200.
  It is compared with the same student trained on those 120 labels alone, and beside it with one trained on all labels.
  All students take the same number of steps with the same optimizer.
* Distillation at temperature 2: a very small student cannot follow a teacher softened further.
* Everything is repeated with each seed, the teacher included. Accuracies are means over the seeds with the least and
  the largest; files, latencies and pictures are those of the first seed.

It leaves the bundle, report.html and report.json (the same figures) in the output directory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_notes as kn

TRAIN_IMAGES, LABELLED_IMAGES = 1200, 120
TEMPERATURE, STUDENT_LOSS_WEIGHT = 2.0, 0.1
TEACHER_EPOCHS, STUDENT_EPOCHS, BATCH_SIZE, LEARNING_RATE = 30, 60, 32, 2e-3
# Steps between two looks from Python: it changes nothing but the time that small steps take.
STEPS_PER_EXECUTION = 19
EPOCHS_PER_VALIDATION = 3
UNLABELLED = -1
LATENCY_ROUNDS = 5
# So many outputs that a kernel which rounds otherwise would show.
GOLDEN_IMAGES = 360

RUNNER = Path(__file__).resolve().parent.parent / "tflite" / "python" / "run.py"
# Runs the device's program where an import of Keras or TensorFlow fails.
ON_DEVICE = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'keras_notes')));"
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)

TEACHER, FEW_LABELS, ALL_LABELS, DISTILLED, INT8 = (
    "teacher",
    "student from 120 labels",
    "student from 1,200 labels",
    "student distilled",
    "int8 on LiteRT",
)


def digits():
    """The images as (samples, 8, 8, 1) in [0, 1] with their labels: training and test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    return train_test_split(images, labels, train_size=TRAIN_IMAGES, stratify=labels, random_state=0)


def build_teacher():
    """A CNN of 62,250 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(10),
        ],
        name="digits_teacher",
    )


def build_student():
    """A CNN of 1,362 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(10),
        ],
        name="digits_student",
    )


class Progress(keras.callbacks.Callback):
    """One line a model: epoch, loss and time left, refreshed where stdout is a terminal."""

    def __init__(self, what, epochs):
        super().__init__()
        self.what, self.epochs, self.start = what, epochs, time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        done, elapsed = epoch + 1, time.monotonic() - self.start
        is_last = done == self.epochs
        if is_last or (sys.stdout.isatty() and done % 2 == 0):
            left = "" if is_last else f", {elapsed / done * (self.epochs - done):.0f} s left"
            progress = f"epoch {done}/{self.epochs}, loss {logs['loss']:.4f}, {elapsed:.0f} s{left}"
            line = f"  {self.what}: {progress}"
            print(f"\r{line:<100}" if sys.stdout.isatty() else line, end="\n" if is_last else "", flush=True)


def train(model, what, loss, x, y, test, epochs):
    """Trains a model or a distiller for a fixed number of epochs.

    Returns:
        The test accuracy after the last epoch, and those on the way as {epoch: accuracy}.
    """
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=STEPS_PER_EXECUTION)
    fitted = model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        validation_data=test,
        validation_freq=EPOCHS_PER_VALIDATION,
        callbacks=[Progress(what, epochs)],
        verbose=0,
    )
    validated = range(EPOCHS_PER_VALIDATION, epochs + 1, EPOCHS_PER_VALIDATION)
    curve = dict(zip(validated, fitted.history.get("val_accuracy", ()), strict=True))
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    return accuracy, {**curve, epochs: accuracy}


def crossentropy():
    """Cross-entropy on logits, blind to samples without a label."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=UNLABELLED)


def train_all(seed, x, y, test, is_labelled, epochs):
    """Trains the teacher and the three students of one seed.

    Returns:
        By name: the models, their test accuracies, and their accuracy curves.
    """
    repeated = np.tile(np.flatnonzero(is_labelled), TRAIN_IMAGES // LABELLED_IMAGES)
    teacher_epochs, student_epochs = epochs
    models, accuracies, curves = {}, {}, {}

    def run(name, model, trained, x, y, epochs):
        accuracies[name], curves[name] = train(trained, name, crossentropy(), x, y, test, epochs)
        models[name] = model

    keras.utils.set_random_seed(seed)
    teacher = build_teacher()
    run(TEACHER, teacher, teacher, x, y, teacher_epochs)
    for name, chosen in ((FEW_LABELS, repeated), (ALL_LABELS, slice(None))):
        keras.utils.set_random_seed(seed)
        student = build_student()
        run(name, student, student, x[chosen], y[chosen], student_epochs)
    keras.utils.set_random_seed(seed)
    student = build_student()
    loss = kn.losses.DistillationLoss(temperature=TEMPERATURE)
    distiller = kn.Distiller(teacher, student, loss, student_loss_weight=STUDENT_LOSS_WEIGHT)
    run(DISTILLED, student, distiller, x, np.where(is_labelled, y, UNLABELLED), student_epochs)
    return models, accuracies, curves


def convert_all(models, x, test, output):
    """Bundles of the first seed's models as float32, and of the distilled student as int8; each one verified."""
    bundles = {}
    for name, model in models.items():
        folder = output / "float32" / name.replace(" ", "-").replace(",", "")
        bundles[name] = kn.convert(model, folder, "float32", golden=x[:GOLDEN_IMAGES], overwrite=True)
        print(f"  {name}: float32, {bundles[name].model_bytes:,} bytes", flush=True)
    bundles[INT8] = convert_int8(models[DISTILLED], x, output / "bundle")
    for name, bundle in bundles.items():
        report = kn.verify(bundle, *test)
        bundles[name] = bundle.with_metrics({"test_accuracy": report.accuracy})
    print(report)
    return bundles


def convert_int8(student, x, directory):
    """The student in full int8, its ranges set by the training images."""
    return kn.convert(
        student,
        directory,
        "static_int8",
        calibration=x,
        golden=x[:GOLDEN_IMAGES],
        labels=[str(digit) for digit in range(10)],
        preprocessing="grey levels 0 (paper) to 16 (ink), divided by 16",
        overwrite=True,
    )


def run_on_device(bundles):
    """What tflite/python/run.py prints for each bundle: medians over interleaved rounds."""
    rounds = {name: [] for name in bundles}
    for _ in range(LATENCY_ROUNDS):
        for name, bundle in bundles.items():
            command = [sys.executable, "-c", ON_DEVICE, str(RUNNER), str(bundle.directory), "--repeat", "300"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                sys.exit(f"{name}: run.py ended with exit code {result.returncode}: {result.stdout}{result.stderr}")
            rounds[name].append(json.loads(result.stdout))
    return {
        name: {**lines[0], "latency_ms_p50": statistics.median(line["latency_ms_p50"] for line in lines)}
        for name, lines in rounds.items()
    }


def table_rows(accuracies, models, bundles, devices):
    """One dict a row of the table; `error_lsb` is None for float files, which have no integer grid."""
    return [
        {
            "name": name,
            "parameters": models[DISTILLED if name == INT8 else name].count_params(),
            "bytes": bundles[name].model_bytes,
            "accuracy": statistics.mean(accuracies[name]),
            "accuracy_by_seed": accuracies[name],
            "latency_ms_p50": devices[name]["latency_ms_p50"],
            "max_error_lsb": devices[name]["max_error_lsb"],
        }
        for name in (TEACHER, FEW_LABELS, ALL_LABELS, DISTILLED, INT8)
    ]


def formatted(rows):
    """The table as text."""
    lines = [
        f"{'':<26}{'parameters':>11}{'bytes':>9}  {'test accuracy':<25}{'latency p50':>12}{'max error':>11}",
        "-" * 94,
    ]
    for row in rows:
        minimum, maximum = min(row["accuracy_by_seed"]), max(row["accuracy_by_seed"])
        accuracy = f"{row['accuracy']:.4f} ({minimum:.4f} to {maximum:.4f})"
        error = "-" if row["max_error_lsb"] is None else f"{row['max_error_lsb']:.1f} LSB"
        lines.append(
            f"{row['name']:<26}{row['parameters']:>11,}{row['bytes']:>9,}  {accuracy:<25}"
            f"{row['latency_ms_p50']:>9.4f} ms{error:>11}"
        )
    return "\n".join(lines)


def predictions_on_litert(bundle, x):
    """Classes that the .tflite file gives, through its own interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(bundle.model_path), num_threads=1).get_signature_runner()
    (output,) = (entry.name for entry in bundle.manifest.signatures[0].outputs)
    return np.array([runner(image=image[None])[output].argmax() for image in x])


def main():
    """Runs the whole job and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how often everything is repeated")
    parser.add_argument("--output", type=Path, default=Path("build/digits"), metavar="DIR")
    parser.add_argument(
        "--epochs",
        type=int,
        nargs=2,
        default=(TEACHER_EPOCHS, STUDENT_EPOCHS),
        metavar="N",
        help="of the teacher and of each student",
    )
    options = parser.parse_args()
    if options.seeds < 1 or min(options.epochs) < 1:
        parser.error(f"--seeds and --epochs must be >= 1. Received: {options.seeds} and {options.epochs}.")
    start = time.monotonic()
    print(__doc__.partition("Protocol")[2].partition("\n\n")[2].rpartition("\n\n")[0], flush=True)

    x, x_test, y, y_test = digits()
    test = (x_test, y_test)
    labelled, _ = train_test_split(np.arange(TRAIN_IMAGES), train_size=LABELLED_IMAGES, stratify=y, random_state=0)
    is_labelled = np.isin(np.arange(TRAIN_IMAGES), labelled)

    accuracies = {name: [] for name in (TEACHER, FEW_LABELS, ALL_LABELS, DISTILLED, INT8)}
    for seed in range(options.seeds):
        print(f"\nTraining, seed {seed + 1} of {options.seeds}")
        trained, accuracies_of_seed, curves_of_seed = train_all(seed, x, y, test, is_labelled, options.epochs)
        for name, accuracy in accuracies_of_seed.items():
            accuracies[name].append(accuracy)
        if seed == 0:
            models, curves = trained, curves_of_seed
            print("\nConverting, and verifying against the trained models")
            bundles = convert_all(models, x, test, options.output)
            accuracies[INT8].append(bundles[INT8].manifest.metrics["test_accuracy"])
        else:
            bundle = convert_int8(trained[DISTILLED], x, options.output / f"seed_{seed}" / "bundle")
            accuracies[INT8].append(kn.verify(bundle, *test).accuracy)

    print("\nRunning on LiteRT, where neither keras nor tensorflow can be imported", flush=True)
    rows = table_rows(accuracies, models, bundles, run_on_device(bundles))
    predicted = predictions_on_litert(bundles[INT8], x_test)
    # Here, so that benchmarks can import this module without this folder on their path.
    from digits_report import write_report

    write_report(options.output, rows, curves, x_test, y_test, predicted, str(kn.verify(bundles[INT8], *test)))
    print(f"\n{formatted(rows)}\n")
    print(
        f"Seeds: {options.seeds}. Bundle, report.html and report.json are in {options.output}/ "
        f"({time.monotonic() - start:.0f} s)."
    )


if __name__ == "__main__":
    main()
