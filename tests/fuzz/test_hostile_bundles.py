"""Bundles made to do harm: what they name, how much they ask for, and what stands in the place of a file."""

import hashlib
import json
import os
import re

import numpy as np
import pytest

from keras_notes.bundle import _bundle as bundle_module
from keras_notes.bundle import open_bundle, write_bundle
from keras_notes.errors import BundleError
from keras_notes.verification import verify
from tests.support.bundles import GOLDEN_INPUT, GOLDEN_OUTPUT, MODEL_FILE, TESTDATA, contents, edit_manifest, rewrite

MANIFEST = "model.json"


def _refused(directory, max_length=1000):
    """The one line that refuses a bundle."""
    with pytest.raises(BundleError) as caught:
        verify(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < max_length
    return message


def _signature(manifest):
    return manifest["signatures"][0]


def _put_raw(directory, edit, raw):
    """Changes the manifest by `edit(manifest, value)`, and writes the JSON `raw` in the place of the value."""
    edit_manifest(directory, lambda manifest: edit(manifest, "<raw>"))
    content = (directory / MANIFEST).read_text().replace('"<raw>"', raw)
    own = json.loads((directory / MANIFEST).read_text())["manifest_sha256"]
    unsigned = content.replace(own, "0" * 64)
    (directory / MANIFEST).write_text(unsigned.replace("0" * 64, hashlib.sha256(unsigned.encode()).hexdigest(), 1))


# Names

OUTSIDE = [
    "../x.bin",
    "golden/../../x.bin",
    "golden/../x.bin",
    "/etc/passwd",
    "golden\\..\\x.bin",
    "C:\\x.bin",
    "x.bin",
    "golden/a/x.bin",
    "",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_outside_the_bundle_is_refused(testdata, name):
    edit_manifest(testdata, lambda m: m["files"].update({name: m["files"][GOLDEN_INPUT]}))
    assert "does not follow the bundle schema" in _refused(testdata)


@pytest.mark.parametrize("name", OUTSIDE)
def test_golden_values_outside_the_bundle_are_refused(testdata, name):
    edit_manifest(testdata, lambda m: _signature(m)["inputs"][0].update(golden=name))
    assert "does not follow the bundle schema" in _refused(testdata)


@pytest.mark.parametrize("stem", ["x" * 5000, "a\nb", "\0", "\ud800", "a\r\n\u2028b", "x.bin\n"], ids=ascii)
def test_a_name_that_no_file_can_have_is_a_missing_file(testdata, stem):
    name = f"golden/{stem}.bin"
    edit_manifest(testdata, lambda m: m["files"].update({name: m["files"][GOLDEN_INPUT]}))
    assert "is incomplete: golden/" in _refused(testdata)


# Numbers and sizes


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("NaN", "must be JSON. Received: a number that is not finite (NaN)."),
        ("-Infinity", "must be JSON. Received: a number that is not finite (-Infinity)."),
        ("1e400", "must be JSON. Received: a number that is not finite (1e400)."),
        ("9223372036854775808", "must be JSON. Received: an integer beyond 64 bits (9223372036854775808)."),
        ("9" * 5000, "must be JSON. Received: an integer beyond 64 bits (999999999999999 ... 999999999999999)."),
        ("[" * 100_000 + "]" * 100_000, "must be JSON of a few levels"),
        ('"' + "x" * 100_000 + '"', "does not follow the bundle schema"),
        ("[" + "1," * 10_000 + "1]", "does not follow the bundle schema"),
        ("{" + ",".join(f'"a\\n{i}":1' for i in range(10_000)) + "}", "does not follow the bundle schema"),
    ],
    ids=["NaN", "infinity", "overflow", "65 bits", "5000 digits", "deep", "long", "many", "lines"],
)
def test_a_value_that_is_none_is_refused(testdata, raw, message):
    _put_raw(testdata, lambda manifest, value: manifest["tolerance"].update(max_error_lsb=value), raw)
    assert message in _refused(testdata)


@pytest.mark.parametrize("number", ["16.0", "1.6e1", "true"])
def test_an_integer_is_written_as_one(testdata, number):
    _put_raw(testdata, lambda manifest, value: _signature(manifest).update(golden_samples=value), number)
    assert "is not of type 'integer'" in _refused(testdata)


