"""The sections of `one_hot_distance.py`: what was measured as text, table and figure."""

from __future__ import annotations

import numpy as np
from figure_page import BLUE, GREEN, GREY, VERMILION, Section, spread, text_table
from matplotlib import pyplot as plt


def flat(errors):
    """All numbers of a list of lists."""
    return np.ravel(errors).tolist()


def largest_range(by_seed):
    """How much a seed's result depends on the numbering: the largest difference within a seed."""
    return float(np.ptp(by_seed, axis=1).max())


# --- Distances ---


def distance_section(distances):
    """Every pair of classes, by both codes."""
    rows = []
    for name, matrix in (("one-hot", distances["one_hot"]), ("integer", distances["integer"])):
        apart = np.array(matrix)[~np.eye(len(matrix), dtype=bool)]
        values = (matrix[0][1], matrix[0][9], apart.min(), apart.max())
        rows.append([name, *(f"{value:.4f}" for value in values)])
    text = (
        "Two one-hot codes differ in two places by 1: their distance is sqrt(2), whichever classes they are. Integer "
        "codes put class 0 nine times as far from 9 as from 1."
    )
    return Section(
        "distances",
        "One-hot: every class is sqrt(2) from every other",
        text,
        text_table(("code", "0 to 1", "0 to 9", "least", "largest"), rows),
        _distance_figure(distances),
        "Euclidean distances between the codes of ten classes.",
    )


def _distance_figure(distances):
    figure, grid = plt.subplots(1, 2, figsize=(9.5, 4.4), layout="constrained")
    for axes, name, title in zip(grid, ("one_hot", "integer"), ("one-hot codes", "integer codes"), strict=True):
        matrix = np.array(distances[name])
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=9)
        axes.grid(visible=False)
        for (row, column), distance in np.ndenumerate(matrix):
            text = f"{distance:.2f}" if name == "one_hot" and distance else f"{distance:.0f}"
            colour = "white" if distance > 5 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
        axes.set(xticks=range(10), yticks=range(10), xlabel="class", ylabel="class", title=title)
    return figure


# --- As an input ---


def input_section(measured):
    """Test errors of a linear model and of a network that read a category without order."""
    rows = [
        [
            f"{model}, {coding}",
            spread(flat(errors)),
            spread(np.array(errors)[:, 0].tolist()),
            f"{largest_range(errors):.1e}",
        ]
        for model in ("linear", "network")
        for coding, errors in measured[model].items()
    ]
    linear = {coding: np.mean(errors) for coding, errors in measured["linear"].items()}
    network = {coding: np.mean(errors) for coding, errors in measured["network"].items()}
    text = (
        f"A linear model that reads the category as an integer can only give it a slope: test error "
        f"{linear['integer']:.3f}, where the noise alone is {measured['noise']}. From one-hot it reaches "
        f"{linear['one-hot']:.3f}, a constant for each category. A hidden layer bends the line, but has the order to "
        f"unlearn: after the same steps {network['integer']:.3f}, from one-hot {network['one-hot']:.3f}.\n\n"
        f"Numbering the categories otherwise changes the integer model's error by up to "
        f"{largest_range(measured['linear']['integer']):.3f} (linear) and "
        f"{largest_range(measured['network']['integer']):.3f} (network) within a seed, the one-hot model's by "
        f"{largest_range(measured['linear']['one-hot']):.0e} and {largest_range(measured['network']['one-hot']):.3f}: "
        f"rounding, and the network's random start, which does not move with the columns."
    )
    header = ("model, code", "test error", "given numbering only", "range over numberings")
    return Section(
        "input",
        "As an input: an order that is not there",
        text,
        text_table(header, rows),
        _input_figure(measured),
        "Left: effects of the categories in the first seed, true and as the linear models see them. Right: root mean "
        "square test error, a point a seed and numbering; the dashed line is the noise.",
    )


def _input_figure(measured):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    effects = measured["effects"]
    left.plot(effects["true"], "o", ms=9, color=GREY, label="true effect")
    left.plot(effects["integer"], "-", color=VERMILION, label="from the integer code")
    left.plot(effects["one-hot"], "x", ms=7, mew=2, color=BLUE, label="from one-hot")
    left.set(xlabel="category", ylabel="effect on the target", xticks=range(10))
    left.legend()
    runs = [(model, coding) for model in ("linear", "network") for coding in ("integer", "one-hot")]
    for place, (model, coding) in enumerate(runs):
        _strip(right, place, flat(measured[model][coding]), VERMILION if coding == "integer" else BLUE)
    right.axhline(measured["noise"], color="black", lw=1, ls="--")
    right.set_xticks(range(len(runs)), labels=[f"{model}\n{coding}" for model, coding in runs])
    right.set(ylabel="test error", xlim=(-0.6, len(runs) - 0.4), ylim=(0.0, None))
    return figure


def _strip(axes, place, values, colour):
    """All values over one place of the axis, spread so that equal ones show."""
    shifts = np.linspace(-0.22, 0.22, len(values))
    axes.plot(place + shifts, values, "o", ms=4, alpha=0.6, mew=0, color=colour)
    axes.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color=colour, lw=2)


