"""One-hot classes are equally far from each other; integer codes are not, and a model takes their order for real.

    python examples/one_hot_distance.py [--seeds 4] [--output build/one_hot_distance]

Protocol, declared before anything runs:

* Distances: ten one-hot codes and ten integer codes, every pair, Euclidean.
* As an input: a feature of ten categories in no order, each with an effect on the target drawn from a normal
  distribution; beside it a numeric feature of slope 1, and noise of standard deviation 0.5, below which no test error
  can fall. 500 training and 5,000 test samples a seed. A linear model (least squares) and a network (one hidden layer
  of 64) read the category as an integer or as one-hot.
* As a target: scikit-learn's digits, 1,200 training and 597 test images, another stratified split a seed. The same
  network (one hidden layer of 64), once with one output that regresses the class number, rounded, and once with ten
  outputs under softmax cross-entropy. Both train alike; the settings were tried out on the regression and on these
  images, so its accuracy is, if anything, too high. The last epoch counts.
* Everything is repeated with the classes numbered otherwise: 20 numberings for the linear model, 5 for networks, the
  first of them the given one.
* Ambiguous cases: every training image of a 1 or a 7 occurs twice, once under each label, as if two annotators
  disagreed. Asked for all test images of a 1 or a 7.

Integer codes are right where the order is real and steps are alike (counts, years). For the rest a class number is a
name: adding, averaging or measuring names is what integer coding makes a model do.

References: Bishop 2006, Pattern Recognition and Machine Learning, sections 4.1.3 (least squares on class codes) and
1.5.5 (the squared loss is least at the conditional mean).

It leaves report.html, its figures as .svg, and report.json in the output directory.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from figure_page import start, write_page
from one_hot_distance_figures import ambiguous_section, distance_section, input_section, target_section
from side_by_side import dense, predict, train
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES = 10
NOISE = 0.5
TRAINING_SAMPLES, TEST_SAMPLES = 500, 5000
TRAINING_IMAGES = 1200
AMBIGUOUS = (1, 7)
LINEAR_NUMBERINGS, NETWORK_NUMBERINGS = 20, 5
HIDDEN_UNITS = 64
SETTINGS = {"epochs": 60, "batch_size": 50, "learning_rate": 2e-2}


def one_hot(numbers):
    """Class numbers of shape (...,) as (..., CLASSES)."""
    return np.asarray(keras.ops.one_hot(numbers, CLASSES))


def standardized(numbers):
    """Class numbers as an integer code that models take well: mean 0 and standard deviation 1 over the classes."""
    return (numbers - (CLASSES - 1) / 2) / np.arange(CLASSES).std()


def numberings(count, rng):
    """Ways to number the classes, of shape (count, CLASSES): the given one, then random ones."""
    return np.stack([np.arange(CLASSES), *(rng.permutation(CLASSES) for _ in range(count - 1))])


def pairwise_distances(codes):
    """Euclidean distances between the rows of `codes`."""
    return np.sqrt(np.square(codes[:, None] - codes[None, :]).sum(axis=-1))


def root_mean_square(errors, axis=0):
    """sqrt(mean(errors^2))."""
    return np.sqrt(np.square(errors).mean(axis=axis))


# --- As an input ---


def categorical_samples(seed):
    """(category, numeric feature, target) for training and test, and the categories' effects."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=CLASSES)
    samples = TRAINING_SAMPLES + TEST_SAMPLES
    category, numeric = rng.integers(CLASSES, size=samples), rng.normal(size=samples)
    target = effects[category] + numeric + rng.normal(scale=NOISE, size=samples)
    return category, numeric, target, effects


def coded(category, numeric, numbering, coding):
    """The features of a model: the category by its code, the numeric feature as it is."""
    numbers = numbering[category]
    code = one_hot(numbers) if coding == "one-hot" else standardized(numbers)[:, None]
    return np.concatenate([code, numeric[:, None]], axis=-1)


def fit_linear(x, y):
    """Least squares with a constant; where one-hot makes it redundant, the shortest solution."""
    design = np.concatenate([x, np.ones((len(x), 1))], axis=-1)
    weights = np.linalg.lstsq(design[:TRAINING_SAMPLES], y[:TRAINING_SAMPLES], rcond=None)[0]
    return design @ weights, weights


