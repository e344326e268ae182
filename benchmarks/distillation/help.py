"""Accuracy of a small student with distillation and without.

    python -m benchmarks distillation help [--seeds 5] [--quick]

The protocol, set down before the first run. Data: Fashion-MNIST, official split. (a) All 60,000 training images have
their label. (b) 1,000 of them have it, 100 of each class, drawn by the seed; the others have the label -1, and the
student's loss ignores them (`ignore_class=-1`). The student that has labels alone trains on those 1,000, for as many
steps as the others.

Teacher: a network of five convolutions with batch normalization, 0.16 M parameters, trained once on all labels, for (a)
and for (b): (b) is the case of a good model that has to become small where few labels are at hand. It runs once, into a
`TeacherCache` (float16); the runs read it by `join`.

Student: three convolutions, 2,870 parameters, no normalization. All runs are alike: 3,752 steps (8 passes over 60,000),
batches of 128, Adam from 3e-3 down to 0 by a cosine, the last step counts. A seed sets the student's first weights and
the order of the images; so the rows of a seed are compared in pairs. Nothing is chosen on test data.

Losses: DistillationLoss with T = 2 and 0.1 of the labels' loss (Hinton et al. 2015: section 3 finds low temperatures,
2.5 to 4, best for very small students; section 2 gives the labels a low weight). Others, with settings of their papers
and none searched: DecoupledDistillationLoss (alpha 1, beta 8, T = 4, beside the full labels' loss, warmed up linearly
over the first twelfth of the steps as the authors do); CorrelationDistillationLoss (T = 4, weight 2 beside the full
labels' loss); DistillationLoss with standardized logits, and JensenShannonDistillationLoss (beta 1/2), both with T = 2
and 0.1 of the labels' loss. The two of these four with the highest accuracy on the last 5,000 training images, in one
run of each on the first 55,000 with another seed, go into the tables. (The teacher saw the labels of these 5,000; the
students of that choice saw nothing of them.)

Measures on the 10,000 test images: accuracy, mean and 95 % t-interval over the seeds; its difference to the student
from labels alone, seed by seed, and seeds won, tied and lost; fidelity, the share of images on which student and
teacher say the same class. Seeds vary the training (and in (b) the labels that are known), not the test images: of
10,000 images, an accuracy of 0.88 has a standard error of 0.003 from the images alone, most of which pairs share.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from scipy.stats import t as student_t

from benchmarks import command_line
from examples.datasets import fashion_mnist
from keras_notes import losses
from keras_notes.distillation import Distiller, SeededBatches, TeacherCache

SHAPE, CLASSES, BATCH = (28, 28, 1), 10, 128
LEARNING_RATE, PASSES, TEACHER_PASSES = 3e-3, 8, 6
EVALUATED_AT_ONCE = 1_000
LABELS_PER_CLASS, VALIDATION, SELECTION_SEED, TEACHER_SEED = 100, 5_000, 1_000, 2_000
LOW_TEMPERATURE, LOW_WEIGHT, WARM_UP = 2.0, 0.1, 1 / 12
LABELS, PLAIN = "labels alone", "DistillationLoss"
ALL, FEW = "(a) all labels", "(b) 1,000 labels, the other images without"


def plain_distillation(steps):
    """T^2 KL of the softened classes."""
    return {"distillation_losses": losses.DistillationLoss(LOW_TEMPERATURE), "student_loss_weight": LOW_WEIGHT}


def decoupled(steps):
    """DKD beside the labels' loss, each with weight 1 (1/2 and 1/2 here, which Adam hardly tells apart)."""
    return {
        "distillation_losses": losses.DecoupledDistillationLoss(alpha=1.0, beta=8.0, temperature=4.0),
        "distillation_loss_weights": lambda step: ops.minimum(ops.cast(step, "float32") / (WARM_UP * steps), 1.0),
        "student_loss_weight": 0.5,
    }


def correlation(steps):
    """DIST with weight 2 beside the labels' loss."""
    return {
        "distillation_losses": losses.CorrelationDistillationLoss(temperature=4.0),
        "distillation_loss_weights": 2.0,
        "student_loss_weight": 0.5,
    }


def standardized_distillation(steps):
    """T^2 KL of the softened classes of standardized logits."""
    loss = losses.DistillationLoss(LOW_TEMPERATURE, standardize=True)
    return {"distillation_losses": loss, "student_loss_weight": LOW_WEIGHT}


def jensen_shannon(steps):
    """Half way between forward and reverse KL."""
    loss = losses.JensenShannonDistillationLoss(0.5, LOW_TEMPERATURE)
    return {"distillation_losses": loss, "student_loss_weight": LOW_WEIGHT}


CANDIDATES = {
    "DecoupledDistillationLoss": decoupled,
    "CorrelationDistillationLoss": correlation,
    "DistillationLoss, standardized": standardized_distillation,
    "JensenShannonDistillationLoss": jensen_shannon,
}


def teacher_network():
    """Five convolutions with batch normalization."""

    def block(width):
        return [layers.Conv2D(width, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU()]

    parts = [*block(24), layers.MaxPooling2D(), *block(48), *block(48), layers.MaxPooling2D(), *block(96), *block(96)]
    return _network(parts)


def student_network():
    """Three convolutions, each of which halves the image."""
    return _network([layers.Conv2D(n, 3, 2, padding="same", activation="relu") for n in (8, 12, 16)])


def _network(parts):
    ends = [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input(SHAPE, dtype="uint8"), layers.Rescaling(1 / 255), *parts, *ends])


def compile_model(model, steps):
    """Compiles a model with the optimizer and the loss on labels of all runs, and returns it."""
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


