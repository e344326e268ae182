"""Whether a distilled student loses more to integers than the same student from labels. The protocol:

    python benchmarks/compression/compression.py students [--seeds 5]

Fashion-MNIST (official split), teacher, student, cache and training in floating point are those of distillation_help.py
with all labels: 3,752 steps from labels alone, or by `DistillationLoss` with T = 2 and 0.1 of the labels' loss. Then
each student goes to int8 after training (ranges from the first 256 training images), and by quantization-aware training
from there: 500 steps of Adam at 1e-4, batches of 128, ranges frozen after 400, from labels alone for the one, under the
`Distiller` with the same losses for the other. Accuracy of `predict` on the 10,000 test images; the drop is that from
the student's own accuracy in floating point, seed by seed, in points. Nothing is chosen on test data.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np

from benchmarks.distillation.help import (
    BATCH,
    LABELS,
    PASSES,
    PLAIN,
    SHAPE,
    TEACHER_PASSES,
    interval,
    plain,
    trained_student,
    trained_teacher,
)
from examples.datasets import fashion_mnist
from keras_notes.compression import quantize_aware
from keras_notes.distillation import Distiller, SeededBatches, TeacherCache

RECIPES = {LABELS: None, PLAIN: plain}
CALIBRATION, AWARE_STEPS, AWARE_RATE = 256, 500, 1e-4
LIMIT = 0.5
STAGES = ("float", "after training", "aware")


def aware(student: keras.Model, recipe, cache: TeacherCache, x, y, seed: int) -> keras.Model:
    """The student after quantization-aware training, by the losses that it had before."""
    made = quantize_aware(student, calibration=x[:CALIBRATION], freeze_after=int(0.8 * AWARE_STEPS))
    batches = SeededBatches(x, y, batch_size=BATCH, seed=seed + 1, batches_per_epoch=AWARE_STEPS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained = made if recipe is None else Distiller(cache, made, **recipe(AWARE_STEPS))
    trained.compile(keras.optimizers.Adam(AWARE_RATE), loss)
    trained.fit(batches if recipe is None else cache.join(batches), verbose=0)
    return made


def accuracies(recipe, cache: TeacherCache, train, test, seed: int) -> list[float]:
    """In floating point, after quantization after training, after quantization-aware training."""
    student = trained_student(recipe, cache, *train, seed, PASSES * -(-len(train[0]) // BATCH))
    models = (
        student,
        quantize_aware(student, calibration=train[0][:CALIBRATION]),
        aware(student, recipe, cache, *train, seed),
    )
    return [float(np.mean(one.predict(test[0], batch_size=500, verbose=0).argmax(-1) == test[1])) for one in models]


def main(seeds: int) -> None:
    """Prints accuracies, drops, and how far the distilled student's drop exceeds the other's."""
    (x, y), (x_test, y_test) = fashion_mnist()
    train, test = (x.reshape(-1, *SHAPE), y.astype("int32")), (x_test.reshape(-1, *SHAPE), y_test)
    teacher = trained_teacher(*train, TEACHER_PASSES)
    found: dict[str, list[list[float]]] = {name: [] for name in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache.build(teacher, train[0], Path(folder) / "cache", batch_size=BATCH, verbose=0)
        for seed in range(seeds):
            for name, recipe in RECIPES.items():
                found[name].append(accuracies(recipe, cache, train, test, seed))
                texts = (f"{stage} {share:.4f}" for stage, share in zip(STAGES, found[name][-1], strict=True))
                print(f"# seed {seed}, {name}: {', '.join(texts)}", flush=True)
    drops = {}
    print(f"{seeds} seeds, mean and 95 % t-interval")
    for name, rows in found.items():
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
