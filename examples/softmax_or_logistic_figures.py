"""The sections of `softmax_or_logistic.py`: what was measured as text, table and figure."""

from __future__ import annotations

from statistics import mean

import numpy as np
from figure_page import BLUE, GREEN, GREY, ORANGE, VERMILION, Section, spread, text_table
from matplotlib import pyplot as plt
from training_prior import log_odds, sigmoid

# --- Exclusive or not ---


def exclusive_section(measured):
    """What raising one logit does, and samples with two labels."""
    rows = []
    for head in ("softmax", "sigmoids"):
        for number, row in measured[head]["by_number"].items():
            rows.append([f"{head}, {number} set", *(f"{value:.3f}" for value in row.values())])
        right = [spread(measured[head][key]) for key in ("all_right_at_half", "all_right_at_best")]
        rows.append([f"{head}, all samples", "", "", *right])
    header = ("head, labels set", "mean p of set", "all set > 0.5", "all right at 0.5", "all right at best threshold")
    best = {head: mean(measured[head]["best_threshold"]) for head in ("softmax", "sigmoids")}
    soft, logistic = measured["softmax"]["by_number"]["2"], measured["sigmoids"]["by_number"]["2"]
    text = (
        "Probabilities of a softmax sum to 1: raising one logit lowers all the others. Sigmoids are independent: a "
        "person who is also male can be both with certainty.\n\n"
        f"Trained on samples with one to three labels, the softmax gives each label of a sample that has two "
        f"{soft['mean_probability_of_set']:.2f} on average, and never more than 0.5 to both; the sigmoids give "
        f"{logistic['mean_probability_of_set']:.2f}, and more than 0.5 to both in "
        f"{logistic['all_set_above_half']:.2f} of those samples. One threshold chosen for the softmax on validation "
        f"samples ({best['softmax']:.2f} on average) brings back most of what is lost, but costs samples with one "
        f"label: 1, 1/2 and 1/3 do not share a threshold well. A sample without any label has no softmax target."
    )
    return Section(
        "exclusive",
        "Softmax is exclusive, logistic is not",
        text,
        text_table(header, rows),
        _exclusive_figure(measured),
        "Left and middle: the logit of person is raised, those of male (1.5) and dog (-1) stay. Right: test samples "
        "with two labels, by the smaller one of their two probabilities.",
    )


def _exclusive_figure(measured):
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    person = np.linspace(-4.0, 6.0, 201)
    logits = np.stack([person, np.full_like(person, 1.5), np.full_like(person, -1.0)])
    powers = np.exp(logits)
    for axes, values, title in ((left, powers / powers.sum(axis=0), "softmax"), (middle, sigmoid(logits), "sigmoids")):
        for value, label, colour in zip(values, ("person", "male", "dog"), (BLUE, VERMILION, GREEN), strict=True):
            axes.plot(person, value, label=label, color=colour)
        axes.set(title=title, xlabel="logit of person", ylabel="probability", ylim=(-0.03, 1.03))
    left.legend(loc="center left")
    edges = np.linspace(0.0, 1.0, 41)
    for head, colour in (("softmax", ORANGE), ("sigmoids", BLUE)):
        counts = np.array(measured[head]["least_of_two_histogram"])
        right.stairs(counts / counts.sum(), edges, fill=True, alpha=0.6, color=colour, label=head)
    right.axvline(0.5, color="black", lw=1, ls="--")
    right.set(title="two labels set", xlabel="smaller probability of the two", ylabel="share of samples")
    right.legend(loc="upper left")
    return figure


# --- The same decision ---


def same_section(measured, picture):
    """Two outputs folded into one; `picture` is (x, y, logits) of some test samples."""
    trained = measured["trained"]
    rows = [
        [
            name,
            f"{row['pairs']:,}",
            f"{row['max_probability_error']:.1e}",
            row["differ_by_logit"],
            row["differ_by_probability"],
        ]
        for name, row in (("random pairs", measured["random"]), ("pairs one float32 step apart", measured["near_ties"]))
    ]
    total = trained["samples"] * len(trained["differ"])
    rows.append(["trained, folded (largest logit error)", f"{total:,}", f"{max(trained['max_logit_error']):.1e}"])
    rows[-1] += [sum(trained["differ"]), "-"]
    header = ("", "decisions", "largest error", "differ: logit > 0", "differ: p > 0.5")
    text = (
        "softmax([z0, z1])[1] = sigmoid(z1 - z0). So argmax over two outputs is one logit z1 - z0 compared with 0, or "
        "its probability with 0.5, and a trained softmax folds into one output: weights w1 - w0, bias b1 - b0.\n\n"
        f"Of {total:,} test decisions of trained networks (accuracy {mean(trained['test_accuracy']):.4f}), "
        f"{sum(trained['differ'])} differ after folding. Their least margin is {min(trained['least_margin']):.1e}, the "
        f"fold's rounding error {max(trained['max_logit_error']):.1e} at most. Compare the logit, not the rounded "
        f"probability: next to a tie sigmoid(z1 - z0) rounds to exactly 0.5, and the decision is lost."
    )
    return Section(
        "same_decision",
        "Two outputs and argmax: one logit at threshold 0.5",
        text,
        text_table(header, rows),
        _same_figure(*picture),
        "Test samples of the first seed. Left: what the softmax of two outputs gives them, against the difference of "
        "its logits. Right: where they lie; crosses are decided wrongly, by both heads alike.",
    )


