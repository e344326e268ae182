"""The main job: a short run for its structure, the whole run for what the README says of it."""

import pytest

import keras_notes as kn
from tests.examples.pages import assert_self_contained, run_example, start_example

ROWS = [
    "teacher",
    "student from 120 labels",
    "student from 1,200 labels",
    "student distilled",
    "int8 on LiteRT",
]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("digits") / "build"
    return output, *run_example("teacher_to_device.py", output, "--seeds", "1", "--epochs", "6", "6")


def test_leaves_a_bundle_that_verifies(short_run):
    output, _, report = short_run
    bundle = kn.verify(output / "bundle")
    assert bundle.recipe == "static_int8"
    assert bundle.float_islands == ()
    assert bundle.model_bytes == report["rows"][-1]["bytes"]


def test_prints_the_table_that_the_report_holds(short_run):
    _, printed, report = short_run
    assert [row["name"] for row in report["rows"]] == ROWS
    for row in report["rows"]:
        line = next(
            line for line in printed.splitlines() if line.startswith(row["name"]) and f"{row['bytes']:,}" in line
        )
        assert f"{row['parameters']:,}" in line
        assert f"{row['accuracy']:.4f}" in line
        assert row["latency_ms_p50"] > 0
    assert report["rows"][-1]["max_error_lsb"] is not None


def test_states_its_protocol_before_it_trains(short_run):
    _, printed, _ = short_run
    assert printed.index("The test images choose nothing") < printed.index("Training, seed 1")


def test_the_page_is_self_contained_and_shows_the_same_figures(short_run):
    output, _, report = short_run
    text = (output / "report.html").read_text()
    assert_self_contained(text, figures=4)
    for row in report["rows"]:
        assert f"<td>{row['bytes']:,}</td><td>{row['accuracy']:.4f}</td>" in text


def test_the_confusion_matrix_counts_every_test_image(short_run):
    _, _, report = short_run
    confusion = report["confusion_int8"]
    assert sum(map(sum, confusion)) == 597
    right = sum(confusion[digit][digit] for digit in range(10))
    assert right / 597 == pytest.approx(report["rows"][-1]["accuracy"])


def test_wrong_options_are_errors():
    result = start_example("teacher_to_device.py", "--seeds", "0")
    assert result.returncode == 2
    assert "--seeds and --epochs must be >= 1. Received: 0" in result.stderr


@pytest.mark.slow
def test_the_whole_run_shows_what_the_readme_says(tmp_path):
    _, report = run_example("teacher_to_device.py", tmp_path / "build")
    teacher, few, _, distilled, int8 = report["rows"]
    for float_accuracy, int8_accuracy in zip(distilled["accuracy_by_seed"], int8["accuracy_by_seed"], strict=True):
        assert int8_accuracy >= float_accuracy - 0.005
    for with_teacher, alone in zip(distilled["accuracy_by_seed"], few["accuracy_by_seed"], strict=True):
        assert with_teacher > alone
    assert int8["bytes"] * 20 < teacher["bytes"]
