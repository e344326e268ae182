"""Losses for imbalanced labels, side by side on real data.

    python -m benchmarks losses imbalance [--seeds 5]

The protocol, set down before the first run. Common to both: hyper-parameters of a loss are those of its paper, and
nothing is searched. Epochs, learning rate, batch size and network are the same for all losses; the last epoch counts;
nothing is chosen on test data. Adam hardly sees the scale of a loss, so sums over labels and means over labels compare.
The last layer's bias starts at 0 for all losses (RetinaNet's prior of 0.01 is not used). The reference is plain
cross-entropy: each other loss is compared with it seed by seed. Seeds vary the training, not the data: the spread
leaves out that another sample (260 positives; 13 of the rarest label in Yeast's test set) would give other numbers.

Mammography: 6 features, 2.3 % positive, five parts; each part in turn is the test set, and the other four train a
network 6-32-1 on features standardized by them. Measure: average precision of the logits, pooled over the five test
sets, and the mean of the five. Trap: one blank row occurs 3,329 times, 7 of them positive, so a random split has it on
both sides. Here the parts go by a hash of the row and all copies are in part 4; they tie whatever the network says,
part 4 is almost half the rows, and it trains on a rate of positives that the others do not have. `class_balanced_alpha`
takes its counts from the training parts, and a network with two logits.

Yeast: 103 features, 14 labels, official split; 103-64-14, on features standardized by the rows trained on. The last
fifth of the training set (as Keras's `validation_split` takes it) is held out from every loss, and sets the thresholds:
per label the one of highest F1 there, 0.5 where that label has no positives there. Measures on the test set: macro-F1
and micro-F1 at probability 0.5, macro-F1 at those thresholds, macro average precision.
"""

import argparse
import time
from collections.abc import Sequence

import keras
import numpy as np
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from benchmarks import command_line
from examples.datasets import PARTS, mammography, yeast
from keras_notes.losses import AsymmetricLoss, FocalLoss, class_balanced_alpha

# Lin et al. 2017 (arXiv:1708.02002); the rows without alpha and with gamma 1 change one thing each.
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25
# Ben-Baruch et al. 2020 (arXiv:2009.14119): positives count as in cross-entropy, negatives below the margin not at all.
ASYMMETRIC = {"gamma_positive": 0.0, "gamma_negative": 4.0, "margin": 0.05}
# Cui et al. 2019 (arXiv:1901.05555): beta of class_balanced_alpha.
BETA = 0.9999

MAMMOGRAPHY_FIT = {"hidden": 32, "epochs": 20, "batch_size": 256, "learning_rate": 5e-3}
YEAST_FIT = {"hidden": 64, "epochs": 30, "batch_size": 32, "learning_rate": 1e-3}
VALIDATION_SHARE = 0.2
STEPS_PER_EXECUTION = 32
REFERENCE = "cross-entropy"


def cross_entropy():
    """The reference."""
    return keras.losses.BinaryCrossentropy(from_logits=True)


def independent_focal(gamma=FOCAL_GAMMA, alpha=None):
    """Focal loss of one sigmoid a label."""
    return FocalLoss(gamma, alpha, exclusive=False, from_logits=True)


def train(loss, x, y, outputs, fit, class_weight=None):
    """A network with one hidden layer, trained from the current random state."""
    hidden = keras.layers.Dense(fit["hidden"], activation="relu")
    model = keras.Sequential([keras.Input(x.shape[1:]), hidden, keras.layers.Dense(outputs)])
    optimizer = keras.optimizers.Adam(fit["learning_rate"])
    # Networks this small train in less time than XLA takes to compile them.
    model.compile(optimizer, loss, steps_per_execution=STEPS_PER_EXECUTION, jit_compile=False)
    model.fit(x, y, fit["batch_size"], fit["epochs"], class_weight=class_weight, verbose=0)
    return model


def compute_logits(model, x):
    """All logits in one batch."""
    return keras.ops.convert_to_numpy(model(x))


def standardize(x_train, *others):
    """All of them as float32, by mean and standard deviation of the first."""
    mean, deviation = x_train.mean(0), x_train.std(0)
    return [((x - mean) / deviation).astype("float32") for x in (x_train, *others)]


def scores_of(loss, x, y, x_test, class_weight=None):
    """One score a test row: the logits of a network with one output, trained on x, y."""
    return compute_logits(train(loss, x, y[:, None], 1, MAMMOGRAPHY_FIT, class_weight), x_test)[:, 0]


def weighted_scores(x, y, x_test):
    """`scores_of`, where each class counts as if both had as many rows."""
    weights = {label: len(y) / (2 * count) for label, count in enumerate(np.bincount(y))}
    return scores_of(cross_entropy(), x, y, x_test, weights)


def class_balanced_scores(x, y, x_test):
    """One score a test row: the log-odds of a network with two outputs, one an exclusive class."""
    alpha = class_balanced_alpha(np.bincount(y).tolist(), BETA)
    loss = FocalLoss(FOCAL_GAMMA, alpha, from_logits=True)
    logits = compute_logits(train(loss, x, y, 2, MAMMOGRAPHY_FIT), x_test)
    return logits[:, 1] - logits[:, 0]


