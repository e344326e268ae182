"""Time of a step of quantization-aware training relative to a step in floating point, beside TF-MOT.

    python -m benchmarks compression cost [--rounds 15]

The depthwise network of tasks.py on images of 28 x 28, batches of 64, ten steps a round, rounds interleaved; with XLA,
which is Keras's default, and without. TF-MOT's ratio is that of tf_keras, which has no XLA by default: its step in
floating point and its quantization-aware one take turns in one process, as its users run it.
"""

import argparse
import time
from collections.abc import Sequence

import keras
import numpy as np

from benchmarks import command_line
from benchmarks.compression.tasks import depthwise_net, loss
from keras_notes.compression import quantize_aware, tfmot

BATCH, STEPS = 64, 10
SCHEMES = {
    "ours": {},
    "ours, live statistics": {"batch_norm": "live"},
    "ours, learned ranges": {"ranges": "learned"},
}


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("compression cost", __doc__)
    parser.add_argument("--rounds", type=int, default=15)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the medians and quartiles of the ratios."""
    rounds = build_parser().parse_args(arguments).rounds
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, BATCH * STEPS)
    net = depthwise_net()
    print(f"a step of training, relative to floating point ({rounds} interleaved rounds, median and quartiles)")
    for compiled, title in ((True, "compiled by XLA"), (False, "not compiled by XLA")):
        seconds = time_schemes(net, x, y, rounds, compiled)
        print(f"  Keras 3, {title}; a step in floating point {1e3 * np.median(seconds['float']) / STEPS:.1f} ms")
        for name in SCHEMES:
            print(f"    {name:<24}{format_ratio(seconds[name], seconds['float'])}", flush=True)
    times = tfmot.step_times(net, x, y, rounds=rounds, steps_per_round=STEPS, batch_size=BATCH)
    print(f"  tf_keras; a step in floating point {1e3 * np.median(times['float']):.1f} ms")
    print(f"    {'TF-MOT':<24}{format_ratio(times['quantized'], times['float'])}")


def time_schemes(net: keras.Model, x: np.ndarray, y: np.ndarray, rounds: int, compiled: bool) -> dict[str, list[float]]:
    """Returns the seconds of each round, by scheme."""
    models = {"float": depthwise_net()}
    models |= {name: quantize_aware(net, calibration=x[:BATCH], **options) for name, options in SCHEMES.items()}
    for model in models.values():
        model.compile(keras.optimizers.Adam(1e-4), loss(), jit_compile=compiled)
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def format_ratio(seconds: list[float], base: list[float]) -> str:
    low, middle, high = np.percentile(np.array(seconds) / np.array(base), [25, 50, 75])
    return f"{middle:6.2f} ({low:.2f} to {high:.2f})"
