"""Activity recognition on a phone: from an LSTM teacher to a student that takes one sensor sample at a time.

    python -m benchmarks sequence streaming [--seeds 3]

HAPT (official split by subject): windows of 2.56 s as the means of four successive samples, 32 steps of 6 signals at
12.5 Hz in standard units of the training windows, six activities. The teacher has two LSTMs of 64 with a dropout of 0.5
behind each, the students one of 16; Gaussian noise on the inputs in training, of 0.5 and 0.3; 15 epochs each, batches
of 64, Adam from 3e-3 down to 0 by a cosine. The distilled student learns by `kn.Distiller` with its defaults
(temperature 4, half of the weight on the labels). Noise, dropout and widths were chosen on six of the 21 training
subjects, held out for it (every fourth; three seeds); nothing by the test data.

On the device: `streaming_model(student)` by each recipe, calibrated on 128 training windows one after the other. A test
window counts by the output after its last sample; the states start from zeros at each window, as they did in training.
Latency: p50 of one sample on LiteRT (XNNPACK, one thread). Beside it the whole window at once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import keras_notes as kn
from benchmarks import command_line
from benchmarks.compression.tasks import Data, motions
from keras_notes.conversion import streaming_model

TEACHER, STUDENT, EPOCHS, BATCH, CALIBRATION = 64, 16, 15, 64, 128
RECIPES = ("float32", "dynamic_int8", "int16x8", "static_int8")
INTEGERS = ("static_int8", "int16x8")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("sequence streaming", __doc__)
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints mean, standard deviation, least and largest over the seeds."""
    seeds = build_parser().parse_args(arguments).seeds
    accuracies: dict[str, list[float]] = {}
    costs: dict[str, tuple[int, float]] = {}
    start = time.perf_counter()
    for seed in range(seeds):
        for name, accuracy, *cost in measure_seed(seed):
            accuracies.setdefault(name, []).append(accuracy)
            if cost:
                costs[name] = (cost[0], cost[1])
            print(f"seed {seed} {name}: {accuracy:.4f} {cost or ''}", flush=True)
        keras.backend.clear_session()
    print(f"{seeds} seeds, {(time.perf_counter() - start) / 60:.0f} minutes")
    print(f"{'':<40}{'accuracy':>34}{'bytes':>9}{'us a call':>11}")
    for name, values in accuracies.items():
        spread = f"{np.mean(values):.4f} +- {np.std(values, ddof=1):.4f} ({min(values):.4f} to {max(values):.4f})"
        cost_cells = f"{costs[name][0]:>9,}{costs[name][1]:>11.1f}" if name in costs else ""
        print(f"  {name:<38}{spread:>34}{cost_cells}")


def measure_seed(seed: int):
    """Yields a name, the test accuracy, and of files their bytes and microseconds a call."""
    data = motions()
    x_test, y_test = data[1]
    keras.utils.set_random_seed(seed)
    teacher = fit(network(TEACHER, TEACHER, noise=0.5, dropout=0.5), data)
    yield f"teacher, {teacher.count_params():,} parameters", accuracy_in_keras(teacher, x_test, y_test)
    keras.utils.set_random_seed(seed)
    alone = fit(network(STUDENT, noise=0.3), data)
    yield f"student from data, {alone.count_params():,}", accuracy_in_keras(alone, x_test, y_test)
    keras.utils.set_random_seed(seed)
    student = network(STUDENT, noise=0.3)
    fit(kn.Distiller(teacher, student, kn.losses.DistillationLoss()), data)
    yield "student distilled", accuracy_in_keras(student, x_test, y_test)
    calibration = data[0][0][:: len(data[0][0]) // CALIBRATION][:CALIBRATION]
    yield from measure_files(student, calibration, x_test, y_test)


def network(*units: int, noise: float, dropout: float = 0.0) -> keras.Model:
    """LSTMs one upon the other, and a head."""
    net: list[keras.Layer] = [keras.layers.GaussianNoise(noise)]
    for number, size in enumerate(units, start=1):
        net += [kn.layers.LSTM(size, return_sequences=number < len(units)), keras.layers.Dropout(dropout)]
    return keras.Sequential([keras.Input((32, 6), name="sample"), *net, keras.layers.Dense(6)], name="motions")


def fit(model, data: Data):
    """Trains a model or Distiller and returns it."""
    (x, y), _ = data
    rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * -(-len(x) // BATCH))
    model.compile(keras.optimizers.Adam(rate), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def accuracy_in_keras(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """The accuracy."""
    return float((model.predict(x, verbose=0).argmax(-1) == y).mean())


def measure_files(student: keras.Model, calibration: np.ndarray, x: np.ndarray, y: np.ndarray):
    """Converts the student by every recipe; yields the rows of its files."""
    step = streaming_model(student)
    stream = calibration.reshape(-1, 1, calibration.shape[-1])
    for recipe in RECIPES:
        for name, model, samples in (("a sample a call", step, stream), ("a window a call", student, calibration)):
            with tempfile.TemporaryDirectory() as directory:
                ranges = {"calibration": samples} if recipe in INTEGERS else {}
                bundle = kn.convert(model, Path(directory) / "bundle", recipe, golden=samples[:32], **ranges)
                run = run_sample_by_sample if model is step else run_whole_windows
                accuracy, micros = run(bundle, x, y)
                yield f"{recipe}, {name}", accuracy, bundle.model_path.stat().st_size, micros


def run_sample_by_sample(bundle, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy and median microseconds of a call, states carried by hand as a phone would."""
    interpreter = Interpreter(str(bundle.model_path), num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = bundle.manifest.signatures
    runner = interpreter.get_signature_runner(entry.name)
    inside = {name: detail["index"] for name, detail in runner.get_input_details().items()}
    outside = {name: detail["index"] for name, detail in runner.get_output_details().items()}
    zeros = {name: np.zeros(d["shape"], d["dtype"]) for name, d in runner.get_input_details().items()}
    del runner  # while it is there, the interpreter does not run by itself
    right, times = [], []
    for window, label in zip(x, y, strict=True):
        states = zeros
        for sample in window:
            for state in entry.states:
                interpreter.set_tensor(inside[state.input], states[state.input])
            interpreter.set_tensor(inside["sample"], sample[None, None])
            start = time.perf_counter()
            interpreter.invoke()
            times.append(time.perf_counter() - start)
            states = {state.input: interpreter.get_tensor(outside[state.output]) for state in entry.states}
        right.append(interpreter.get_tensor(outside["output"])[0].argmax() == label)
    return float(np.mean(right)), float(np.median(times) * 1e6)


def run_whole_windows(bundle, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy and median microseconds of a call."""
    interpreter = Interpreter(str(bundle.model_path), num_threads=1)
    interpreter.allocate_tensors()
    inside, outside = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    right, times = [], []
    for window, label in zip(x, y, strict=True):
        interpreter.set_tensor(inside, window[None])
        start = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - start)
        right.append(interpreter.get_tensor(outside)[0].argmax() == label)
    return float(np.mean(right)), float(np.median(times) * 1e6)
