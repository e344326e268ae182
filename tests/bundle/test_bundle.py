"""The bundle on disk: a round trip, damage, and nothing half-written."""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from keras_notes import errors
from keras_notes.bundle import open_bundle, write_bundle
from keras_notes.verification import verify
from tests.support.bundles import (
    GOLDEN_INPUT,
    GOLDEN_OUTPUT,
    MODEL_FILE,
    TESTDATA,
    contents,
    edit_manifest,
    failing_after,
)

# The files of TESTDATA, without its manifest.
FILES = len(contents(TESTDATA)) - 1


@pytest.fixture
def old(testdata):
    """A bundle that stands where a new one shall be written, and its bytes."""
    return testdata, contents(testdata)


def _parts():
    """A manifest and files to write."""
    files = contents(TESTDATA)
    del files["model.json"]
    return open_bundle(TESTDATA).manifest, files


def _new_parts():
    """A manifest and files that differ from those of TESTDATA."""
    manifest, files = _parts()
    return dataclasses.replace(manifest, name="new"), {**files, GOLDEN_OUTPUT: files[GOLDEN_OUTPUT][::-1]}


def _alone(directory):
    """Whether nothing stands beside the directory."""
    return [path.name for path in directory.parent.iterdir()] in ([directory.name], [])


def test_what_is_written_is_what_is_opened(tmp_path):
    manifest, files = _parts()
    written = write_bundle(tmp_path / "new" / "bundle", manifest, files)
    assert open_bundle(written.directory) == written
    assert dataclasses.replace(written.manifest, manifest_sha256=manifest.manifest_sha256) == manifest
    assert {name: data for name, data in contents(written.directory).items() if name != "model.json"} == files
    assert _alone(written.directory)


def test_the_manifest_holds_size_and_hash_of_every_file():
    manifest, files = _parts()
    assert set(manifest.files) == set(files)
    for name, entry in manifest.files.items():
        assert (entry.bytes, entry.sha256) == (len(files[name]), hashlib.sha256(files[name]).hexdigest())


def test_golden_files_are_little_endian_float32():
    bundle = open_bundle(TESTDATA)
    signature = bundle.manifest.signatures[0]
    inputs, outputs = bundle.golden(signature)
    for values, name in ((inputs["image"], GOLDEN_INPUT), (outputs["output"], GOLDEN_OUTPUT)):
        assert values.astype("<f4").tobytes() == (TESTDATA / name).read_bytes()
        assert values.dtype == np.float32
        assert len(values) == signature.golden_samples


def test_metrics_are_added_and_kept(testdata):
    bundle = open_bundle(testdata).with_metrics({"accuracy": np.float32(0.5)})
    assert bundle.manifest.metrics == {**open_bundle(TESTDATA).manifest.metrics, "accuracy": 0.5}
    assert open_bundle(testdata) == bundle
    assert set(contents(testdata)) == set(contents(TESTDATA))


