"""From the sensors of a phone to what its owner does: an LSTM teacher, a small student, and its files for devices.

    python examples/activity_on_phone.py [--seed 0] [--epochs 15] [--output build/activity]

Data: HAPT (Reyes-Ortiz et al. 2015), six activities, acceleration in g and rotation in rad/s, the means of four samples
at 50 Hz, official split by subject. Found as datasets/sequences.py says. Protocol, declared before anything runs:

* A phone never says when an activity begins. So the networks learn from streams of 10.24 s (128 steps), put together
  of two stretches of 5.12 s of one subject, often of two activities, and are asked at every step. The first 1.28 s
  after a beginning are left out of training and measuring: before that nobody could know.
* Teacher: two LSTMs of 64, dropout 0.5. Student: one LSTM of 16, distilled by `kn.Distiller` with its defaults. Noise
  on the inputs, 15 epochs of 2,048 streams in batches of 16, Adam from 3e-3 down to 0 by a cosine. The last step
  counts.
* For windows the student is trained for one more epoch in the integers of the device (`quantize_aware`, 1e-3): by
  calibration alone, int8 rounds its 32 steps further from the float student than `verify` lets pass.
* Measured on the nine test subjects: the whole of a subject's stretches one after the other, the state never reset; and
  windows of 2.56 s by themselves, each from a fresh state.

The units of the sensors become standard units inside of the model, in float32, so a phone feeds what it reads. It
leaves two bundles in the output directory: `window` (int8, 32 steps at once) and `stream` (int16x8, one step a call,
the state an input and an output), and prints their accuracy on LiteRT beside that of Keras.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from datasets.sequences import hapt

import keras_notes as kn
from keras_notes.conversion import streaming_model

LABELS = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying")
STEPS_AT_ONCE, WINDOW, FEATURES = 4, 32, 6
PART, SETTLING, STREAMS = 64, 16, 2048
TEACHER, STUDENT, BATCH, RATE, CALIBRATION = (64, 64), (16,), 16, 3e-3, 128
AWARE_BATCH, AWARE_RATE = 64, 1e-3
UNITS = "standard_units"
WORDS = (
    "Acceleration with gravity in g along x, y and z, then rotation in rad/s around x, y and z, at 12.5 Hz: the means "
    "of four samples at 50 Hz, of a phone worn at the waist."
)


def stretches(x, y, subject):
    """By subject, the (signal, activity) of each stretch: windows that overlap are one; four samples are one step."""
    by_subject: dict[int, list] = {}
    half = x.shape[1] // 2
    pieces = [x[0]]
    for i in range(1, len(x) + 1):
        goes_on = i < len(x) and subject[i] == subject[i - 1] and np.array_equal(x[i][:half], x[i - 1][half:])
        if goes_on:
            pieces.append(x[i][half:])
            continue
        signal = np.concatenate(pieces)
        signal = signal.reshape(-1, STEPS_AT_ONCE, FEATURES).mean(1)
        by_subject.setdefault(int(subject[i - 1]), []).append((signal, int(y[i - 1])))
        pieces = [x[i]] if i < len(x) else []
    return by_subject


def streams(by_subject, count, seed):
    """Streams of two parts, the activity at each step, and 0 where it cannot be known yet."""
    rng = np.random.default_rng(seed)
    long = {subject: [s for s in parts if len(s[0]) >= PART] for subject, parts in by_subject.items()}
    x, y = np.empty((count, 2 * PART, FEATURES), "float32"), np.empty((count, 2 * PART), "int32")
    weights = np.ones((count, 2 * PART), "float32")
    for row in range(count):
        chosen = long[rng.choice(sorted(long))]
        for part in range(2):
            signal, activity = chosen[rng.integers(len(chosen))]
            start, place = rng.integers(len(signal) - PART + 1), slice(part * PART, (part + 1) * PART)
            x[row, place], y[row, place] = signal[start : start + PART], activity
            weights[row, part * PART : part * PART + SETTLING] = 0.0
    return x, y, weights


def network(units, mean, variance, steps, *, noise=0.0, dropout=0.0, sequences=False):
    """LSTMs one upon the other, and a head; the units of the sensors become standard units inside."""
    net = [keras.layers.Normalization(mean=mean, variance=variance, name=UNITS)]
    net += [keras.layers.GaussianNoise(noise)] if noise else []
    for number, size in enumerate(units, start=1):
        net += [kn.layers.LSTM(size, return_sequences=sequences or number < len(units), name=f"lstm_{number}")]
        net += [keras.layers.Dropout(dropout)] if dropout else []
    inputs = keras.Input((steps, FEATURES), name="sample")
    return keras.Sequential([inputs, *net, keras.layers.Dense(len(LABELS), name="head")], name="activity")


def fitted(model, data, epochs):
    """Trains a model or Distiller."""
    x, y, weights = data
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(x) // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss=loss)
    model.fit(x, y, sample_weight=weights, batch_size=BATCH, epochs=epochs, verbose=2)
    return model


def trained_student(train, epochs, seed):
    """A student as the teacher taught it, for windows of 32 steps; the teacher, for any length."""
    signals = np.concatenate([signal for parts in train.values() for signal, _ in parts])
    units = {"mean": signals.mean(0), "variance": signals.var(0)}
    data = streams(train, STREAMS, seed)
    keras.utils.set_random_seed(seed)
    teacher = fitted(network(TEACHER, **units, steps=None, noise=0.5, dropout=0.5, sequences=True), data, epochs)
    learner = network(STUDENT, **units, steps=None, noise=0.3, sequences=True)
    fitted(kn.Distiller(teacher, learner, kn.losses.DistillationLoss()), data, epochs)
    student = network(STUDENT, **units, steps=WINDOW)
    for layer in student.layers:
        layer.set_weights(learner.get_layer(layer.name).get_weights())
    return teacher, learner, student


def whole_streams(test):
    """The whole of each test subject: its signal, the activity at each step, and where it is measured."""
    for parts in test.values():
        signal = np.concatenate([signal for signal, _ in parts])
        activity = np.concatenate([np.full(len(signal), number) for signal, number in parts])
        counts = np.concatenate([np.arange(len(signal)) >= SETTLING for signal, _ in parts])
        yield signal, activity, counts


def accuracy_of_streams(outputs_of, test):
    """The share of steps of all test subjects; `outputs_of` gives the outputs along each of some signals."""
    signals, activities, counts = zip(*whole_streams(test), strict=True)
    parts = zip(outputs_of(signals), activities, counts, strict=True)
    return float(np.concatenate([(outputs.argmax(-1) == activity)[at] for outputs, activity, at in parts]).mean())


def in_keras(model):
    """What the model gives along signals, all at once."""

    def outputs_of(signals):
        batch = np.zeros((len(signals), max(map(len, signals)), FEATURES), "float32")
        for row, signal in zip(batch, signals, strict=True):
            row[: len(signal)] = signal
        outputs = model.predict(batch, batch_size=len(batch), verbose=0)
        return [row[: len(signal)] for row, signal in zip(outputs, signals, strict=True)]

    return outputs_of


def step_by_step(bundle):
    """What the file gives along signals, its state carried by hand as a phone would."""
    interpreter = Interpreter(str(bundle.model_path), num_threads=1)
    (entry,) = bundle.manifest.signatures
    runner = interpreter.get_signature_runner(entry.name)
    zeros = {name: np.zeros(d["shape"], d["dtype"]) for name, d in runner.get_input_details().items()}

    def along(signal):
        states = {state.input: zeros[state.input] for state in entry.states}
        for sample in signal:
            results = runner(sample=sample[None, None].astype("float32"), **states)
            states = {state.input: results[state.output] for state in entry.states}
            yield results["output"][0]

    return lambda signals: [np.array(list(along(signal))) for signal in signals]


def in_integers(student, x, y):
    """The student for windows, trained on in int8, but for the sensors: their units differ by more than int8 holds."""
    aware = kn.compression.quantize_aware(student, calibration=x[:: len(x) // 256], skip=(UNITS,))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(keras.optimizers.Adam(AWARE_RATE), loss=loss)
    aware.fit(x, y, batch_size=AWARE_BATCH, epochs=1, verbose=2)
    return aware


def convert_all(aware, student, windows, train, output):
    """The bundles by name, verified."""
    arguments = {"labels": list(LABELS), "preprocessing": WORDS, "overwrite": True}
    stream = streams(train, CALIBRATION, seed=1)[0].reshape(-1, 1, FEATURES)
    # A state of 8 bits forgets: what it rounds away at a step is gone for all that follow.
    recipe = {"default": "int16x8", "layers": {UNITS: "float32"}}
    bundles = {
        "window": kn.convert(aware, output / "window", golden=windows[:: len(windows) // 360][:360], **arguments),
        "stream": kn.convert(
            streaming_model(student), output / "stream", recipe, calibration=stream, golden=stream[:256], **arguments
        ),
    }
    for bundle in bundles.values():
        kn.verify(bundle)
    return bundles


def windows_of(x):
    """Each window by itself, four samples as one step."""
    return x.reshape(len(x), WINDOW, STEPS_AT_ONCE, FEATURES).mean(2)


def main():
    """Trains, converts, verifies and measures."""
    parser = argparse.ArgumentParser(description="An activity classifier for a phone, whole and step by step.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("build/activity"), metavar="DIR")
    options = parser.parse_args()
    start = time.perf_counter()
    (x, y, subject), (x_test, y_test, subject_test) = hapt()
    train, test = stretches(x, y, subject), stretches(x_test, y_test, subject_test)
    teacher, learner, student = trained_student(train, options.epochs, options.seed)
    windows, windows_test, y_test = windows_of(x), windows_of(x_test), y_test.astype("int32")
    aware = in_integers(student, windows, y.astype("int32"))
    bundles = convert_all(aware, student, windows, train, options.output)
    by_windows = {
        net: float((net.predict(windows_test, verbose=0).argmax(-1) == y_test).mean()) for net in (student, aware)
    }
    rows = [
        ("teacher in Keras, streams", accuracy_of_streams(in_keras(teacher), test), teacher.count_params()),
        ("student in Keras, streams", accuracy_of_streams(in_keras(learner), test), student.count_params()),
        ("student on LiteRT, streams", accuracy_of_streams(step_by_step(bundles["stream"]), test), None),
        ("student in Keras, windows", by_windows[student], None),
        ("student in int8, windows", by_windows[aware], None),
        ("student on LiteRT, windows", kn.verify(bundles["window"], windows_test, y_test).accuracy, None),
    ]
    for name, accuracy, parameters in rows:
        print(f"{name:<28}{accuracy:8.4f}{'' if parameters is None else f'  {parameters:,} parameters'}")
    for name, bundle in bundles.items():
        print(f"{options.output / name}: {bundle.model_bytes:,} bytes")
    print(f"{(time.perf_counter() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
