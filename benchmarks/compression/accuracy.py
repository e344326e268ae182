"""Accuracy after quantization-aware training. The protocol, set down before the first run:

    python benchmarks/compression/compression.py accuracy [--seeds 5] [--only digits fashion hapt trec]

Data, networks and training in floating point are those of compression_tasks.py. Quantization after training takes
ranges from the first 256 training samples. Quantization-aware training goes on from the float network with Adam at
1e-4, batches of 64 in one order for all schemes; each of 10, 50, 200 and 1,000 steps is a run of its own, whose ranges
freeze after four fifths of it. TF-MOT has the same weights, batches, optimizer and steps, in tf_keras
(`keras_notes.compression.tfmot`); it has no calibration and freezes nothing, so its one run is looked at four times. It
takes the networks of digits and Fashion-MNIST only. "equalized" goes on from `equalize` of the float network, by the
same 256 samples, which changes nothing in floating point. A seed sets weights, order and factors.

Accuracy on the test samples is that of `predict`, here and for TF-MOT: what the device gives, as nearly as
compression_parity.py says. Nothing is chosen on test data. Differences to TF-MOT are taken seed by seed.
"""

from __future__ import annotations

import keras
import numpy as np

from benchmarks.compression.tasks import BATCH, CALIBRATION, TASKS, Data, accuracy, batches, loss, trained_float
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


def quantized(
    model: keras.Model, data: Data, steps: int, seed: int, *, from_logits: bool = True, **options
) -> keras.Model:
    """Trained for so many steps in integers; 0 is quantization after training."""
    calibration = data[0][0][:CALIBRATION]
    made = quantize_aware(model, calibration=calibration, freeze_after=int(0.8 * steps) if steps else None, **options)
    if steps:
        made.compile(keras.optimizers.Adam(RATE), loss(from_logits))
        made.fit(*batches(data, steps, seed), batch_size=BATCH, shuffle=False, verbose=0)
    return made


def by_tfmot(model: keras.Model, data: Data, seed: int) -> dict[int, float]:
    """The accuracy of TF-MOT's run by its steps."""
    x, y = batches(data, STEPS[-1], seed)
    found = tfmot.quantize_aware(
        model, x, y, steps=STEPS[-1], marks=STEPS, batch_size=BATCH, learning_rate=RATE, golden=data[1][0], seed=seed
    )
    return {one.step: accuracy(one.outputs, data) for one in found}


def rows_of(name: str, seed: int) -> dict[str, float]:
    """The accuracy by scheme and steps."""
    task = TASKS[name]
    data, model = task.data(seed), trained_float(task, seed)

    def of(one: keras.Model) -> float:
        return accuracy(one.predict(data[1][0], batch_size=500, verbose=0), data)

    rows = {"float": of(model), "ours, after training": of(quantized(model, data, 0, seed))}
    starts = dict.fromkeys(OURS if task.tfmot else [DEFAULT], model)
    if task.tfmot:
        starts[EQUALIZED] = equalize(model, data[0][0][:CALIBRATION])
        rows[f"{EQUALIZED}, after training"] = of(quantized(starts[EQUALIZED], data, 0, seed))
    for scheme, start in starts.items():
        for steps in STEPS:
            rows[f"{scheme}, {steps} steps"] = of(quantized(start, data, steps, seed, **OURS[scheme]))
            keras.backend.clear_session()
    if task.tfmot:
        rows |= {f"{TFMOT}, {steps} steps": share for steps, share in by_tfmot(model, data, seed).items()}
    return rows


def main(seeds: int, names: list[str]) -> None:
    """Prints a table for each task."""
    for name in names or TASKS:
        found = []
        for seed in range(seeds):
            found.append(rows_of(name, seed))
            print(f"# {name}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in found[-1].items()), flush=True)
        print(f"{name:<34}{'mean':>8}{'least':>8}{'most':>8}{'std':>8}")
        for row in found[0]:
            print(f"  {row:<32}{_spread([rows[row] for rows in found])}", flush=True)
        if TASKS[name].tfmot:
            for scheme in (DEFAULT, EQUALIZED):
                print(f"  {scheme} less TF-MOT, by seed")
                for steps in STEPS:
                    ours, theirs = f"{scheme}, {steps} steps", f"{TFMOT}, {steps} steps"
                    print(
                        f"  {f'{steps} steps':<32}{_spread([rows[ours] - rows[theirs] for rows in found])}", flush=True
                    )


def _spread(values: list[float]) -> str:
    std = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return "".join(f"{value:>8.4f}" for value in (np.mean(values), min(values), max(values), std))
