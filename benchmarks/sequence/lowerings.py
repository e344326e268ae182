"""An LSTM on LiteRT: each lowering and recipe beside Keras's own export.

    python -m benchmarks sequence lowerings [--steps 10 50 200 1000] [--rounds 30] [--every]

LSTM(64) and Dense(6) on HAPT's windows of 50 Hz (6 signals, in standard units of the training windows), trained on the
first 50 steps of each, 6 epochs, Adam from 3e-3 down to 0 by a cosine, seed 0. Sequences of another length are the same
windows cut or repeated, so that the weights are the same at each length. Keras's files: `model.export(format="litert",
input_signature=...)` at batch 1, as a loop, and with `unroll=True` up to 200 steps. Keras's loop in int8 is left out:
TFLiteConverter 2.21.0 ends its process over its quantization after training (tensorflow/tensorflow#101050). Ours:
`convert`, calibrated on 256 training windows; written out up to 200 steps.

Latency: LiteRT's interpreter (XNNPACK) on one thread, files in turns, the median of all rounds and quartiles of their
ratio to the fastest of Keras's float files in the same round; resetting a fused LSTM's state counts. Accuracy: on 600
test windows, evenly spaced. With --every the LSTM returns sequences and the head gives an output a step, of which the
last counts.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import keras_notes as kn
from benchmarks import command_line
from examples.datasets.sequences import hapt

UNITS, TRAINED_STEPS, CALIBRATION, TESTED = 64, 50, 256, 600
LONGEST_WRITTEN_OUT = 200
INTEGERS = ("static_int8", "int16x8")
OURS = {
    "loop": ("float32", "float16", "dynamic_int8", "weight_int4"),
    "unrolled": ("float32", "dynamic_int8", "static_int8", "int16x8"),
    "fused": ("float32", "static_int8"),
}


@dataclass
class File:
    """A file and how long it takes, in microseconds, round by round."""

    tflite: bytes
    accuracy: float = 0.0
    times_us: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._interpreter = Interpreter(model_content=self.tflite, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, sample: np.ndarray) -> np.ndarray:
        """The last logits of one sequence, from a state of zeros."""
        self._interpreter.reset_all_variables()
        self._interpreter.set_tensor(self._input, sample[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output).reshape(-1, 6)[-1]

    def time(self, sample: np.ndarray, repeats: int) -> None:
        """Times a round of runs."""
        start = time.perf_counter()
        for _ in range(repeats):
            self.run(sample)
        self.times_us.append((time.perf_counter() - start) / repeats * 1e6)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("sequence lowerings", __doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 50, 200, 1000])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--every", action="store_true", help="an output a step, not only the last")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each length."""
    options = build_parser().parse_args(arguments)
    weights = train().get_weights()
    for steps in options.steps:
        (x, _), (x_test, y_test) = (set_length(part, steps) for part in load_windows())
        chosen = np.linspace(0, len(x_test) - 1, TESTED).astype(int)
        model = network(steps, every=options.every)
        model.set_weights(weights)
        outputs = model.predict(x_test[chosen], verbose=0).reshape(TESTED, -1, 6)[:, -1]
        expected = float((outputs.argmax(-1) == y_test[chosen]).mean())
        print(f"\n{steps} steps; accuracy in Keras {expected:.4f}")
        files: dict[str, File] = {}
        for name, tflite in convert_all(model, steps, x[:: len(x) // CALIBRATION][:CALIBRATION]):
            files[name] = File(tflite)
        for file in files.values():
            file.accuracy = float(np.mean([file.run(x_test[i]).argmax() == y_test[i] for i in chosen]))
        time_files(files, x_test[0], options.rounds)
        print_table(files)


@functools.cache
def load_windows():
    """Training and test windows in standard units, and activities."""
    (x, y, _), (x_test, y_test, _) = hapt()
    mean, std = x.mean((0, 1)), x.std((0, 1))
    return ((x - mean) / std, y.astype("int32")), ((x_test - mean) / std, y_test.astype("int32"))


def set_length(part, steps: int):
    """Cuts or repeats the windows to a length."""
    x, y = part
    return np.tile(x, (1, -(-steps // x.shape[1]), 1))[:, :steps], y


def network(steps: int, *, unroll: bool = False, every: bool = False) -> keras.Model:
    """The classifier, by Keras's own layer."""
    lstm = keras.layers.LSTM(UNITS, unroll=unroll, return_sequences=every, name="lstm")
    net = [keras.Input((steps, 6), name="series"), lstm]
    return keras.Sequential([*net, keras.layers.Dense(6, name="head")], name="activities")


def train() -> keras.Model:
    """Trains the classifier and returns it."""
    keras.utils.set_random_seed(0)
    x, y = set_length(load_windows()[0], TRAINED_STEPS)
    model = network(TRAINED_STEPS)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, 6 * (len(x) // 64))
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=6, verbose=0)
    return model


def convert_all(model: keras.Model, steps: int, calibration: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Converts in every way; yields the files with their names."""
    for name, unroll in (("keras, loop", False), ("keras, unrolled", True)):
        if not unroll or steps <= LONGEST_WRITTEN_OUT:
            yield f"{name}, float32", export_by_keras(model, steps, unroll)
    for lowering, recipes in OURS.items():
        for recipe in recipes:
            if lowering == "unrolled" and steps > LONGEST_WRITTEN_OUT:
                continue
            with tempfile.TemporaryDirectory() as directory:
                ranges = {"calibration": calibration} if recipe in INTEGERS else {}
                place = Path(directory) / "bundle"
                bundle = kn.convert(model, place, recipe, lowering=lowering, golden=calibration[:4], **ranges)
                yield f"{lowering}, {recipe}", bundle.model_path.read_bytes()


def export_by_keras(model: keras.Model, steps: int, unroll: bool) -> bytes:
    """Exports by Keras alone, at batch 1, and returns the file."""
    again = network(steps, unroll=unroll, every=model.get_layer("lstm").return_sequences)
    again.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        signature = [keras.InputSpec(shape=(1, steps, 6), dtype="float32", name="series")]
        again.export(path, format="litert", input_signature=signature, verbose=False)
        return path.read_bytes()


def time_files(files: dict[str, File], sample: np.ndarray, rounds: int) -> None:
    """Times all files in turns."""
    for _ in range(rounds):
        for file in files.values():
            file.time(sample, repeats=10)


def print_table(files: dict[str, File]) -> None:
    """Ratios are to the fastest of Keras's float files in each round."""
    peers = np.array([files[name].times_us for name in files if name.startswith("keras") and "float32" in name])
    base = peers[np.median(peers, axis=1).argmin()]
    size = len(files["keras, loop, float32"].tflite)
    print(f"  {'':<26}{'bytes':>9}{'of float':>10}{'accuracy':>10}{'us':>8}{'of keras (quartiles)':>24}")
    for name, file in files.items():
        ratio = np.array(file.times_us) / base
        low, middle, high = np.percentile(ratio, (25, 50, 75))
        cells = f"{len(file.tflite):>9,}{len(file.tflite) / size:>10.2f}{file.accuracy:>10.4f}"
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"  {name:<26}{cells}{np.median(file.times_us):>8.0f}{spread:>24}", flush=True)