def measure_linear(seeds, coding):
    """Test errors of the linear model, of shape (seeds, LINEAR_NUMBERINGS)."""
    errors = np.empty((seeds, LINEAR_NUMBERINGS))
    for seed in range(seeds):
        category, numeric, y, _ = categorical_samples(seed)
        for i, numbering in enumerate(numberings(LINEAR_NUMBERINGS, np.random.default_rng([seed, 1]))):
            predicted, _ = fit_linear(coded(category, numeric, numbering, coding), y)
            errors[seed, i] = root_mean_square((predicted - y)[TRAINING_SAMPLES:])
    return errors


def measure_network(seeds, coding):
    """Test errors of the network with one hidden layer, of shape (seeds, NETWORK_NUMBERINGS)."""
    x, y = [], []
    for seed in range(seeds):
        category, numeric, target, _ = categorical_samples(seed)
        for numbering in numberings(NETWORK_NUMBERINGS, np.random.default_rng([seed, 1])):
            x.append(coded(category, numeric, numbering, coding))
            y.append(target[:, None])
    x, y = np.stack(x, axis=1).astype("float32"), np.stack(y, axis=1).astype("float32")
    model = network(x.shape[1:], 1, np.repeat(np.arange(seeds), NETWORK_NUMBERINGS))
    train(model, "mse", x[:TRAINING_SAMPLES], y[:TRAINING_SAMPLES], **SETTINGS)
    errors = root_mean_square((predict(model, x) - y)[TRAINING_SAMPLES:, :, 0])
    return errors.reshape(seeds, NETWORK_NUMBERINGS)


def network(input_shape, outputs, seeds):
    """One hidden layer for each member of `seeds`; the output layer starts at zero, so no class is favoured."""
    keras.utils.set_random_seed(0)
    members, _ = input_shape
    hidden = dense(HIDDEN_UNITS, members, "relu", seeds=seeds)
    return keras.Sequential([keras.Input(input_shape), hidden, dense(outputs, members)])


def measure_input(seeds):
    """Test errors by model and coding, and the first seed's effects as the linear models see them."""
    category, numeric, y, effects = categorical_samples(0)
    seen = {}
    for coding in ("integer", "one-hot"):
        _, weights = fit_linear(coded(category, numeric, np.arange(CLASSES), coding), y)
        every = coded(np.arange(CLASSES), np.zeros(CLASSES), np.arange(CLASSES), coding)
        seen[coding] = (every @ weights[:-1] + weights[-1]).tolist()
    return {
        "noise": NOISE,
        "linear": {coding: measure_linear(seeds, coding).tolist() for coding in seen},
        "network": {coding: measure_network(seeds, coding).tolist() for coding in seen},
        "effects": {"true": effects.tolist(), **seen},
    }


# --- As a target ---


