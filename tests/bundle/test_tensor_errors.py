"""Errors down the graph: read from a bundle, as ratios, and as a picture on the report."""

import dataclasses
import json
import math

import pytest

from keras_notes import errors
from keras_notes.bundle import TENSORS_FILE, TensorError
from keras_notes.report._charts import worst_tensors
from keras_notes.report._html import NONE
from tests.support.bundles import edit_manifest, rewrite
from tests.support.report_pages import (
    BENCH,
    ROW,
    keep_tensors,
    page_of,
    tensor,
)


def test_errors_down_the_graph_are_shown_in_its_order(testdata, tmp_path):
    entries = [tensor("first", 0.01), tensor("second", 10.0), tensor("third", 1.0, scale=None), tensor("last", 0.0)]
    keep_tensors(testdata, entries)
    shown = page_of(testdata, tmp_path)
    rows = shown.tables["All tensors in the order of the graph"][1:]
    assert [row[:2] for row in rows] == [
        ["first", "40.0 dB"],
        ["second", "10.0 dB"],
        ["third", "20.0 dB"],
        ["last", "exact"],
    ]
    assert rows[0][2:] == ["0.25", "4", "0.5", "16"]
    assert rows[2][4] == NONE
    assert [row[0] for row in shown.tables["The worst tensors"][1:]] == ["second"]
    bars = [(attributes, text) for attributes, text in shown.all("rect") if "dB" in text or "exact" in text]
    assert [text for _, text in bars] == ["first: 40.0 dB", "second: 10.0 dB", "third: 20.0 dB", "last: exact"]
    assert [attributes["class"] for attributes, _ in bars] == ["blue", "vermilion", "blue", "green"]
    heights = [float(attributes["height"]) for attributes, _ in bars]
    assert heights == pytest.approx([4 * heights[1], heights[1], 2 * heights[1], 4 * heights[1]], abs=0.2)
    middles = [float(a["x"].rstrip("%")) + float(a["width"].rstrip("%")) / 2 for a, _ in bars]
    assert middles == [12.5, 37.5, 62.5, 87.5]
    assert "the lowest ratio is 10.0 dB, at second" in shown.all("desc")[-1][1]


def test_a_ratio_below_0_goes_down_and_one_that_is_not_defined_has_no_bar(testdata, tmp_path):
    keep_tensors(testdata, [tensor("noise", 1000.0), tensor("silent", 0.0, squares=0.0), tensor("inf", math.inf)])
    shown = page_of(testdata, tmp_path)
    rows = shown.tables["All tensors in the order of the graph"][1:]
    assert [row[1] for row in rows] == ["-10.0 dB", "not defined", "not defined"]
    assert [text for _, text in shown.all("rect") if "dB" in text] == ["noise: -10.0 dB"]


def test_a_tenth_of_the_tensors_is_marked_and_no_more_than_ten():
    decibels = [float(value) for value in range(300)]
    assert worst_tensors(decibels) == list(range(10))
    assert worst_tensors(decibels[:50][::-1]) == [49, 48, 47, 46, 45]
    assert worst_tensors([math.inf, 3.0, math.nan]) == [1]
    assert worst_tensors([math.inf, math.nan]) == []


def test_the_ratio_of_huge_and_tiny_sums_is_a_number():
    assert TensorError("a", None, 1, 1e-300, 1e300, 0.0, 0.0).sqnr_db == pytest.approx(6000)
    assert TensorError("a", None, 1, 5e-324, 1.0, 0.0, 0.0).sqnr_db == pytest.approx(3233, abs=1)


def test_without_the_errors_of_tensors_the_page_says_how_to_get_them(testdata, tmp_path):
    edit_manifest(testdata, lambda manifest: manifest["files"].pop(TENSORS_FILE, None))
    (testdata / TENSORS_FILE).unlink(missing_ok=True)
    shown = page_of(testdata, tmp_path)
    assert "convert the model again with this version" in shown.text
    assert "The worst tensors" not in shown.tables


def test_a_file_without_quantization_has_no_such_errors(testdata, tmp_path, report):
    edit_manifest(testdata, lambda manifest: manifest["files"].pop(TENSORS_FILE, None))
    (testdata / TENSORS_FILE).unlink(missing_ok=True)
    edit_manifest(testdata, lambda manifest: manifest.update(recipe="float32"))
    made = dataclasses.replace(report, recipe="float32")
    bench = dataclasses.replace(BENCH, rows=(dataclasses.replace(ROW, recipe="float32"),))
    shown = page_of(testdata, tmp_path, verification=made, bench=bench)
    assert "A float32 file has no error of quantization." in shown.text
    assert "convert the model again" not in shown.text


def test_an_empty_list_of_tensors_is_no_picture(testdata, tmp_path):
    keep_tensors(testdata, [])
    assert "No inner tensor of the file has a counterpart" in page_of(testdata, tmp_path).text


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"{}",
        b"[1]",
        b"[" * 100_000,
        json.dumps([{"name": "a"}]).encode(),
        json.dumps([tensor(3, 1.0)]).encode(),
        json.dumps([tensor("a", "<b>")]).encode(),
        json.dumps([tensor("a", -1.0)]).encode(),
        json.dumps([tensor("a", 1.0, size=math.inf)]).encode(),
        json.dumps([tensor("a", 10**400)]).encode(),
    ],
)
def test_malformed_errors_of_tensors_are_a_bundle_error(testdata, tmp_path, content):
    rewrite(testdata, TENSORS_FILE, content)
    with pytest.raises(errors.BundleError, match=r"must be a JSON list .* Convert the model again"):
        page_of(testdata, tmp_path)
    assert not (tmp_path / "report.html").exists()
