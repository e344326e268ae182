"""Where the best threshold lies when the training prior is not the deployment prior: measured, and in closed form.

The part of `softmax_or_logistic.py` on thresholds; its protocol and references stand there.
"""

from __future__ import annotations

import math
from statistics import mean

import keras
import numpy as np
from figure_page import BLUE, GREEN, GREY, PURPLE, VERMILION, Section, spread, text_table
from matplotlib import pyplot as plt
from side_by_side import dense, predict, train

import keras_notes as kn

PRIORS = (0.5, 0.2, 0.1, 0.05, 0.02)
# Between the class means, in standard deviations.
DISTANCE = 2.0
TRAINING_SAMPLES, HELD_OUT_SAMPLES = 8192, 20000
GAMMA = 2.0
PLAIN, WEIGHTED, CORRECTED, FOCAL = "cross-entropy", "class weights", "prior correction", "focal loss"
METHODS = (PLAIN, WEIGHTED, CORRECTED, FOCAL)
HEADS = ("softmax", "logistic")
COLOURS = {PLAIN: BLUE, WEIGHTED: GREEN, CORRECTED: PURPLE, FOCAL: VERMILION}
# Side by side along the logarithmic axis of the priors, or they would hide one another.
OFFSETS = {PLAIN: -0.02, WEIGHTED: -0.1, CORRECTED: 0.06, FOCAL: 0.1}


