"""Softmax or logistic outputs: what each can say, when they decide alike, and what becomes of the threshold.

    python examples/softmax_or_logistic.py [--seeds 5] [--output build/softmax_or_logistic]

Protocol, declared before anything runs:

* All data are drawn from known distributions, anew for each seed. Thresholds are chosen on validation samples, models
  by nothing (the last epoch counts), and every figure comes from test samples that chose neither.
* Exclusive or not: samples with one to three of the labels person, male, dog. The same network, once under a softmax
  with the set labels sharing 1, once under one sigmoid a label.
* The same decision: a trained softmax with two outputs is folded into one logit, weights w1 - w0 and bias b1 - b0, and
  compared on 100,000 samples; besides, a million random pairs of logits, and a million that all but tie.
* The threshold: two Gaussian classes with equal covariance, means 2 standard deviations apart, so that the Bayes rule
  is known. Trained with a fraction of 0.02 to 0.5 positives; validated, tested and deployed on 0.5.
  Losses: cross-entropy, the same with class weights, focal loss (gamma 2), and cross-entropy whose logit is corrected
  afterwards by the log-odds of the training prior. Each of them with two outputs (softmax) and with one (logistic).
* Likelihood: where the product of the likelihoods is largest, against where the mean cross-entropy is least.

Two outputs and the larger one wins, no threshold to choose or to ship: that holds where the deployment prior is the
training prior and both mistakes cost the same, or once class weights or prior correction have moved the training prior
to the wanted one. Under another prior, or unequal costs (threshold: cost of a false positive / sum of both costs),
argmax over two outputs is a threshold of 0.5 in disguise, and the best threshold lies elsewhere: for two outputs and
for one alike.

References: Elkan 2001, The Foundations of Cost-Sensitive Learning, sections 1.3 (threshold) and 3 (another base rate).
Saerens, Latinne and Decaestecker 2002, Adjusting the Outputs of a Classifier to New a Priori Probabilities.
Charoenphakdee et al. 2021, On Focal Loss for Class-Posterior Probability Estimation (https://arxiv.org/abs/2011.09172).

It leaves report.html, its figures as .svg, and report.json in the output directory.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from figure_page import start, write_page
from side_by_side import dense, predict, train
from sklearn.datasets import make_moons
from softmax_or_logistic_figures import exclusive_section, likelihood_section, same_section
from training_prior import measure_threshold, sigmoid, threshold_section

import keras_notes as kn

LABELS = ("person", "male", "dog")
# Which labels occur together, and how often.
LABEL_SETS = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]])
LABEL_SET_FRACTIONS = (0.2, 0.2, 0.3, 0.15, 0.15)


def softmax(logits):
    """exp(z_c) / sum_j exp(z_j) over the last axis."""
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# --- Exclusive or not ---


def labelled_samples(rng, samples):
    """Each label that is set adds its own direction to the features; noise of standard deviation 0.5."""
    y = LABEL_SETS[rng.choice(len(LABEL_SETS), samples, p=LABEL_SET_FRACTIONS)].astype("float32")
    x = y @ np.eye(3, 6) + rng.normal(scale=0.5, size=(samples, 6))
    return x.astype("float32"), y


def multi_label_probabilities(seeds, exclusive, x, y):
    """Trains one network a seed on x and y of (samples, seeds, .), and returns what predicts probabilities."""
    keras.utils.set_random_seed(0)
    hidden = dense(16, seeds, "relu", seeds=range(seeds))
    model = keras.Sequential([keras.Input((seeds, x.shape[-1])), hidden, dense(len(LABELS), seeds)])
    targets = y / y.sum(axis=-1, keepdims=True) if exclusive else y
    # With gamma 0 it is cross-entropy: categorical if exclusive, else binary for each label.
    loss = kn.losses.FocalLoss(0.0, exclusive=exclusive, from_logits=True)
    train(model, loss, x, targets, epochs=30, batch_size=256, learning_rate=1e-2)
    activation = softmax if exclusive else sigmoid
    return lambda samples: activation(predict(model, samples))


def measure_exclusive(seeds):
    """How softmax and sigmoids treat samples by the number of labels set, at 0.5 and at the best one threshold."""
    sets = [
        [np.stack(part, axis=1) for part in zip(*draws, strict=True)]
        for draws in (
            [labelled_samples(np.random.default_rng([seed, part]), n) for seed in range(seeds)]
            for part, n in enumerate((4096, 5000, 20000))
        )
    ]
    (x, y), (x_val, y_val), (x_test, y_test) = sets
    result = {}
    for head in ("softmax", "sigmoids"):
        probabilities = multi_label_probabilities(seeds, head == "softmax", x, y)
        val, test = probabilities(x_val), probabilities(x_test)
        candidates = np.linspace(0.05, 0.95, 91)
        exact = [((val > t) == y_val).all(axis=-1).mean(axis=0) for t in candidates]
        best = candidates[np.argmax(exact, axis=0)]
        result[head] = by_number_of_labels(test, y_test, best)
        two = y_test.sum(axis=-1) == 2
        minima = np.where(y_test == 1, test, 1.0).min(axis=-1)[two]
        result[head]["least_of_two_histogram"] = np.histogram(minima, 40, (0.0, 1.0))[0].tolist()
    return result


def by_number_of_labels(probabilities, y, best):
    """Shares of the samples with all labels right, and with every set label above 0.5, by how many are set."""
    numbers = y.sum(axis=-1)
    right_half = ((probabilities > 0.5) == (y == 1)).all(axis=-1)
    right_best = ((probabilities > best[:, None]) == (y == 1)).all(axis=-1)
    all_set = np.where(y == 1, probabilities > 0.5, True).all(axis=-1)
    mean_set = (probabilities * y).sum(axis=-1) / numbers
    per_number = {
        str(number): {
            "mean_probability_of_set": float(mean_set[numbers == number].mean()),
            "all_set_above_half": float(all_set[numbers == number].mean()),
            "all_right_at_half": float(right_half[numbers == number].mean()),
            "all_right_at_best": float(right_best[numbers == number].mean()),
        }
        for number in (1, 2, 3)
    }
    right = {
        "all_right_at_half": right_half.mean(axis=0).tolist(),
        "all_right_at_best": right_best.mean(axis=0).tolist(),
    }
    return {"by_number": per_number, "best_threshold": best.tolist(), **right}


# --- The same decision ---


def compare_logits(logits):
    """Argmax of float32 pairs against one logit > 0, and against its rounded probability > 0.5."""
    by_argmax = logits.argmax(axis=-1) == 1
    difference = logits[:, 1] - logits[:, 0]
    probability = np.asarray(keras.ops.sigmoid(difference))
    return {
        "pairs": len(logits),
        "max_probability_error": float(np.abs(softmax(logits.astype(np.float64))[:, 1] - probability).max()),
        "differ_by_logit": int((by_argmax != (difference > 0)).sum()),
        "differ_by_probability": int((by_argmax != (probability > 0.5)).sum()),
    }


def fold(model):
    """The one-logit model of a two-logit one: softmax([z0, z1])[1] = sigmoid(z1 - z0), and z1 - z0 is linear too."""
    *hidden, two_outputs = model.layers
    kernel, bias = two_outputs.get_weights()
    one_output = dense(1, len(kernel))
    folded = keras.Sequential([keras.Input(model.input_shape[1:]), *hidden, one_output])
    one_output.set_weights([kernel[..., 1:] - kernel[..., :1], bias[..., 1:] - bias[..., :1]])
    return folded


def moons(seeds, part, samples):
    """scikit-learn's two moons, of shape (samples, seeds, .); `part` sets training and test samples apart."""
    draws = [make_moons(samples, noise=0.25, random_state=1000 * part + seed) for seed in range(seeds)]
    x, y = (np.stack(arrays, axis=1) for arrays in zip(*draws, strict=True))
    return x.astype("float32"), y