MAMMOGRAPHY_SCORES = {
    REFERENCE: lambda *split: scores_of(cross_entropy(), *split),
    "cross-entropy, class_weight": weighted_scores,
    "focal, gamma 2, alpha 0.25": lambda *split: scores_of(independent_focal(alpha=FOCAL_ALPHA), *split),
    "focal, gamma 2": lambda *split: scores_of(independent_focal(), *split),
    "focal, class_balanced_alpha": class_balanced_scores,
}

YEAST_LOSSES = {
    REFERENCE: cross_entropy,
    "focal, gamma 1": lambda: independent_focal(1.0),
    "focal, gamma 2": independent_focal,
    "focal, gamma 2, alpha 0.25": lambda: independent_focal(alpha=FOCAL_ALPHA),
    "asymmetric, gammas 0 and 4": lambda: AsymmetricLoss(**ASYMMETRIC, from_logits=True),
}


def measure_mammography(seed, data):
    """{measure: {loss: value}} of one seed."""
    x, y, part = data
    results = {"average precision, pooled": {}, "average precision, mean of parts": {}}
    for name, scores_by in MAMMOGRAPHY_SCORES.items():
        scores, precisions = np.empty(len(y)), []
        for test_part in range(PARTS):
            is_test = part == test_part
            x_train, x_test = standardize(x[~is_test], x[is_test])
            keras.utils.set_random_seed(seed)
            scores[is_test] = scores_by(x_train, y[~is_test], x_test)
            precisions.append(average_precision_score(y[is_test], scores[is_test]))
        results["average precision, pooled"][name] = average_precision_score(y, scores)
        results["average precision, mean of parts"][name] = np.mean(precisions)
    return results


def best_threshold(labels, logits):
    """The logit from which F1 is highest, less half the gap below it; 0 (probability 0.5) without positives."""
    if not labels.any():
        return 0.0
    precision, recall, thresholds = precision_recall_curve(labels, logits)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    return thresholds[best] if best == 0 else (thresholds[best] + thresholds[best - 1]) / 2


def measure_yeast(seed, data):
    """{measure: {loss: value}} of one seed."""
    (x, y), (x_test, y_test) = data
    kept = round(len(x) * (1 - VALIDATION_SHARE))
    x_train, x_validation, x_test = standardize(x[:kept], x[kept:], x_test)
    results = {"macro-F1 at 0.5": {}, "macro-F1, thresholds": {}, "micro-F1 at 0.5": {}, "macro average precision": {}}
    for name, build_loss in YEAST_LOSSES.items():
        keras.utils.set_random_seed(seed)
        model = train(build_loss(), x_train, y[:kept], y.shape[1], YEAST_FIT)
        held_out, logits = compute_logits(model, x_validation), compute_logits(model, x_test)
        thresholds = [best_threshold(*columns) for columns in zip(y[kept:].T, held_out.T, strict=True)]
        values = (
            f1_score(y_test, logits >= 0, average="macro", zero_division=0),
            f1_score(y_test, logits >= thresholds, average="macro", zero_division=0),
            f1_score(y_test, logits >= 0, average="micro", zero_division=0),
            average_precision_score(y_test, logits, average="macro"),
        )
        for by_loss, value in zip(results.values(), values, strict=True):
            by_loss[name] = value
    return results


def print_table(title, measurements):
    """A block a measure, a row a loss: over the seeds, and against the reference seed by seed."""
    print(f"\n{title}, {len(measurements)} seeds; difference to {REFERENCE} seed by seed, and seeds won, tied, lost")
    for measure in measurements[0]:
        print(f"{measure:<33} {'mean':>7} {'least':>7} {'largest':>7} {'std':>7} {'difference':>11} "
              f"{'least':>8} {'largest':>8} {'won':>4} {'tied':>4} {'lost':>4}")  # fmt: skip
        reference = np.array([by_measure[measure][REFERENCE] for by_measure in measurements])
        for name in measurements[0][measure]:
            values = np.array([by_measure[measure][name] for by_measure in measurements])
            spread = f"{values.mean():7.4f} {values.min():7.4f} {values.max():7.4f} {values.std(ddof=1):7.4f}"
            print(
                f"  {name:<31} {spread} {'' if name == REFERENCE else format_differences(values - reference)}".rstrip()
            )


def format_differences(difference):
    """Mean and range of the differences, and how many are above, at and below 0."""
    counts = [int(np.sum(np.sign(difference) == sign)) for sign in (1, 0, -1)]
    spread = f"{difference.mean():+11.4f} {difference.min():+8.4f} {difference.max():+8.4f}"
    return f"{spread} {counts[0]:4} {counts[1]:4} {counts[2]:4}"


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("losses imbalance", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables of both data sets."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds must be >= 2 (a spread is printed). Received: {options.seeds}")
    start = time.perf_counter()
    for title, load, measure in (
        ("Mammography, 2.3 % positive, 5 parts", mammography, measure_mammography),
        ("Yeast, 14 labels, official split", yeast, measure_yeast),
    ):
        data = load()
        print_table(title, [measure(seed, data) for seed in range(options.seeds)])
    print(f"\n{time.perf_counter() - start:.0f} s")
