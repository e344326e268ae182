"""Test accuracy in floating point, after quantization, and after quantization-aware training, beside TF-MOT.

    python -m benchmarks compression accuracy [--seeds 5] [--only digits fashion hapt trec]

The protocol, set down before the first run. Data, networks and training in floating point are those of tasks.py.
Quantization after training takes ranges from the first 256 training samples. Quantization-aware training goes on from
the float network with Adam at 1e-4, batches of 64 in one order for all schemes; each of 10, 50, 200 and 1,000 steps is
a run of its own, whose ranges freeze after four fifths of it. TF-MOT has the same weights, batches, optimizer and
steps, in tf_keras (`keras_notes.compression.tfmot`); it has no calibration and freezes nothing, so its one run is
looked at four times. It takes the networks of digits and Fashion-MNIST only. "equalized" goes on from `equalize` of the
float network, by the same 256 samples, which changes nothing in floating point. A seed sets weights, order and factors.

Accuracy on the test samples is that of `predict`, here and for TF-MOT: what the device gives, as nearly as parity.py
says. Nothing is chosen on test data. Differences to TF-MOT are taken seed by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import keras
import numpy as np

from benchmarks import command_line
from benchmarks.compression.tasks import BATCH, CALIBRATION, TASKS, Data, accuracy, batches, loss, train_float
from keras_notes.compression import equalize, quantize_aware, tfmot

STEPS = (10, 50, 200, 1000)
RATE = 1e-4
DEFAULT, TFMOT = "ours", "TF-MOT"
EQUALIZED = "ours, equalized"
OURS = {
    DEFAULT: {},
    EQUALIZED: {},
    "ours, learned ranges": {"ranges": "learned"},
    "ours, live statistics": {"batch_norm": "live"},
}


def train_quantized(
    model: keras.Model, data: Data, steps: int, seed: int, *, from_logits: bool = True, **options
) -> keras.Model:
    """Quantizes the model and trains it for `steps` steps; 0 is quantization after training."""
    calibration = data[0][0][:CALIBRATION]
    aware = quantize_aware(model, calibration=calibration, freeze_after=int(0.8 * steps) if steps else None, **options)
    if steps:
        aware.compile(keras.optimizers.Adam(RATE), loss(from_logits))
        aware.fit(*batches(data, steps, seed), batch_size=BATCH, shuffle=False, verbose=0)
    return aware


def measure_tfmot(model: keras.Model, data: Data, seed: int) -> dict[int, float]:
    """Runs TF-MOT once and returns the accuracy at each of `STEPS`."""
    x, y = batches(data, STEPS[-1], seed)
    runs = tfmot.quantize_aware(
        model, x, y, steps=STEPS[-1], marks=STEPS, batch_size=BATCH, learning_rate=RATE, golden=data[1][0], seed=seed
    )
    return {run.step: accuracy(run.outputs, data) for run in runs}


def measure_task(name: str, seed: int) -> dict[str, float]:
    """Trains by every scheme and returns the accuracy by scheme and steps."""
    task = TASKS[name]
    data, model = task.data(seed), train_float(task, seed)

    def of(candidate: keras.Model) -> float:
        return accuracy(candidate.predict(data[1][0], batch_size=500, verbose=0), data)

    rows = {"float": of(model), "ours, after training": of(train_quantized(model, data, 0, seed))}
    starts = dict.fromkeys(OURS if task.tfmot else [DEFAULT], model)
    if task.tfmot:
        starts[EQUALIZED] = equalize(model, data[0][0][:CALIBRATION])
        rows[f"{EQUALIZED}, after training"] = of(train_quantized(starts[EQUALIZED], data, 0, seed))
    for scheme, start in starts.items():
        for steps in STEPS:
            rows[f"{scheme}, {steps} steps"] = of(train_quantized(start, data, steps, seed, **OURS[scheme]))
            keras.backend.clear_session()
    if task.tfmot:
        rows |= {f"{TFMOT}, {steps} steps": share for steps, share in measure_tfmot(model, data, seed).items()}
    return rows


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("compression accuracy", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=tuple(TASKS), default=[], metavar="TASK", help=", ".join(TASKS))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each task."""
    options = build_parser().parse_args(arguments)
    for name in options.only or TASKS:
        rows_by_seed = []
        for seed in range(options.seeds):
            rows_by_seed.append(measure_task(name, seed))
            print(
                f"# {name}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in rows_by_seed[-1].items()), flush=True
            )
        print(f"{name:<34}{'mean':>8}{'least':>8}{'most':>8}{'std':>8}")
        for row in rows_by_seed[0]:
            print(f"  {row:<32}{_spread([rows[row] for rows in rows_by_seed])}", flush=True)
        if TASKS[name].tfmot:
            for scheme in (DEFAULT, EQUALIZED):
                print(f"  {scheme} less TF-MOT, by seed")
                for steps in STEPS:
                    ours, theirs = f"{scheme}, {steps} steps", f"{TFMOT}, {steps} steps"
                    print(
                        f"  {f'{steps} steps':<32}{_spread([rows[ours] - rows[theirs] for rows in rows_by_seed])}",
                        flush=True,
                    )


def _spread(values: list[float]) -> str:
    std = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return "".join(f"{value:>8.4f}" for value in (np.mean(values), min(values), max(values), std))