def measure_same(seeds):
    """Decisions of softmax pairs and of single logits: random pairs, near ties, and trained networks.

    Returns:
        The figures, and for the picture (x, y, logits) of some test samples of the first seed.
    """
    rng = np.random.default_rng(0)
    pairs = rng.normal(scale=4.0, size=(1_000_000, 2)).astype("float32")
    near = np.stack([pairs[:, 0], np.nextafter(pairs[:, 0], np.copysign(np.float32(np.inf), pairs[:, 1]))], axis=-1)
    keras.utils.set_random_seed(0)
    hidden = dense(16, seeds, "relu", seeds=range(seeds))
    # From zero the two outputs would stay mirror images, and the fold could not even round.
    two_outputs = dense(2, seeds, seeds=range(100, 100 + seeds))
    model = keras.Sequential([keras.Input((seeds, 2)), hidden, two_outputs])
    loss = kn.losses.FocalLoss(0.0, from_logits=True)
    train(model, loss, *moons(seeds, 0, 2048), epochs=40, batch_size=128, learning_rate=2e-2)
    x, y = moons(seeds, 1, 100_000)
    pair_logits, single_logits = predict(model, x), predict(fold(model), x)[..., 0]
    trained = {
        "samples": len(x),
        "test_accuracy": (pair_logits.argmax(axis=-1) == y).mean(axis=0).tolist(),
        "max_logit_error": np.abs(pair_logits[..., 1] - pair_logits[..., 0] - single_logits).max(axis=0).tolist(),
        "least_margin": np.abs(single_logits).min(axis=0).tolist(),
        "differ": ((pair_logits.argmax(axis=-1) == 1) != (single_logits > 0)).sum(axis=0).tolist(),
    }
    measured = {"random": compare_logits(pairs), "near_ties": compare_logits(near), "trained": trained}
    return measured, (x[:700, 0], y[:700, 0], pair_logits[:700, 0])


