"""The report on labelled samples, and of two bundles: figures counted a second time from the outputs of the file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from keras_notes._litert import client as tflite_process
from keras_notes._litert.sandbox import DEFAULT_LIMITS
from keras_notes.bundle import open_bundle
from keras_notes.cli import main
from keras_notes.report._class_sections import Confusion, classes, count_confusions
from keras_notes.report._html import element
from tests.support.bundles import LABELS, TESTDATA, bars, copied, edit_manifest
from tests.support.report_pages import BENCH, ROW, Page, page_of

MATRIX = "Confusion matrix: a row for each true class, a column for each predicted class"
X, Y = bars(60, seed=9)
# Some labels are wrong, so that there are mistakes to count.
Y = np.where(np.arange(60) % 7 == 0, (Y + 1) % len(LABELS), Y)


def predictions():
    signature = open_bundle(TESTDATA).manifest.signatures[0]
    outputs = tflite_process.outputs(open_bundle(TESTDATA).model_path, signature, {"image": X}, kernels="xnnpack")
    return outputs["output"].argmax(-1)


def section_of(confusion, tmp_path) -> Page:
    path = Path(tmp_path / "section.html")
    path.write_text(element("div", *classes(confusion)))
    return Page(path)


def test_accuracy_matrix_and_figures_are_those_of_the_file(tmp_path):
    page = page_of(TESTDATA, tmp_path, x=X, y=Y)
    predicted = predictions()
    accuracy = (predicted == Y).mean()
    assert 0.5 < accuracy < 1.0
    assert f"an accuracy of {accuracy:.4f}" in page.text
    header, *rows = page.tables[MATRIX]
    assert header == ["True class", *LABELS]
    for i, (name, *cells) in enumerate(rows):
        assert name == LABELS[i]
        assert cells == [str(((i == Y) & (predicted == j)).sum()) for j in range(len(LABELS))]
    for i, (_, samples, recall, precision) in enumerate(page.tables["Figures of each class"][1:]):
        assert samples == str((i == Y).sum())
        assert recall == f"{(predicted[i == Y] == i).mean():.4f}"
        assert precision == f"{(i == Y[predicted == i]).mean():.4f}"
    mistakes = [int(row[2]) for row in page.tables["The most frequent mistakes"][1:]]
    assert sum(mistakes) == (predicted != Y).sum()
    assert mistakes == sorted(mistakes, reverse=True)
    assert MATRIX not in page_of(TESTDATA, tmp_path).tables


def test_many_classes_have_no_matrix_and_a_class_without_samples_no_recall(tmp_path):
    counts = np.diag([3] * 29 + [0])
    page = section_of(Confusion(tuple(f"class {i}" for i in range(30)), counts), tmp_path)
    assert MATRIX not in page.tables
    assert page.tables["Figures of each class"][-1] == ["class 29", "0", "\N{EN DASH}", "\N{EN DASH}"]
    assert "There is no mistake among them." in page.text


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, None, "`x` and `y` must be given together"),
        (X[:5], Y, "`x` must have the shape"),
        ({"picture": X}, Y, "`x` must hold one array for each input"),
        (X, Y + 1, r"class ids"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path, x, y, message):
    with pytest.raises(ValueError, match=message):
        page_of(TESTDATA, tmp_path, x=x, y=y)


def test_one_sigmoid_has_two_classes(monkeypatch):
    bundle = open_bundle(TESTDATA)
    signature = bundle.manifest.signatures[0]
    output = dataclasses.replace(signature.outputs[0], shape=(1, 1))
    single = dataclasses.replace(signature, outputs=(output,))
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, signatures=(single,)))
    monkeypatch.setattr(type(bundle), "golden", lambda *_: ({}, {output.name: np.array([[0.2]])}))
    for values, predicted in (([0.4, 0.6, 0.9], [0, 1, 1]), ([-0.1, 0.2, 3.0], [0, 1, 1])):
        monkeypatch.setattr(
            tflite_process, "outputs", lambda *_, v=values, **__: {output.name: np.array(v, "float32")[:, None]}
        )
        confusion = count_confusions(bundle, X[:3], [0, 1, 0], "xnnpack", DEFAULT_LIMITS)
        assert confusion.accuracy == pytest.approx((np.array(predicted) == [0, 1, 0]).mean())
        assert confusion.names == ("class 0", "class 1")


def test_two_bundles_stand_side_by_side(tmp_path):
    other = copied(TESTDATA, tmp_path / "other")
    edit_manifest(other, lambda manifest: manifest.update(name="second"))
    rows = (ROW, dataclasses.replace(ROW, bundle="B", name="second"))
    page = page_of(TESTDATA, tmp_path, other=other, x=X, y=Y, bench=dataclasses.replace(BENCH, rows=rows))
    header, *figures = page.tables["Key figures"]
    assert header == ["Figure", "A: bars, static_int8", "B: second, static_int8"]
    values = {name: (first, second) for name, first, second in figures}
    assert {"File", "Largest error", "Latency, p50", "Accuracy"} <= set(values)
    assert values["Accuracy"][0] == values["Accuracy"][1] == f"{(predictions() == Y).mean():.4f} on 60 samples"
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes, _ in page.all("svg"):
        assert {attributes["aria-labelledby"], attributes["aria-describedby"]} <= set(ids)
    assert [text for _, text in page.all("h1")] == ["bars", "second"]
    assert page.source.count('class="pair"') >= 6


def test_the_command_takes_labelled_samples_and_a_second_bundle(capsys, tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    report = str(tmp_path / "report.html")
    assert main(["report", str(TESTDATA), str(TESTDATA), "--data", str(tmp_path / "data.npz"), "-o", report]) == 0
    page = Page(Path(report))
    assert f"an accuracy of {(predictions() == Y).mean():.4f}" in page.text
    assert "p50 of A / p50 of B" in page.tables
    np.savez(tmp_path / "bad.npz", x=X)
    assert main(["report", str(TESTDATA), "--data", str(tmp_path / "bad.npz"), "-o", report]) == 2
    assert "`--data` must be a .npz file with the arrays x and y" in capsys.readouterr().err