@pytest.mark.parametrize("name", [MODEL_FILE, GOLDEN_INPUT, GOLDEN_OUTPUT])
def test_a_flipped_byte_is_named(testdata, name):
    data = bytearray((testdata / name).read_bytes())
    data[len(data) // 2] ^= 1
    (testdata / name).write_bytes(data)
    with pytest.raises(errors.BundleError, match=rf"damaged: {name} must have the SHA-256 .*Copy it again"):
        open_bundle(testdata)


def test_a_truncated_model_is_named_with_its_size(testdata):
    path = testdata / MODEL_FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(errors.BundleError, match=r"damaged: model\.tflite must have \d+ bytes\. Received: 1000 bytes"):
        open_bundle(testdata)


@pytest.mark.parametrize("name", [MODEL_FILE, GOLDEN_OUTPUT])
def test_a_missing_file_is_named(testdata, name):
    (testdata / name).unlink()
    with pytest.raises(errors.BundleError, match=f"incomplete: {name} is missing"):
        open_bundle(testdata)


def test_a_directory_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(errors.BundleError, match=r"must hold model\.json\. Received: directory="):
        open_bundle(tmp_path)


@pytest.mark.parametrize("text", [b"{\n", b"", b"\xff\xfe\x00"], ids=["cut", "empty", "not UTF-8"])
def test_a_manifest_that_is_not_json_is_refused(testdata, text):
    (testdata / "model.json").write_bytes(text)
    with pytest.raises(errors.BundleError, match="must be JSON"):
        open_bundle(testdata)


@pytest.mark.parametrize("text", ["null", "[]", "3"])
def test_a_manifest_that_is_no_object_is_refused(testdata, text):
    (testdata / "model.json").write_text(text)
    with pytest.raises(errors.BundleError, match="must have format_version 2"):
        open_bundle(testdata)


def test_a_missing_key_is_named(testdata):
    edit_manifest(testdata, lambda manifest: manifest.pop("tolerance"))
    with pytest.raises(errors.BundleError, match=r"does not follow the bundle schema: .*tolerance"):
        open_bundle(testdata)


def test_another_format_version_is_named(testdata):
    edit_manifest(testdata, lambda manifest: manifest.update(format_version=3))
    with pytest.raises(errors.BundleError, match=r"must have format_version 2\. Received: format_version=3\. Convert"):
        open_bundle(testdata)


@pytest.mark.parametrize("name", ["../x", "golden/../../x"])
def test_a_path_that_leaves_the_bundle_is_refused(testdata, name):
    (testdata.parent / "x").write_bytes(b"x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    edit_manifest(testdata, lambda manifest: manifest["files"].update({name: entry}))
    with pytest.raises(errors.BundleError, match=rf"does not follow the bundle schema: '{re.escape(name)}'"):
        open_bundle(testdata)


def test_golden_values_of_another_number_are_refused(testdata):
    edit_manifest(testdata, lambda manifest: manifest["signatures"][0].update(golden_samples=15))
    with pytest.raises(errors.BundleError):
        verify(testdata)


def test_an_existing_directory_is_refused_and_left_as_it_is(old):
    directory, before = old
    with pytest.raises(errors.BundleError, match=r"must not exist yet\. Received: directory=.*overwrite=True"):
        write_bundle(directory, *_new_parts())
    assert contents(directory) == before
    assert _alone(directory)


def test_overwrite_refuses_a_folder_with_anything_else_in_it(old):
    directory, _ = old
    (directory / "golden" / "thesis.txt").write_bytes(b"years of work")
    before = contents(directory)
    with pytest.raises(errors.BundleError, match=r"holds other files: golden/thesis\.txt"):
        write_bundle(directory, *_new_parts(), overwrite=True)
    assert contents(directory) == before


def test_overwrite_refuses_a_model_json_of_another_program(tmp_path):
    (tmp_path / "model.json").write_text('{"format": "layers-model", "weightsManifest": []}')
    with pytest.raises(errors.BundleError, match="does not list the files of one"):
        write_bundle(tmp_path, *_new_parts(), overwrite=True)
    assert set(contents(tmp_path)) == {"model.json"}


def test_a_bundle_of_another_format_version_may_be_replaced(testdata):
    edit_manifest(testdata, lambda manifest: (manifest.update(format_version=1), manifest.pop("batch_size")))
    write_bundle(testdata, *_new_parts(), overwrite=True)
    assert open_bundle(testdata).manifest.format_version == 2


def test_overwrite_through_a_link_replaces_what_it_points_to(old, tmp_path):
    directory, _ = old
    link = tmp_path / "link"
    link.symlink_to(directory)
    write_bundle(link, *_new_parts(), overwrite=True)
    assert link.is_symlink()
    assert open_bundle(directory).manifest.name == "new"


def test_a_manifest_that_could_not_be_read_again_is_not_written(testdata, tmp_path):
    before = contents(testdata)
    with pytest.raises(errors.BundleError, match="'top-1' does not match"):
        open_bundle(testdata).with_metrics({"top-1": 0.9})
    assert contents(testdata) == before
    manifest, files = _new_parts()
    with pytest.raises(errors.BundleError, match="The manifest does not follow the bundle schema"):
        write_bundle(tmp_path / "new", dataclasses.replace(manifest, preprocessing=["a"]), files)
    assert not (tmp_path / "new").exists()


def test_every_flipped_byte_of_the_manifest_is_found(testdata):
    path = testdata / "model.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        for bit in (1, 4):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            with pytest.raises(errors.BundleError):
                open_bundle(testdata)


def test_overwrite_replaces_a_bundle(old):
    directory, _ = old
    manifest, files = _new_parts()
    write_bundle(directory, manifest, files, overwrite=True)
    assert open_bundle(directory).manifest.name == "new"
    assert set(contents(directory)) == {"model.json", *files}
    assert (directory / GOLDEN_OUTPUT).read_bytes() == files[GOLDEN_OUTPUT]
    assert _alone(directory)


def test_overwrite_refuses_what_is_no_bundle(tmp_path):
    directory = tmp_path / "thesis"
    directory.mkdir()
    (directory / "chapter.txt").write_text("words")
    with pytest.raises(errors.BundleError, match=r"Only a bundle may be overwritten, and .* holds no model\.json"):
        write_bundle(directory, *_parts(), overwrite=True)
    assert contents(directory) == {"chapter.txt": b"words"}
    assert _alone(directory)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, calls):
    with failing_after(monkeypatch, os, "fsync", calls), pytest.raises(OSError, match="No space left"):
        write_bundle(tmp_path / "bundle", *_parts())
    assert list(tmp_path.iterdir()) == []


# Files one by one, the manifest, then the two moves: the old bundle away, the new one into its place.
@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [(os, "fsync", 0), (os, "fsync", 2), (os, "fsync", FILES), (Path, "rename", 0), (Path, "rename", 1)],
)
def test_a_failed_overwrite_leaves_the_old_bundle(old, monkeypatch, owner, name, calls):
    directory, before = old
    with failing_after(monkeypatch, owner, name, calls), pytest.raises(OSError, match="No space left"):
        write_bundle(directory, *_new_parts(), overwrite=True)
    assert contents(directory) == before
    assert _alone(directory)


def test_the_manifest_is_readable_by_hand():
    text = (TESTDATA / "model.json").read_text(encoding="ascii")
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
