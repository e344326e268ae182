"""One-hot against integer codes: one short run, and the claims that its figures must bear out."""

import math

import numpy as np
import pytest

from tests.examples.pages import assert_self_contained, run_example, start_example


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("one_hot") / "build"
    return output, *run_example("one_hot_distance.py", output, "--seeds", "1")


def test_states_its_protocol_before_it_measures(short_run):
    _, printed, _ = short_run
    assert printed.index("another stratified split a seed") < printed.index("range over numberings")


def test_the_page_is_self_contained_and_shows_the_printed_tables(short_run):
    output, printed, report = short_run
    text = (output / "report.html").read_text()
    assert assert_self_contained(text, figures=4).tags.count("pre") == 4
    line = next(line for line in printed.splitlines() if line.startswith("softmax") and "to" in line)
    assert f"{np.mean(report['target']['softmax']['accuracy']):.3f}" in line
    assert line in text


def test_every_figure_is_a_file_of_its_own(short_run):
    output, _, _ = short_run
    assert sorted(path.stem for path in output.glob("*.svg")) == ["ambiguous", "distances", "input", "target"]
    for path in output.glob("*.svg"):
        assert path.read_text().startswith("<svg ")
        assert "http://www.w3.org/2000/svg" in path.read_text()


def test_one_hot_classes_are_all_equally_far_from_each_other(short_run):
    _, _, report = short_run
    distances = np.array(report["distances"]["one_hot"])
    assert distances.shape == (10, 10)
    assert (np.diag(distances) == 0).all()
    # One rounding of a square root, in float32 or better.
    np.testing.assert_allclose(distances[~np.eye(10, dtype=bool)], math.sqrt(2), rtol=2.0**-23)


def test_integer_codes_put_class_0_nearer_to_1_than_to_9(short_run):
    _, _, report = short_run
    distances = np.array(report["distances"]["integer"])
    np.testing.assert_array_equal(distances, np.abs(np.subtract.outer(range(10), range(10))))
    assert distances[0, 1] < distances[0, 9]


@pytest.mark.parametrize("model", ["linear", "network"])
def test_one_hot_inputs_reach_the_noise_and_integer_inputs_do_not(short_run, model):
    _, _, report = short_run
    measured = report["input"]
    errors = {coding: np.array(errors) for coding, errors in measured[model].items()}
    assert (errors["integer"] > errors["one-hot"].max()).all()
    # 11 weights from 500 samples add 1 % to the error, and its own standard deviation on 5,000 samples is 1 %; the
    # network has more weights to lose by.
    assert errors["one-hot"].max() < 1.1 * measured["noise"]
    assert errors["integer"].mean() > 1.2 * measured["noise"]


def test_renumbering_changes_a_linear_model_on_integers_and_not_on_one_hot(short_run):
    _, _, report = short_run
    errors = {coding: np.array(errors) for coding, errors in report["input"]["linear"].items()}
    assert errors["integer"].shape == (1, 20)
    # Least squares in float64, the columns in another order.
    assert np.ptp(errors["one-hot"], axis=1).max() < 1e-12
    assert np.ptp(errors["integer"], axis=1).min() > 0.02


def test_renumbering_changes_a_network_on_integers_far_more_than_on_one_hot(short_run):
    _, _, report = short_run
    ranges = {coding: np.ptp(errors, axis=1).max() for coding, errors in report["input"]["network"].items()}
    assert ranges["integer"] > 5 * ranges["one-hot"]


def test_softmax_on_one_hot_is_right_where_regression_on_numbers_is_not(short_run):
    _, _, report = short_run
    softmax, regression = (np.array(report["target"][name]["accuracy"]) for name in ("softmax", "regression"))
    assert softmax.min() > 0.95
    assert regression.max() < 0.85


def test_renumbering_changes_the_regression_and_not_softmax(short_run):
    _, _, report = short_run
    ranges = {name: np.ptp(row["accuracy"], axis=1).max() for name, row in report["target"].items()}
    assert ranges["regression"] > 0.03
    # Rounding in another order of the classes may tip a few of 597 images.
    assert ranges["softmax"] <= 3 / 597


def test_the_regression_confuses_neighbours_by_number(short_run):
    _, _, report = short_run
    regression, softmax = report["target"]["regression"], report["target"]["softmax"]
    # At random 18 of 90 wrong answers are neighbours.
    assert regression["mistakes_at_neighbours"] > 0.6
    assert softmax["mistakes_at_neighbours"] < 0.45
    assert regression["mean_distance_of_mistakes"] < softmax["mean_distance_of_mistakes"]


@pytest.mark.parametrize("target", ["regression", "softmax"])
def test_the_confusion_matrix_counts_every_test_image(short_run, target):
    _, _, report = short_run
    row = report["target"][target]
    confusion = np.array(row["confusion"])
    assert confusion.sum() == 597
    assert confusion.sum() - np.trace(confusion) == row["mistakes"]
    # The first numbering is the digits' own.
    assert np.trace(confusion) / 597 == pytest.approx(row["accuracy"][0][0])


def test_the_regression_answers_ambiguous_images_with_a_class_in_between(short_run):
    _, _, report = short_run
    ambiguous = report["ambiguous"]
    low, high = ambiguous["digits"]
    assert ambiguous["mean_number"] == pytest.approx((low + high) / 2, abs=0.5)
    assert ambiguous["regression"]["in_between"] > 0.95
    assert sum(ambiguous["number_histogram"]) == ambiguous["images"]


def test_softmax_answers_ambiguous_images_with_both_of_their_classes(short_run):
    _, _, report = short_run
    ambiguous = report["ambiguous"]
    low, high = ambiguous["digits"]
    assert ambiguous["softmax"]["one_of_both"] > 0.95
    assert ambiguous["both_on_top"] > 0.95
    assert ambiguous["mean_probabilities"][low] == pytest.approx(0.5, abs=0.05)
    assert ambiguous["mean_probabilities"][high] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be >= 1. Received: 0."),
        (["--output", "README.md"], "--output must be a directory, or a name not taken yet. Received: README.md"),
    ],
)
def test_wrong_options_are_errors(arguments, message):
    result = start_example("one_hot_distance.py", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