# --- Likelihood ---


def measure_likelihood():
    """A Bernoulli parameter swept for 7 of 10 positives, and a softmax of biases fitted to counted classes."""
    y = np.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1])
    logits = np.linspace(-3.0, 4.0, 7001)
    likelihood = np.prod(np.where(y == 1, sigmoid(logits)[:, None], sigmoid(-logits)[:, None]), axis=-1)
    loss = kn.losses.FocalLoss(0.0, exclusive=False, from_logits=True, reduction=None, dtype="float64")
    pairs = np.broadcast_arrays(y[None, :, None].astype("float64"), logits[:, None, None])
    cross_entropy = np.asarray(loss(*pairs)).mean(axis=-1)

    classes = np.random.default_rng(0).choice(4, 2000, p=(0.4, 0.3, 0.2, 0.1))
    constant = np.ones((len(classes), 1), "float32")
    biases = keras.layers.Dense(4, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), biases])
    model.compile(keras.optimizers.SGD(2.0), kn.losses.FocalLoss(0.0, from_logits=True))
    for _ in range(200):
        model.train_on_batch(constant, classes)
    return {
        "logits": logits[::20].tolist(),
        "likelihood": likelihood[::20].tolist(),
        "cross_entropy": cross_entropy[::20].tolist(),
        "most_likely": float(sigmoid(logits[likelihood.argmax()])),
        "least_cross_entropy": float(sigmoid(logits[cross_entropy.argmin()])),
        "frequency": float(y.mean()),
        "class_frequencies": (np.bincount(classes) / len(classes)).tolist(),
        "class_probabilities": softmax(predict(model, constant[:1])[0]).tolist(),
    }


def main():
    """Measures, prints the tables, and writes the page."""
    options = start(__doc__, "softmax_or_logistic", 5)
    began = time.monotonic()
    same, picture = measure_same(options.seeds)
    report = {
        "seeds": options.seeds,
        "exclusive": measure_exclusive(options.seeds),
        "same": same,
        "threshold": measure_threshold(options.seeds),
        "likelihood": measure_likelihood(),
    }
    sections = (
        exclusive_section(report["exclusive"]),
        same_section(same, picture),
        threshold_section(report["threshold"]),
        likelihood_section(report["likelihood"]),
    )
    for section in sections:
        print(f"\n{section.title}\n\n{section.table}", flush=True)
    write_page(options.output, "Softmax or logistic outputs", __doc__, sections, report)
    print(
        f"\nSeeds: {options.seeds}. report.html, its figures and report.json are in {options.output}/ "
        f"({time.monotonic() - began:.0f} s)."
    )


if __name__ == "__main__":
    main()
