"""The sections of the report: every figure on the page is that of the report, the file or the manifest."""

import dataclasses
import math

import pytest

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.benchmarking import bundle_bytes
from keras_notes.bundle import Bundle, StateEntry, open_bundle
from keras_notes.report import _bundle_sections
from keras_notes.report._html import NONE
from tests.support.bundles import MODEL_FILE, TESTDATA, edit_manifest
from tests.support.report_pages import (
    BENCH_OF_TWO,
    MODEL_BYTES,
    page_of,
    shape,
    terms_of,
)


def test_the_page_says_what_was_trained(sound):
    manifest = open_bundle(TESTDATA).manifest
    terms = terms_of(sound)
    assert terms["Name"] == "bars"
    assert terms["Recipe"] == "static_int8"
    assert terms["Exceptions"].startswith("none")
    assert terms["Batch size"] == "1"
    assert terms["Preprocessing"] == manifest.preprocessing
    assert terms["Labels"] == "row, column, diagonal, blob"
    assert terms["Made by"].splitlines() == [f"{name} {number}" for name, number in manifest.versions.items()]
    rows = sound.tables["Metrics of the .tflite file"][1:]
    assert rows == [[name, f"{value:g}"] for name, value in manifest.metrics.items()]
    assert manifest.files[MODEL_FILE].sha256 in sound.all("footer")[0][1]


def test_the_figures_of_an_output_are_those_of_its_report(report, tmp_path):
    output = dataclasses.replace(
        report.outputs[0],
        max_error_lsb=11.111,
        rms_error_lsb=22.222,
        mean_error_lsb=-33.333,
        max_error=0.4444,
        rms_error=0.5555,
        mean_error=-0.6666,
        top1_agreement=0.77777,
    )
    made = dataclasses.replace(report, outputs=(output,), accuracy=0.88888, accuracy_samples=1234, kernels="reference")
    shown = page_of(TESTDATA, tmp_path, verification=made)
    header, row = shown.tables["Error over the golden samples"]
    assert dict(zip(header, row, strict=True)) == {
        "Output": "serving_default/output",
        "Result": "pass",
        "Largest, LSB": "11.11",
        "RMS, LSB": "22.22",
        "Mean, LSB": "-33.33",
        "Largest": "0.444",
        "RMS": "0.555",
        "Mean": "-0.667",
        "Top-1 agreement": "0.7778",
    }
    assert "16 golden samples with the reference kernels" in shown.text
    assert shown.tables["Metrics of the .tflite file"][-1] == ["accuracy on 1,234 samples, reference kernels", "0.8889"]
    figures = terms_of(shown)
    assert figures["Largest error"].startswith("11.11LSB")
    assert figures["Accuracy"] == "0.8889on 1,234 samples"
    assert "Limits of the error in LSB: largest 60, root mean square 2, mean 1." in shown.text


def test_an_output_in_floating_point_is_measured_in_its_own_units(report, tmp_path):
    lsb = {"max_error_lsb": None, "rms_error_lsb": None, "mean_error_lsb": None, "top1_agreement": None}
    output = dataclasses.replace(report.outputs[0], max_error=0.4444, **lsb)
    shown = page_of(TESTDATA, tmp_path, verification=dataclasses.replace(report, outputs=(output,)))
    assert shown.tables["Error over the golden samples"][0] == ["Output", "Result", "Largest", "RMS", "Mean"]
    assert terms_of(shown)["Largest error"] == "0.444of any output"
    assert "Limits of the error relative to the largest golden output: " in shown.text


def test_a_value_that_is_no_number_is_shown_as_such(report, tmp_path):
    failures = ("the output 'serving_default/other' is NaN",)
    worse = dataclasses.replace(report.outputs[0], name="other", max_error_lsb=math.nan, failures=failures)
    made = dataclasses.replace(report, outputs=(*report.outputs, worse), failures=failures)
    shown = page_of(TESTDATA, tmp_path, verification=made)
    assert terms_of(shown)["Largest error"].startswith("nan")
    first, second = shown.tables["Error over the golden samples"][1:]
    assert (first[1], second[1], second[2]) == ("pass", "FAIL", "nan")


def test_the_latencies_are_those_of_the_benchmark(sound):
    header, row = sound.tables["Latency and memory"]
    assert header[1:] == ["Threads", "Load, ms", "First, ms", "p50, ms", "p95, ms", "Peak memory, bytes", "File, bytes"]
    assert row == [
        "bars, static_int8",
        "3",
        "11.1250",
        "12.2500",
        "13.5000",
        "14.7500",
        "15,000,001",
        f"{MODEL_BYTES:,}",
    ]
    assert (
        "LiteRT 9.8.7 with the builtin kernels on Linux of tests, 5 cores: 7 rounds of 41 warm invocations"
        in sound.text
    )
    assert terms_of(sound)["Latency, p50"] == "13.5000ms with 3 threads"


def test_a_comparison_shows_both_bundles_and_their_ratio(report, tmp_path):
    shown = page_of(TESTDATA, tmp_path, verification=report, bench=BENCH_OF_TWO)
    first, second = shown.tables["Latency and memory"][1:]
    assert (first[0], second[0]) == ("A: bars, static_int8", "B: second, float32")
    assert second[4:7] == ["27.0000", "14.7500", NONE]
    assert shown.tables["p50 of A / p50 of B"][1] == ["3", "0.500", "0.250 to 0.750"]