@pytest.mark.parametrize("samples", [2**31, 2**62])
def test_golden_samples_that_no_file_holds_are_refused(testdata, samples):
    edit_manifest(testdata, lambda m: _signature(m).update(golden_samples=samples))
    assert f"for {samples} samples" in _refused(testdata)

    def grow(manifest):
        for name, entry in manifest["files"].items():
            entry["bytes"] = samples if name == MODEL_FILE else min(entry["bytes"] // 16 * samples, 2**63 - 1)

    edit_manifest(testdata, grow)
    _refused(testdata)


def test_a_shape_of_many_dimensions_is_refused(testdata):
    edit_manifest(testdata, lambda m: _signature(m)["inputs"][0].update(shape=[2**31 - 1] * 1000))
    assert "is too long" in _refused(testdata)


def test_a_manifest_of_many_mebibytes_is_refused(testdata):
    with (testdata / MANIFEST).open("r+b") as file:
        file.truncate(2**34)
    assert "must have at most 16777216 bytes" in _refused(testdata)


def test_a_file_of_many_gibibytes_is_refused_by_its_size(testdata):
    with (testdata / MODEL_FILE).open("r+b") as file:
        file.truncate(2**40)
    assert "Received: 1099511627776 bytes" in _refused(testdata)


def test_a_file_is_hashed_block_by_block(monkeypatch):
    monkeypatch.setattr(bundle_module, "_BLOCK_BYTES", 7)
    assert verify(TESTDATA).ok


def test_a_metric_that_is_not_a_number_is_not_written(testdata):
    before = contents(testdata)
    for value in (np.nan, np.inf):
        with pytest.raises(BundleError, match=r"The manifest must be JSON\. Received: a number that is not finite"):
            open_bundle(testdata).with_metrics({"accuracy": value})
    assert contents(testdata) == before


# Something else in the place of a file

IN_ITS_PLACE = {
    "nothing": lambda path: None,
    "a directory": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("name", [MODEL_FILE, GOLDEN_OUTPUT, MANIFEST])
@pytest.mark.parametrize("place", IN_ITS_PLACE.values(), ids=IN_ITS_PLACE)
def test_what_is_no_file_is_missing(testdata, name, place):
    (testdata / name).unlink()
    place(testdata / name)
    assert re.search("is missing|must hold model.json", _refused(testdata))


def test_a_link_to_the_right_content_is_a_file(testdata, tmp_path):
    (tmp_path / "elsewhere").write_bytes((testdata / MODEL_FILE).read_bytes())
    (testdata / MODEL_FILE).unlink()
    (testdata / MODEL_FILE).symlink_to(tmp_path / "elsewhere")
    assert verify(testdata).ok


def test_metrics_are_not_written_through_a_link(testdata, tmp_path):
    (tmp_path / "mine").write_text("years of work")
    (testdata / f"{MANIFEST}.new").symlink_to(tmp_path / "mine")
    assert open_bundle(testdata).with_metrics({"accuracy": 0.5}).manifest.metrics["accuracy"] == 0.5
    assert (tmp_path / "mine").read_text() == "years of work"
    assert set(contents(testdata)) == set(contents(TESTDATA))


def test_a_manifest_that_a_kill_left_behind_does_not_stand_in_the_way(testdata):
    (testdata / f"{MANIFEST}.new").write_text("{")
    bundle = open_bundle(testdata)
    files = {name: (testdata / name).read_bytes() for name in bundle.manifest.files}
    assert write_bundle(testdata, bundle.manifest, files, overwrite=True) == bundle
    assert set(contents(testdata)) == set(contents(TESTDATA))


# A model that says of itself what is not so


@pytest.mark.parametrize("size", [4, 8, 20, 100, 2000])
def test_a_truncated_model_is_refused(testdata, size):
    rewrite(testdata, MODEL_FILE, (testdata / MODEL_FILE).read_bytes()[:size])
    message = _refused(testdata)
    assert re.search("must be a .tflite file. Received: ", message)
    assert message.count(str(testdata)) == 1