def digits_by_seed(seeds):
    """Images (samples, seeds, 64) of training and test, and digits (samples, seeds) of training and test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32")
    splits = [
        train_test_split(images, labels, train_size=TRAINING_IMAGES, stratify=labels, random_state=seed)
        for seed in range(seeds)
    ]
    return [np.stack(arrays, axis=1) for arrays in zip(*splits, strict=True)]


def train_regression(x, numbers, seeds):
    """A function from images to real class numbers; trained on the mean squared error."""
    model = network(x.shape[1:], 1, seeds)
    target = standardized(numbers)[..., None].astype("float32")
    train(model, "mse", x, target, **SETTINGS)
    return lambda x: predict(model, x)[..., 0] * np.arange(CLASSES).std() + (CLASSES - 1) / 2


def train_softmax(x, numbers, seeds):
    """A function from images to logits; trained on the cross-entropy with one-hot targets."""
    model = network(x.shape[1:], CLASSES, seeds)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    train(model, loss, x, one_hot(numbers), **SETTINGS)
    return lambda x: predict(model, x)


def rounded(values):
    """The nearest class numbers."""
    return np.clip(np.rint(values), 0, CLASSES - 1).astype(int)


def measure_target(seeds):
    """Accuracies and confusions of both targets; a member for each seed and numbering."""
    x, x_test, y, y_test = (np.repeat(array, NETWORK_NUMBERINGS, axis=1) for array in digits_by_seed(seeds))
    names = np.concatenate([numberings(NETWORK_NUMBERINGS, np.random.default_rng([seed, 2])) for seed in range(seeds)])
    members = np.arange(len(names))
    numbers, numbers_test = names[members, y], names[members, y_test]
    regression = train_regression(x, numbers, members // NETWORK_NUMBERINGS)
    softmax = train_softmax(x, numbers, members // NETWORK_NUMBERINGS)
    predictions = {"regression": rounded(regression(x_test)), "softmax": softmax(x_test).argmax(axis=-1)}
    # The first numbering of each seed is the digits' own.
    own = members[::NETWORK_NUMBERINGS]
    return {
        target: {
            "accuracy": (predicted == numbers_test).mean(axis=0).reshape(seeds, -1).tolist(),
            **confusions(y_test[:, own].ravel(), predicted[:, own].ravel()),
        }
        for target, predicted in predictions.items()
    }


def confusions(true, predicted):
    """The confusion matrix, and how far off by number the mistakes are."""
    matrix = np.zeros((CLASSES, CLASSES), int)
    np.add.at(matrix, (true, predicted), 1)
    distances = np.abs(true - predicted)[true != predicted]
    return {
        "confusion": matrix.tolist(),
        "mistakes": len(distances),
        "mistakes_at_neighbours": float((distances == 1).mean()),
        "mean_distance_of_mistakes": float(distances.mean()),
    }


# --- Ambiguous cases ---


def with_both_labels(x, y):
    """Adds every image of an ambiguous digit once more, under the other label. Stratified: as many in each seed."""
    low, high = AMBIGUOUS
    added = []
    for m in range(y.shape[1]):
        chosen = np.isin(y[:, m], AMBIGUOUS)
        added.append((x[chosen, m], low + high - y[chosen, m]))
    more_x, more_y = (np.stack(arrays, axis=1) for arrays in zip(*added, strict=True))
    return np.concatenate([x, more_x]), np.concatenate([y, more_y])


def measure_ambiguous(seeds):
    """Where both targets put the test images of ambiguous digits: on one of the two, in between, or outside."""
    x, x_test, y, y_test = digits_by_seed(seeds)
    x, y = with_both_labels(x, y)
    is_asked = np.isin(y_test, AMBIGUOUS)
    numbers = train_regression(x, y, range(seeds))(x_test)[is_asked]
    logits = train_softmax(x, y, range(seeds))(x_test)[is_asked]
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    best_two = np.sort(np.argsort(logits, axis=-1)[:, -2:], axis=-1)
    return {
        "digits": AMBIGUOUS,
        "images": int(is_asked.sum()),
        "regression": shares(rounded(numbers)),
        "softmax": shares(logits.argmax(axis=-1)),
        "mean_number": float(numbers.mean()),
        "number_histogram": np.histogram(numbers, 40, (0.0, 10.0))[0].tolist(),
        "mean_probabilities": (powers / powers.sum(axis=-1, keepdims=True)).mean(axis=0).tolist(),
        "both_on_top": float((best_two == AMBIGUOUS).all(axis=-1).mean()),
    }


def shares(classes):
    """Shares of the answers by where they lie relative to the ambiguous digits."""
    low, high = AMBIGUOUS
    return {
        "one_of_both": float(np.isin(classes, AMBIGUOUS).mean()),
        "in_between": float(((classes > low) & (classes < high)).mean()),
        "outside": float(((classes < low) | (classes > high)).mean()),
    }


def main():
    """Measures, prints the tables, and writes the page."""
    options = start(__doc__, "one_hot_distance", 4)
    began = time.monotonic()
    distances = {
        "one_hot": pairwise_distances(one_hot(np.arange(CLASSES))).tolist(),
        "integer": pairwise_distances(np.arange(CLASSES)[:, None]).tolist(),
    }
    report = {
        "seeds": options.seeds,
        "distances": distances,
        "input": measure_input(options.seeds),
        "target": measure_target(options.seeds),
        "ambiguous": measure_ambiguous(options.seeds),
    }
    sections = (
        distance_section(distances),
        input_section(report["input"]),
        target_section(report["target"]),
        ambiguous_section(report["ambiguous"]),
    )
    for section in sections:
        print(f"\n{section.title}\n\n{section.table}", flush=True)
    write_page(options.output, "One-hot classes are equally far from each other", __doc__, sections, report)
    print(
        f"\nSeeds: {options.seeds}. report.html, its figures and report.json are in {options.output}/ "
        f"({time.monotonic() - began:.0f} s)."
    )


if __name__ == "__main__":
    main()