def sigmoid(z):
    """1 / (1 + exp(-z))."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(z, np.float64)))


def gaussian_samples(rng, positives, negatives):
    """Two classes with unit covariance, their means DISTANCE apart: log p(x|1)/p(x|0) = DISTANCE * (x . direction)."""
    y = np.repeat([1, 0], [positives, negatives])
    direction = np.array([1.0, 1.0]) / math.sqrt(2.0)
    x = rng.normal(size=(len(y), 2)) + np.where(y == 1, 0.5, -0.5)[:, None] * DISTANCE * direction
    return x.astype("float32"), y


def bayes_accuracy(prior, log_ratio_threshold):
    """Accuracy under `prior` of deciding for the positive class where log p(x|1)/p(x|0) > log_ratio_threshold."""

    def phi(z):
        return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))

    true_positives = phi(DISTANCE / 2 - log_ratio_threshold / DISTANCE)
    true_negatives = phi(DISTANCE / 2 + log_ratio_threshold / DISTANCE)
    return prior * true_positives + (1.0 - prior) * true_negatives


def log_odds(probability):
    """log(p / (1 - p))."""
    return np.log(probability) - np.log1p(-np.asarray(probability))


def focal_minimizer(posterior, gamma=GAMMA):
    """The probability q that least focal loss asks for where the positive class has the given posterior.

    With l(q) = -(1-q)^gamma log(q), it solves posterior * l'(q) = (1 - posterior) * l'(1-q); Charoenphakdee et al.
    give the way back, from q to the posterior. At gamma 0 both are equal.
    """
    q = np.linspace(1e-6, 1.0 - 1e-6, 200_001)

    def slope(q):
        return gamma * (1.0 - q) ** (gamma - 1.0) * np.log(q) - (1.0 - q) ** gamma / q

    return np.interp(posterior, slope(1.0 - q) / (slope(q) + slope(1.0 - q)), q)


def accuracy_at(threshold, logits, y, prior):
    """Accuracy of logits > threshold under a prior: prior * sensitivity + (1 - prior) * specificity."""
    return prior * (logits[y == 1] > threshold).mean() + (1.0 - prior) * (logits[y == 0] <= threshold).mean()


def best_threshold(logits, y, prior):
    """The threshold on the logit with the largest `accuracy_at`: halfway between two neighbouring samples."""
    order = np.argsort(logits)
    positive = y[order] == 1
    missed = np.cumsum(positive) / positive.sum()
    rejected = np.cumsum(~positive) / (~positive).sum()
    cut = np.argmax((prior * (1.0 - missed) + (1.0 - prior) * rejected)[:-1])
    return logits[order][cut : cut + 2].mean()


def train_heads(loss_name, x, y, priors):
    """Functions from samples to the logit of the positive class, for two outputs and for one.

    Linear models that start at zero: the log posterior ratio of these Gaussians is linear, so nothing better exists.
    """
    members = x.shape[1]
    # With gamma 0 it is cross-entropy.
    gamma = GAMMA if loss_name == FOCAL else 0.0
    weights = np.where(y == 1, 0.5 / priors, 0.5 / (1.0 - priors)) if loss_name == WEIGHTED else None
    settings = {"epochs": 20, "batch_size": 512, "learning_rate": 0.5, "sample_weight": weights}
    heads = {}
    for head, units in (("softmax", 2), ("logistic", 1)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((members, 2)), dense(units, members)])
        loss = kn.losses.FocalLoss(gamma, exclusive=head == "softmax", from_logits=True)
        heads[head] = train(model, loss, x, y, **settings)
    return {
        "softmax": lambda x: predict(heads["softmax"], x) @ [-1.0, 1.0],
        "logistic": lambda x: predict(heads["logistic"], x)[..., 0],
    }


def members_samples(seeds, part, samples, priors):
    """Samples of shape (samples, members, .) with these fractions of positives, by members; `part` sets them apart."""
    draws = []
    for seed, prior in zip(seeds, priors, strict=True):
        rng = np.random.default_rng([seed, part])
        positives = round(samples * prior)
        x, y = gaussian_samples(rng, positives, samples - positives)
        order = rng.permutation(samples)
        draws.append((x[order], y[order]))
    return [np.stack(arrays, axis=1) for arrays in zip(*draws, strict=True)]


def measure_threshold(seeds):
    """Best thresholds and test accuracies by method, head and training prior, with one number a seed."""
    priors, member_seeds = np.repeat(PRIORS, seeds), np.tile(np.arange(seeds), len(PRIORS))
    x, y = members_samples(member_seeds, 0, TRAINING_SAMPLES, priors)
    held_out = [members_samples(member_seeds, part, HELD_OUT_SAMPLES, np.full(len(priors), 0.5)) for part in (1, 2)]
    rows = []
    for loss_name in (PLAIN, WEIGHTED, FOCAL):
        for head, logits_of in train_heads(loss_name, x, y, priors).items():
            val, test = [(logits_of(x), y) for x, y in held_out]
            rows += threshold_rows(loss_name, head, val, test, 0.0, priors)
            if loss_name == PLAIN:
                rows += threshold_rows(CORRECTED, head, val, test, log_odds(priors), priors)
    return rows


def threshold_rows(method, head, val, test, correction, priors):
    """One row a training prior; `correction` is taken off the logits (Saerens et al., for a new prior of 1/2)."""
    (val, y_val), (test, y_test) = val, test
    val, test = val - correction, test - correction
    members = [
        {
            "best_threshold": sigmoid(best := best_threshold(val[:, m], y_val[:, m], 0.5)),
            "accuracy_at_half": accuracy_at(0.0, test[:, m], y_test[:, m], 0.5),
            "accuracy_at_best": accuracy_at(best, test[:, m], y_test[:, m], 0.5),
            # The deployment prior is the training prior here: the same samples, weighted.
            "same_prior_at_half": accuracy_at(0.0, test[:, m], y_test[:, m], prior),
            "same_prior_at_best": accuracy_at(
                best_threshold(val[:, m], y_val[:, m], prior), test[:, m], y_test[:, m], prior
            ),
        }
        for m, prior in enumerate(priors)
    ]
    theory = {PLAIN: lambda prior: prior, FOCAL: focal_minimizer}.get(method, lambda prior: 0.5)
    return [
        {
            "method": method,
            "head": head,
            "training_prior": prior,
            "theory_threshold": float(theory(prior)),
            **{key: [float(members[m][key]) for m in np.flatnonzero(priors == prior)] for key in members[0]},
        }
        for prior in PRIORS
    ]


def threshold_section(rows):
    """Best thresholds and accuracies by training prior, from the rows of `measure_threshold`."""
    both = {(row["method"], row["training_prior"], row["head"]): row for row in rows}
    return Section(
        "threshold",
        "What drifts with the training prior is the best threshold, for both heads alike",
        _threshold_text(both),
        f"{_balanced_table(both)}\n\n{_same_prior_table(both)}",
        _threshold_figure(both),
        "Deployed on as many positives as negatives. Filled circles: two outputs (softmax); open squares: one "
        "(logistic). Means over the seeds, bars from least to largest. Lines: closed form.",
    )


def _threshold_text(both):
    rarest = PRIORS[-1]

    def of(method, key):
        return mean(both[method, rarest, "softmax"][key])

    return (
        f"Trained with a fraction of {rarest:g} positives and deployed on 0.5, cross-entropy has its best threshold at "
        f"{of(PLAIN, 'best_threshold'):.3f}, near the training prior, as theory has it. At argmax its accuracy is "
        f"{of(PLAIN, 'accuracy_at_half'):.3f}, at the best threshold {of(PLAIN, 'accuracy_at_best'):.3f} (the Bayes "
        f"rule: {bayes_accuracy(0.5, 0.0):.3f}). Class weights and prior correction bring the best threshold back to "
        f"about 0.5: at argmax {of(WEIGHTED, 'accuracy_at_half'):.3f} and {of(CORRECTED, 'accuracy_at_half'):.3f}.\n\n"
        f"Focal loss, as measured: its best threshold drifts as well, to {of(FOCAL, 'best_threshold'):.3f}, less far "
        f"because focal loss draws probabilities towards 0.5. It does not draw them across: at argmax its accuracy is "
        f"{of(FOCAL, 'accuracy_at_half'):.3f}, like cross-entropy's. By itself it does not make up for another prior. "
        f"Its line is the minimizer of the focal loss where the posterior equals the training prior.\n\n"
        f"Where the deployment prior is the training prior (second table), argmax is as good as the best threshold, "
        f"and class weights or a correction to 0.5 cost accuracy. Between the two heads, mean best thresholds differ "
        f"by {_largest_gap(both, 'best_threshold'):.3f} at most, mean accuracies at 0.5 by "
        f"{_largest_gap(both, 'accuracy_at_half'):.4f}."
    )


def _largest_gap(both, key):
    """The largest difference of means between the two heads."""
    pairs = [[mean(both[method, prior, head][key]) for head in HEADS] for method in METHODS for prior in PRIORS]
    return max(abs(softmax - logistic) for softmax, logistic in pairs)


def _balanced_table(both):
    header = (
        "deployed on prior 0.5",
        "prior",
        "theory",
        "best threshold: softmax",
        "logistic",
        "at 0.5: softmax",
        "logistic",
        "at best: softmax",
        "logistic",
    )
    rows = []
    for method in METHODS:
        for prior in PRIORS:
            soft, logistic = (both[method, prior, head] for head in ("softmax", "logistic"))
            cells = [method, f"{prior:g}", f"{soft['theory_threshold']:.3f}", spread(soft["best_threshold"])]
            cells.append(f"{mean(logistic['best_threshold']):.3f}")
            for key in ("accuracy_at_half", "accuracy_at_best"):
                cells += [f"{mean(soft[key]):.3f}", f"{mean(logistic[key]):.3f}"]
            rows.append(cells)
    return text_table(header, rows)


def _same_prior_table(both):
    header = (
        "deployed on the training prior",
        "Bayes rule",
        f"{PLAIN}: argmax",
        "best threshold",
        f"{WEIGHTED}: argmax",
        f"{CORRECTED}: argmax",
    )
    rows = []
    for prior in PRIORS:
        plain = both[PLAIN, prior, "softmax"]
        values = [
            bayes_accuracy(prior, -log_odds(prior)),
            mean(plain["same_prior_at_half"]),
            mean(plain["same_prior_at_best"]),
        ]
        values += [mean(both[method, prior, "softmax"]["same_prior_at_half"]) for method in (WEIGHTED, CORRECTED)]
        rows.append([f"{prior:g}", *(f"{value:.4f}" for value in values)])
    return text_table(header, rows)


def _threshold_figure(both):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    priors = np.geomspace(0.02, 0.5, 101)
    left.plot(priors, priors, color=BLUE, lw=1.2)
    left.plot(priors, focal_minimizer(priors), color=VERMILION, lw=1.2)
    left.axhline(0.5, color=GREY, lw=1.2)
    right.plot(priors, [bayes_accuracy(0.5, -log_odds(prior)) for prior in priors], color=BLUE, lw=1.2)
    right.axhline(bayes_accuracy(0.5, 0.0), color=GREY, lw=1.2)
    for axes, key in ((left, "best_threshold"), (right, "accuracy_at_half")):
        for method in METHODS:
            for head in HEADS:
                _points(axes, method, head, [both[method, prior, head][key] for prior in PRIORS])
        axes.set(xscale="log", xlabel="positive fraction in training")
        axes.set_xticks(PRIORS, labels=[f"{prior:g}" for prior in PRIORS], minor=False)
        axes.minorticks_off()
    left.set(yscale="log", ylabel="best threshold")
    left.set_yticks(PRIORS, labels=[f"{prior:g}" for prior in PRIORS])
    left.minorticks_off()
    left.legend(loc="lower right")
    right.set(ylabel="test accuracy at argmax, or at 0.5")
    return figure


def _points(axes, method, head, values):
    offset = OFFSETS[method] + (0.0 if head == "softmax" else 0.04)
    means = np.array([mean(value) for value in values])
    bars = [means - np.min(values, axis=1), np.max(values, axis=1) - means]
    axes.errorbar(
        np.array(PRIORS) * np.exp(offset),
        means,
        yerr=bars,
        fmt="o" if head == "softmax" else "s",
        ms=5,
        capsize=2,
        lw=1,
        color=COLOURS[method],
        mfc=COLOURS[method] if head == "softmax" else "white",
        label=method if head == "softmax" else None,
    )