def test_the_sizes_are_those_of_the_file(sound):
    file = read_tflite(TESTDATA / MODEL_FILE)
    weights = sorted((t for t in file.main.tensors if t.is_constant), key=lambda tensor: -tensor.bytes)
    total = sum(tensor.bytes for tensor in weights)
    rows = sound.tables[f"The largest weights: {len(weights)} of {len(weights)}"][1:]
    assert [(row[0], row[1], row[4]) for row in rows] == [(t.name, t.dtype, f"{t.bytes:,}") for t in weights]
    formats = {row[0]: row[1:] for row in sound.tables["Weights by number format"][1:]}
    for dtype, (tensors, size, share) in formats.items():
        of_dtype = [tensor.bytes for tensor in weights if tensor.dtype == dtype]
        assert (tensors, size) == (str(len(of_dtype)), f"{sum(of_dtype):,}")
        assert share == f"{100 * sum(of_dtype) / total:.1f} %"
    widths = [float(a["width"].rstrip("%")) for a, text in sound.all("rect") if "bytes" in text]
    assert sum(widths) == pytest.approx(100, abs=0.01)
    assert f"{total:,} of them are weights" in sound.text
    assert f"has {bundle_bytes(open_bundle(TESTDATA)):,} bytes." in sound.text


def test_no_more_than_ten_weights_are_listed_and_a_shared_buffer_counts_once():
    file = read_tflite(TESTDATA / MODEL_FILE)
    weight = next(tensor for tensor in file.main.tensors if tensor.is_constant)
    many = [dataclasses.replace(weight, buffer=1000 + i, bytes=100) for i in range(12)]
    again, elsewhere = (dataclasses.replace(one, name="again") for one in many[:2])
    tensors = (*many, again), (elsewhere,)
    file = dataclasses.replace(file, graphs=tuple(dataclasses.replace(file.main, tensors=own) for own in tensors))
    content = "".join(_bundle_sections.sizes(open_bundle(TESTDATA), file))
    assert "The largest weights: 10 of 12" in content
    assert "1,200 of them are weights" in content


def test_operators_in_floating_point_are_marked(report, tmp_path):
    operators = {"CONV_2D": 3, "RELU": 2, "QUANTIZE": 1}
    islands = ("CONV_2D a", "CONV_2D b", "RELU c")
    made = dataclasses.replace(report, operators=operators, float_islands=islands, is_mixed=True)
    shown = page_of(TESTDATA, tmp_path, verification=made)
    assert shown.tables["Operators of the file"][1:] == [
        ["CONV_2D", "3", "2"],
        ["RELU", "2", "1"],
        ["QUANTIZE", "1", "0"],
    ]
    assert [text for attributes, text in shown.all("span") if attributes.get("class") == "fail"] == ["2", "1"]
    assert {"CONV_2D a", "CONV_2D b", "RELU c"} <= {text for _, text in shown.all("li")}
    assert terms_of(shown)["In floating point"] == "3of 6 operators"


def test_a_file_that_is_all_floating_point_has_no_operators_to_mark(report, tmp_path):
    made = dataclasses.replace(
        report, operators={"CONV_2D": 2, "QUANTIZE": 1}, float_islands=("CONV_2D a", "CONV_2D b"), is_mixed=False
    )
    shown = page_of(TESTDATA, tmp_path, verification=made)
    assert not [attributes for attributes, _ in shown.all("span") if attributes.get("class") == "fail"]


def test_signatures_are_those_of_the_manifest(sound):
    (signature,) = open_bundle(TESTDATA).manifest.signatures
    (image, output) = (*signature.inputs, *signature.outputs)
    rows = sound.tables["Inputs and outputs, 16 golden samples"][1:]
    scales = [f"{entry.scale:.6g}" for entry in (image, output)]
    assert rows == [
        ["image", "input", "float32", shape(1, 8, 8, 1), scales[0], str(image.zero_point), "float32"],
        ["output", "output", "float32", shape(1, 4), scales[1], str(output.zero_point), "float32"],
    ]


def test_states_and_any_batch_size_are_said():
    manifest = open_bundle(TESTDATA).manifest
    states = (StateEntry(input="h_in", output="h_out"),)
    signature = dataclasses.replace(manifest.signatures[0], states=states)
    changed = dataclasses.replace(manifest, signatures=(signature,), batch_size=None)
    content = "".join(_bundle_sections.signatures(Bundle(TESTDATA, changed)))
    assert "h_out → h_in" in content
    assert shape("any", 8, 8, 1) in content
    assert "16 golden steps" in content


def test_many_labels_are_folded_and_counted_from_0(testdata, tmp_path):
    labels = [f"class {i}" for i in range(4)] * 10
    manifest = dataclasses.replace(open_bundle(testdata).manifest, labels=tuple(labels))
    content = "".join(_bundle_sections.training(Bundle(testdata, manifest), kn.verify(testdata)))
    assert "<summary>40 classes</summary>" in content
    assert '<ol start="0"><li>class 0</li>' in content


def test_a_bundle_without_anything_to_say_has_a_page(testdata, tmp_path):
    edit_manifest(testdata, lambda manifest: manifest.update(labels=None, preprocessing=None, metrics={}))
    shown = page_of(testdata, tmp_path)
    assert terms_of(shown)["Labels"] == terms_of(shown)["Preprocessing"] == "not stated"
    assert "The manifest holds no metrics" in shown.text
