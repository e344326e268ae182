"""Softmax or logistic outputs: one short run, and the claims that its figures must bear out."""

import math
import re
from statistics import mean

import numpy as np
import pytest

from tests.examples.pages import assert_self_contained, import_example, run_example, start_example

PRIORS = [0.5, 0.2, 0.1, 0.05, 0.02]
# In log-odds. With 164 positives (2 % of 8,192) the trained bias has a standard deviation of about 0.1, and the best
# of 20,000 validation samples, on a flat maximum, one of about 0.15. Neighbouring priors are 0.75 or more apart.
THRESHOLD_TOLERANCE = 0.4
# A standard deviation of the accuracy on 20,000 test samples is 0.003 at most; five of them.
ACCURACY_TOLERANCE = 0.015


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("heads") / "build"
    return output, *run_example("softmax_or_logistic.py", output, "--seeds", "1")


@pytest.fixture(scope="module")
def training_prior():
    return import_example("training_prior")


def log_odds(probability):
    return math.log(probability / (1.0 - probability))


def rows_of(report, method):
    return [row for row in report["threshold"] if row["method"] == method]


def test_states_its_protocol_before_it_measures(short_run):
    _, printed, _ = short_run
    assert printed.index("Thresholds are chosen on validation samples") < printed.index("all right at 0.5")
    assert printed.index("a threshold of 0.5 in disguise") < printed.index("all right at 0.5")


def test_the_page_is_self_contained_and_shows_the_printed_tables(short_run):
    output, printed, report = short_run
    text = (output / "report.html").read_text()
    assert assert_self_contained(text, figures=4).tags.count("pre") == 4
    row = next(row for row in rows_of(report, "focal loss") if row["training_prior"] == 0.02)
    line = next(line for line in printed.splitlines() if re.match(r"focal loss +0\.02 ", line))
    assert f"{mean(row['best_threshold']):.3f}" in line
    assert line in text


def test_every_figure_is_a_file_of_its_own(short_run):
    output, _, _ = short_run
    names = sorted(path.stem for path in output.glob("*.svg"))
    assert names == ["exclusive", "likelihood", "same_decision", "threshold"]
    for path in output.glob("*.svg"):
        assert path.read_text().startswith("<svg ")
        assert "http://www.w3.org/2000/svg" in path.read_text()


def test_softmax_never_gives_two_labels_more_than_half(short_run):
    _, _, report = short_run
    softmax, sigmoids = (report["exclusive"][head]["by_number"]["2"] for head in ("softmax", "sigmoids"))
    assert softmax["all_set_above_half"] == 0.0
    assert softmax["all_right_at_half"] == 0.0
    assert softmax["mean_probability_of_set"] <= 0.5
    assert sigmoids["all_set_above_half"] > 0.7
    assert sigmoids["mean_probability_of_set"] > 0.7


def test_a_chosen_threshold_helps_softmax_but_costs_samples_with_one_label(short_run):
    _, _, report = short_run
    softmax, sigmoids = report["exclusive"]["softmax"], report["exclusive"]["sigmoids"]
    assert 0.1 < mean(softmax["best_threshold"]) < 0.4
    assert mean(softmax["all_right_at_best"]) > mean(softmax["all_right_at_half"]) + 0.2
    assert mean(softmax["all_right_at_best"]) < mean(sigmoids["all_right_at_best"])
    single_label = softmax["by_number"]["1"]
    assert single_label["all_right_at_best"] < single_label["all_right_at_half"]


def test_two_outputs_and_one_logit_decide_alike(short_run):
    _, _, report = short_run
    same = report["same"]
    assert same["random"]["pairs"] == same["near_ties"]["pairs"] == 1_000_000
    assert same["random"]["differ_by_logit"] == same["near_ties"]["differ_by_logit"] == 0
    assert same["trained"]["differ"] == [0]
    assert same["trained"]["samples"] == 100_000
    assert min(same["trained"]["test_accuracy"]) > 0.9
    # Two roundings to float32 of a probability below 1.
    assert same["random"]["max_probability_error"] < 2 * 2.0**-23


def test_a_probability_rounded_to_half_loses_decisions_near_a_tie(short_run):
    _, _, report = short_run
    assert report["same"]["near_ties"]["differ_by_probability"] > 0


@pytest.mark.parametrize("method", ["cross-entropy", "class weights", "prior correction", "focal loss"])
def test_the_best_threshold_is_where_theory_has_it(short_run, method):
    _, _, report = short_run
    rows = rows_of(report, method)
    assert [row["training_prior"] for row in rows if row["head"] == "softmax"] == PRIORS
    assert [row["training_prior"] for row in rows if row["head"] == "logistic"] == PRIORS
    for row in rows:
        measured, expected = log_odds(mean(row["best_threshold"])), log_odds(row["theory_threshold"])
        assert measured == pytest.approx(expected, abs=THRESHOLD_TOLERANCE), row