# --- As a target ---


def target_section(measured):
    """Accuracies and mistakes of class numbers regressed, against softmax cross-entropy on one-hot."""
    rows = [
        [
            head,
            spread(flat(row["accuracy"])),
            f"{largest_range(row['accuracy']):.3f}",
            row["mistakes"],
            f"{row['mistakes_at_neighbours']:.3f}",
            f"{row['mean_distance_of_mistakes']:.2f}",
        ]
        for head, row in measured.items()
    ]
    regression, softmax = measured["regression"], measured["softmax"]
    text = (
        f"The same network on the same digits: {np.mean(regression['accuracy']):.3f} of the test images right when it "
        f"regresses the class number, {np.mean(softmax['accuracy']):.3f} with ten outputs and one-hot targets. The "
        f"regression confuses neighbours by number: {regression['mistakes_at_neighbours']:.2f} of its mistakes are one "
        f"off, where mistakes at random would be in 0.20 of cases (18 of 90 pairs). With softmax it is "
        f"{softmax['mistakes_at_neighbours']:.2f}: it confuses what looks alike.\n\n"
        f"Which numbers the classes bear changes the regression's accuracy by up to "
        f"{largest_range(regression['accuracy']):.3f} within a seed, and that of softmax by "
        f"{largest_range(softmax['accuracy']):.3f}."
    )
    header = ("target", "test accuracy", "range over numberings", "mistakes", "one off by number", "mean distance")
    return Section(
        "target",
        "As a target: regression on class numbers confuses neighbours by number",
        text,
        text_table(header, rows),
        _target_figure(measured),
        "Left and middle: confusions under the digits' own numbering, all seeds; rows are the true digit. Right: test "
        "accuracy, a point a seed and numbering. The table's mistakes are those of the digits' own numbering.",
    )


def _target_figure(measured):
    figure, grid = plt.subplots(1, 3, figsize=(11.5, 4), layout="constrained", width_ratios=(1, 1, 0.8))
    titles = {"regression": "regression on the number", "softmax": "softmax on one-hot"}
    for axes, (head, row) in zip(grid, measured.items(), strict=False):
        confusion = np.array(row["confusion"])
        axes.imshow(np.sqrt(confusion), cmap="Blues")
        axes.grid(visible=False)
        for (true, predicted), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if count > confusion.max() / 3 else "black"
                axes.text(predicted, true, count, ha="center", va="center", fontsize=7, color=colour)
        axes.set(xticks=range(10), yticks=range(10), xlabel="predicted", ylabel="true", title=titles[head])
    for place, (row, colour) in enumerate(zip(measured.values(), (VERMILION, BLUE), strict=True)):
        _strip(grid[2], place, flat(row["accuracy"]), colour)
    grid[2].set_xticks((0, 1), labels=list(measured))
    grid[2].set(ylabel="test accuracy", xlim=(-0.6, 1.6), ylim=(0.0, 1.02))
    return figure


# --- Ambiguous cases ---


def ambiguous_section(measured):
    """What both targets make of digits that bear two labels."""
    low, high = measured["digits"]
    regression, softmax = measured["regression"], measured["softmax"]
    rows = [["regression", *(f"{share:.3f}" for share in regression.values()), "-"]]
    rows.append(["softmax", *(f"{share:.3f}" for share in softmax.values()), f"{measured['both_on_top']:.3f}"])
    text = (
        f"The squared error is least at the mean, and the mean of two class numbers is the number of another class. "
        f"Trained with both labels for each image of a {low} or a {high}, the regression answers "
        f"{measured['mean_number']:.2f} on average, and {regression['in_between']:.3f} of these test images get a "
        f"digit in between, which no annotator gave. Softmax answers one of the two in {softmax['one_of_both']:.3f} of "
        f"cases; in {measured['both_on_top']:.3f} the two are its best two, with mean probabilities "
        f"{measured['mean_probabilities'][low]:.2f} and {measured['mean_probabilities'][high]:.2f}: it says that it "
        f"hesitates, and between what."
    )
    return Section(
        "ambiguous",
        "Ambiguous cases: between two classes by number lies a third one",
        text,
        text_table(("target", "one of the two", "in between", "outside", "both on top"), rows),
        _ambiguous_figure(measured),
        f"All {measured['images']} test images of a {low} or a {high}, over the seeds. Left: what the regression "
        f"answers before rounding; dashed lines mark the two labels. Right: mean probabilities of the softmax.",
    )


def _ambiguous_figure(measured):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    counts = np.array(measured["number_histogram"])
    left.stairs(counts / measured["images"], np.linspace(0.0, 10.0, 41), fill=True, color=VERMILION)
    for digit in measured["digits"]:
        left.axvline(digit, color="black", lw=1, ls="--")
    left.set(xlabel="regressed number", ylabel="share of images", xticks=range(11))
    colours = [GREEN if digit in measured["digits"] else GREY for digit in range(10)]
    right.bar(range(10), measured["mean_probabilities"], color=colours)
    right.set(xlabel="digit", ylabel="mean probability", xticks=range(10))
    return figure
