"""Accuracy that a distilled student loses to integers, beside the same student from labels.

    python -m benchmarks compression students [--seeds 5]

The protocol. Fashion-MNIST (official split), teacher, student, cache and training in floating point are those of
`distillation help` with all labels: 3,752 steps from labels alone, or by `DistillationLoss` with T = 2 and 0.1 of the
labels' loss. Then each student goes to int8 after training (ranges from the first 256 training images), and by
quantization-aware training from there: 500 steps of Adam at 1e-4, batches of 128, ranges frozen after 400, from labels
alone for the one, under the `Distiller` with the same losses for the other. Accuracy of `predict` on the 10,000 test
images; the drop is that from the student's own accuracy in floating point, seed by seed, in points. Nothing is chosen
on test data.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from benchmarks import command_line
from benchmarks.distillation.help import (
    BATCH,
    LABELS,
    PASSES,
    PLAIN,
    SHAPE,
    TEACHER_PASSES,
    interval,
    plain_distillation,
    train_student,
    train_teacher,
)
from examples.datasets import fashion_mnist
from keras_notes.compression import quantize_aware
from keras_notes.distillation import Distiller, SeededBatches, TeacherCache

RECIPES = {LABELS: None, PLAIN: plain_distillation}
CALIBRATION, AWARE_STEPS, AWARE_RATE = 256, 500, 1e-4
LIMIT = 0.5
STAGES = ("float", "after training", "aware")


def train_aware(student: keras.Model, recipe, cache: TeacherCache, x, y, seed: int) -> keras.Model:
    """Trains the student quantization-aware, by the losses that it had before, and returns the model."""
    model = quantize_aware(student, calibration=x[:CALIBRATION], freeze_after=int(0.8 * AWARE_STEPS))
    batches = SeededBatches(x, y, batch_size=BATCH, seed=seed + 1, batches_per_epoch=AWARE_STEPS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainee = model if recipe is None else Distiller(cache, model, **recipe(AWARE_STEPS))
    trainee.compile(keras.optimizers.Adam(AWARE_RATE), loss)
    trainee.fit(batches if recipe is None else cache.join(batches), verbose=0)
    return model


def measure_student(recipe, cache: TeacherCache, train, test, seed: int) -> list[float]:
    """Returns the accuracy in floating point, after quantization after training, after quantization-aware training."""
    student = train_student(recipe, cache, *train, seed, PASSES * -(-len(train[0]) // BATCH))
    models = (
        student,
        quantize_aware(student, calibration=train[0][:CALIBRATION]),
        train_aware(student, recipe, cache, *train, seed),
    )
    return [float(np.mean(model.predict(test[0], batch_size=500, verbose=0).argmax(-1) == test[1])) for model in models]


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("compression students", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints accuracies, drops, and how far the distilled student's drop exceeds the other's."""
    seeds = build_parser().parse_args(arguments).seeds
    (x, y), (x_test, y_test) = fashion_mnist()
    train, test = (x.reshape(-1, *SHAPE), y.astype("int32")), (x_test.reshape(-1, *SHAPE), y_test)
    teacher = train_teacher(*train, TEACHER_PASSES)
    accuracies_by_recipe: dict[str, list[list[float]]] = {name: [] for name in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache.build(teacher, train[0], Path(folder) / "cache", batch_size=BATCH, verbose=0)
        for seed in range(seeds):
            for name, recipe in RECIPES.items():
                accuracies_by_recipe[name].append(measure_student(recipe, cache, train, test, seed))
                shares = accuracies_by_recipe[name][-1]
                texts = (f"{stage} {share:.4f}" for stage, share in zip(STAGES, shares, strict=True))
                print(f"# seed {seed}, {name}: {', '.join(texts)}", flush=True)
    drops = {}
    print(f"{seeds} seeds, mean and 95 % t-interval")
    for name, rows in accuracies_by_recipe.items():
        shares = np.array(rows).T
        drops[name] = 100 * (shares[0] - shares[1:])
        cells = [f"{stage} {_interval(values)}" for stage, values in zip(STAGES, shares, strict=True)]
        print(f"  {name:<20}{'   '.join(cells)}")
    for place, stage in enumerate(STAGES[1:]):
        more = drops[PLAIN][place] - drops[LABELS][place]
        texts = [f"{name} {_interval(drops[name][place], 2)}" for name in RECIPES]
        print(f"  drop {stage}, in points: {', '.join(texts)}; more for the distilled: {_interval(more, 2)}", end="")
        print(f" ({'within' if more.mean() <= LIMIT else 'MORE THAN'} {LIMIT})")


def _interval(values: np.ndarray, digits: int = 4) -> str:
    mean, half = interval(values)
    return f"{mean:.{digits}f} +- {half:.{digits}f}"