def test_the_theory_of_cross_entropy_is_the_training_prior_and_of_the_corrected_a_half(short_run):
    _, _, report = short_run
    for row in report["threshold"]:
        if row["method"] == "cross-entropy":
            assert row["theory_threshold"] == row["training_prior"]
        elif row["method"] != "focal loss":
            assert row["theory_threshold"] == 0.5


def test_argmax_loses_accuracy_under_another_prior_and_the_best_threshold_does_not(short_run, training_prior):
    _, _, report = short_run
    bayes = training_prior.bayes_accuracy(0.5, 0.0)
    for row in report["threshold"]:
        assert mean(row["accuracy_at_best"]) == pytest.approx(bayes, abs=ACCURACY_TOLERANCE)
        at_half = bayes
        if row["method"] in ("cross-entropy", "focal loss"):
            at_half = training_prior.bayes_accuracy(0.5, -log_odds(row["training_prior"]))
        # Beside the test samples, the trained bias moves it: by its 0.1 in log-odds, 0.015 at the steepest.
        assert mean(row["accuracy_at_half"]) == pytest.approx(at_half, abs=2 * ACCURACY_TOLERANCE), row


def test_argmax_needs_no_threshold_where_the_priors_are_the_same(short_run, training_prior):
    _, _, report = short_run
    for row in rows_of(report, "cross-entropy"):
        prior = row["training_prior"]
        bayes = training_prior.bayes_accuracy(prior, -log_odds(prior))
        assert mean(row["same_prior_at_half"]) == pytest.approx(bayes, abs=ACCURACY_TOLERANCE)
        assert mean(row["same_prior_at_half"]) > mean(row["same_prior_at_best"]) - ACCURACY_TOLERANCE
    for row in rows_of(report, "class weights"):
        if row["training_prior"] <= 0.1:
            bayes = training_prior.bayes_accuracy(row["training_prior"], -log_odds(row["training_prior"]))
            assert mean(row["same_prior_at_half"]) < bayes - 0.05


def test_both_heads_drift_alike(short_run):
    _, _, report = short_run
    heads = {head: [row for row in report["threshold"] if row["head"] == head] for head in ("softmax", "logistic")}
    for softmax, logistic in zip(heads["softmax"], heads["logistic"], strict=True):
        assert (softmax["method"], softmax["training_prior"]) == (logistic["method"], logistic["training_prior"])
        assert mean(softmax["accuracy_at_half"]) == pytest.approx(mean(logistic["accuracy_at_half"]), abs=0.005)


def test_the_most_likely_parameter_has_the_least_crossentropy(short_run):
    _, _, report = short_run
    likelihood = report["likelihood"]
    assert likelihood["most_likely"] == likelihood["least_cross_entropy"]
    # The sweep steps by 0.001 in the logit, 0.00025 at most in the probability.
    assert likelihood["most_likely"] == pytest.approx(likelihood["frequency"], abs=0.00025)
    # Gradient descent in float32.
    assert likelihood["class_probabilities"] == pytest.approx(likelihood["class_frequencies"], abs=1e-4)


def test_focal_minimizer_without_focus_is_the_posterior(training_prior):
    posterior = np.array([0.02, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(training_prior.focal_minimizer(posterior, gamma=0.0), posterior, atol=1e-6)


@pytest.mark.parametrize("posterior", [0.02, 0.2, 0.5, 0.8])
def test_focal_minimizer_has_the_least_focal_loss_of_all_probabilities(training_prior, posterior):
    q = np.linspace(0.0005, 0.9995, 1999)
    loss = -posterior * (1 - q) ** 2 * np.log(q) - (1 - posterior) * q**2 * np.log(1 - q)
    # The step of this search.
    assert training_prior.focal_minimizer(posterior, gamma=2.0) == pytest.approx(q[loss.argmin()], abs=0.0005)


@pytest.mark.parametrize("prior", [0.5, 0.1])
def test_best_threshold_is_as_good_as_any(training_prior, prior):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 50)
    logits = rng.normal(size=100) + y
    best = training_prior.best_threshold(logits, y, prior)
    accuracies = [training_prior.accuracy_at(threshold, logits, y, prior) for threshold in np.linspace(-5, 5, 5001)]
    # Sums of the same hundred terms in another order.
    assert training_prior.accuracy_at(best, logits, y, prior) == pytest.approx(max(accuracies), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be >= 1. Received: 0."),
        (["--seeds", "many"], "invalid int value: 'many'"),
        (["--output", "README.md"], "--output must be a directory, or a name not taken yet. Received: README.md"),
    ],
)
def test_wrong_options_are_errors(arguments, message):
    result = start_example("softmax_or_logistic.py", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