def train_teacher(x, y, passes):
    """Trains the teacher on all labels and returns it."""
    keras.utils.set_random_seed(TEACHER_SEED)
    batches = SeededBatches(x, y, batch_size=BATCH, seed=TEACHER_SEED)
    model = compile_model(teacher_network(), passes * len(batches))
    model.fit(batches, epochs=passes, verbose=0)
    return model


def train_student(recipe, cache, x, y, seed, steps):
    """Trains a student for `steps` batches of x, y; a recipe of None is training on labels alone."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    student = student_network()
    batches = SeededBatches(x, y, batch_size=BATCH, seed=seed, batches_per_epoch=steps)
    if recipe is None:
        compile_model(student, steps).fit(batches, verbose=0)
    else:
        compile_model(Distiller(cache, student, **recipe(steps)), steps).fit(cache.join(batches), verbose=0)
    return student


def hide_labels(y, seed):
    """Keeps some labels of each class, drawn by the seed; the others become -1."""
    rng = np.random.default_rng((seed, 1))
    known = np.concatenate([rng.permutation(np.flatnonzero(y == n))[:LABELS_PER_CLASS] for n in range(CLASSES)])
    result = np.full_like(y, -1)
    result[known] = y[known]
    return result


def predict_classes(model, x):
    """The most probable class of each image. Not by `predict`: each of many small models would be compiled for it."""
    parts = np.split(x, range(EVALUATED_AT_ONCE, len(x), EVALUATED_AT_ONCE))
    return np.concatenate([ops.convert_to_numpy(model(part, training=False)).argmax(-1) for part in parts])


def select_candidates(cache, x, y, steps):
    """Selects the two candidates with the highest accuracy on held-out training images, and prints all of them."""
    kept = len(x) - min(VALIDATION, len(x) // 4)
    accuracy = {}
    for name, recipe in CANDIDATES.items():
        student = train_student(recipe, cache, x[:kept], y[:kept], SELECTION_SEED, steps)
        accuracy[name] = np.mean(predict_classes(student, x[kept:]) == y[kept:])
    chosen = sorted(accuracy, key=accuracy.get, reverse=True)[:2]
    print(f"\nSelection: accuracy on the last {len(x) - kept} training images, one run each on the first {kept}")
    for name, value in accuracy.items():
        print(f"  {name:<32} {value:.4f}{'  chosen' if name in chosen else ''}")
    return {name: recipe for name, recipe in CANDIDATES.items() if name in chosen}


def measure_seed(setting, recipes, cache, data, test, teacher_classes, seed, steps):
    """Trains by every recipe with one seed; returns {row: (accuracy, fidelity)}."""
    (x, y), (x_test, y_test) = data, test
    if setting == FEW:
        y = hide_labels(y, seed)
    results = {}
    for name, recipe in recipes.items():
        has_label = y >= 0
        own = (x[has_label], y[has_label]) if recipe is None else (x, y)
        classes = predict_classes(train_student(recipe, cache, *own, seed, steps), x_test)
        results[name] = np.mean(classes == y_test), np.mean(classes == teacher_classes)
    return results


def interval(values):
    """Mean and half the width of its 95 % t-interval."""
    half = student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return np.mean(values), half


def print_table(setting, measurements):
    """A row a loss."""
    print(f"\n{setting}; {len(measurements)} seeds, mean and 95 % t-interval; difference to {LABELS} seed by seed")
    print(f"  {'':<32} {'accuracy':<17} {'difference':<18} {'won':>4} {'tied':>4} {'lost':>4}  fidelity")
    reference = np.array([by_row[LABELS][0] for by_row in measurements])
    for name in measurements[0]:
        accuracy, fidelity = np.array([by_row[name] for by_row in measurements]).T
        difference = accuracy - reference
        counts = [int(np.sum(np.sign(difference) == sign)) for sign in (1, 0, -1)]
        pairs = "{:+.4f} +- {:.4f}".format(*interval(difference)) if name != LABELS else ""
        numbers = "{:4} {:4} {:4}".format(*counts) if name != LABELS else ""
        print(f"  {name:<32} {'{:.4f} +- {:.4f}'.format(*interval(accuracy)):<17} {pairs:<18} {numbers:<14}  "
              f"{fidelity.mean():.4f}")  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("distillation help", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="a minute or less, to try the program: not for its figures"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints all tables."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds must be >= 2 (a spread is printed). Received: {options.seeds}")
    seeds, quick = options.seeds, options.quick
    start = time.perf_counter()
    (x, y), (x_test, y_test) = fashion_mnist()
    passes, teacher_passes = PASSES, TEACHER_PASSES
    if quick:
        seeds, passes, teacher_passes, x, y = 2, 1, 1, x[:1920], y[:1920]
    x, x_test, y = x.reshape(-1, *SHAPE), x_test.reshape(-1, *SHAPE), y.astype("int32")
    steps = passes * -(-len(x) // BATCH)
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    teacher = train_teacher(x, y, teacher_passes)
    teacher_classes = predict_classes(teacher, x_test)
    print(f"Teacher: {teacher.count_params():,} parameters, test accuracy {np.mean(teacher_classes == y_test):.4f}, "
          f"{time.perf_counter() - start:.0f} s; student: {student_network().count_params():,} parameters, "
          f"{steps} steps")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache.build(teacher, x, Path(folder) / "cache", batch_size=BATCH, verbose=0)
        recipes = {LABELS: None, PLAIN: plain_distillation, **select_candidates(cache, x, y, steps)}
        run = functools.partial(measure_seed, steps=steps, teacher_classes=teacher_classes)
        for setting in (ALL, FEW):
            results = [run(setting, recipes, cache, (x, y), (x_test, y_test), seed=seed) for seed in range(seeds)]
            print_table(setting, results)
    print(f"\n{time.perf_counter() - start:.0f} s")