def _same_figure(x, y, logits):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    difference = logits[:, 1] - logits[:, 0]
    probability = 1.0 / (1.0 + np.exp(-difference))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    curve = np.linspace(difference.min(), difference.max(), 301)
    left.plot(curve, sigmoid(curve), color=GREY, lw=4, alpha=0.5, label="sigmoid(z1 - z0)")
    left.plot(difference, powers[:, 1] / powers.sum(axis=-1), ".", ms=4, color=BLUE, label="softmax([z0, z1])[1]")
    left.axvline(0.0, color="black", lw=1, ls="--")
    left.axhline(0.5, color="black", lw=1, ls="--")
    left.set(xlabel="z1 - z0", ylabel="probability of class 1")
    left.legend(loc="upper left")
    wrong = (probability > 0.5) != (y == 1)
    for label, colour in ((0, ORANGE), (1, BLUE)):
        right.plot(*x[(y == label) & ~wrong].T, ".", ms=5, color=colour, label=f"class {label}")
        right.plot(*x[(y == label) & wrong].T, "x", ms=7, color=colour)
    right.set(xlabel="first feature", ylabel="second feature")
    right.legend(loc="upper right")
    return figure


# --- Likelihood ---


def likelihood_section(measured):
    """The likelihood and the mean cross-entropy over one parameter, and class frequencies."""
    rows = [
        ["7 of 10 positive: frequency", f"{measured['frequency']:.3f}"],
        ["7 of 10 positive: p of the largest likelihood", f"{measured['most_likely']:.3f}"],
        ["7 of 10 positive: p of the least mean cross-entropy", f"{measured['least_cross_entropy']:.3f}"],
    ]
    for row in zip("abcd", measured["class_frequencies"], measured["class_probabilities"], strict=True):
        rows.append([f"class {row[0]}: frequency, and fitted softmax", f"{row[1]:.4f}, {row[2]:.4f}"])
    text = (
        "The logarithm is increasing and the mean only divides by the number of samples: the parameter that makes the "
        "product of the likelihoods largest makes the mean cross-entropy least. For Bernoulli samples that is the "
        "share of positives, for classes their frequencies."
    )
    return Section(
        "likelihood",
        "Maximum likelihood is minimum loss",
        text,
        text_table(("", "value"), rows),
        _likelihood_figure(measured),
        "Left: ten samples, seven of them positive, by the logit of p; the dashed line marks both extrema. Right: "
        "2,000 samples of four classes, and a softmax fitted by gradient descent on the mean cross-entropy.",
    )


def _likelihood_figure(measured):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(measured["logits"], measured["likelihood"], color=BLUE)
    left.set_xlabel("logit of p")
    left.set_ylabel("product of the likelihoods", color=BLUE)
    twin = left.twinx()
    twin.grid(visible=False)
    twin.plot(measured["logits"], measured["cross_entropy"], color=VERMILION)
    twin.set_ylabel("mean cross-entropy", color=VERMILION)
    place = float(log_odds(measured["most_likely"]))
    left.axvline(place, color="black", lw=1, ls="--")
    peak = max(measured["likelihood"])
    left.annotate(f"p = {measured['most_likely']:.2f}", (place, peak), xytext=(14, -3), textcoords="offset points")
    positions = np.arange(4)
    right.bar(positions - 0.2, measured["class_frequencies"], 0.4, color=GREY, label="class frequency")
    right.bar(positions + 0.2, measured["class_probabilities"], 0.4, color=BLUE, label="fitted softmax")
    right.set_xticks(positions, labels=list("abcd"))
    right.set(xlabel="class", ylabel="probability")
    right.legend()
    return figure
