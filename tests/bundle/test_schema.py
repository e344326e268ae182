"""tflite/bundle.schema.json is the one definition of model.json: what we write follows it."""

import dataclasses
import json

import jsonschema
import pytest

from keras_notes import errors
from keras_notes.bundle import (
    FORMAT_VERSION,
    FileEntry,
    Manifest,
    SignatureEntry,
    StateEntry,
    TensorEntry,
    Tolerance,
    TrainedFigure,
    open_bundle,
)
from keras_notes.conversion._recipes import EDGES
from tests.support.bundles import GOLDEN_OUTPUT, SCHEMA, TESTDATA, edit_manifest

DEFINITION = json.loads(SCHEMA.read_text())


def _is_valid(manifest):
    return jsonschema.Draft202012Validator(DEFINITION).is_valid(manifest)


def _manifest(directory):
    return json.loads((directory / "model.json").read_text())


def test_the_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(DEFINITION)


def test_the_testdata_bundle_follows_the_schema():
    jsonschema.validate(_manifest(TESTDATA), DEFINITION)


@pytest.mark.parametrize(
    ("recipe", "edges"), [("float32", "float32"), *(("static_int8", edges) for edges in ("float32", "uint8", "int8"))]
)
def test_every_bundle_that_we_write_follows_the_schema(converted, recipe, edges):
    jsonschema.validate(_manifest(converted(recipe, edges).directory), DEFINITION)


@pytest.mark.parametrize(
    ("entry", "definition"),
    [
        (Manifest, DEFINITION),
        (SignatureEntry, DEFINITION["$defs"]["signature"]),
        (StateEntry, DEFINITION["$defs"]["state"]),
        (TensorEntry, DEFINITION["$defs"]["tensor"]),
        (Tolerance, DEFINITION["$defs"]["tolerance"]),
        (TrainedFigure, DEFINITION["$defs"]["trained_figure"]),
        (FileEntry, DEFINITION["$defs"]["file"]),
    ],
)
def test_the_fields_of_the_classes_are_the_properties_of_the_schema(entry, definition):
    fields = dataclasses.fields(entry)
    assert [field.name for field in fields] == list(definition["properties"])
    # What is None by default is left out of the file, so that bundles without it are as they were.
    assert [field.name for field in fields if field.default is not None] == definition["required"]
    assert definition["additionalProperties"] is False


def test_the_schema_describes_every_property():
    objects = (DEFINITION, *DEFINITION["$defs"].values())
    described = {
        name: "description" in value or "$ref" in value
        for definition in objects
        for name, value in definition["properties"].items()
    }
    assert all(described.values()), described


def test_the_schema_knows_our_edges_and_format_version():
    assert tuple(DEFINITION["properties"]["edges"]["enum"]) == EDGES
    assert DEFINITION["properties"]["format_version"]["const"] == FORMAT_VERSION


def _signature(manifest):
    return manifest["signatures"][0]


def _output(manifest):
    return _signature(manifest)["outputs"][0]


BROKEN = {
    "a missing key": lambda m: m.pop("recipe"),
    "an unknown key": lambda m: m.update(extra=1),
    "another format_version": lambda m: m.update(format_version=3),
    "no format_version": lambda m: m.pop("format_version"),
    "a bool as format_version": lambda m: m.update(format_version=True),
    "unknown edges": lambda m: m.update(edges="float64"),
    "a number as name": lambda m: m.update(name=3),
    "no signatures": lambda m: m.update(signatures=[]),
    "signatures by name": lambda m: m.update(signatures={"a": {}}),
    "a signature without inputs": lambda m: _signature(m).update(inputs=[]),
    "a signature without outputs": lambda m: _signature(m).update(outputs=[]),
    "no golden samples": lambda m: _signature(m).update(golden_samples=0),
    "fewer than no golden samples": lambda m: _signature(m).update(golden_samples=-1),
    "a tensor without scale": lambda m: _output(m).pop("scale"),
    "a tensor with an unknown key": lambda m: _output(m).update(units="m"),
    "a scale of 0": lambda m: _output(m).update(scale=0.0),
    "a scale in words": lambda m: _output(m).update(scale="0.1"),
    "a scale without zero point": lambda m: _output(m).update(zero_point=None),
    "a zero point without scale": lambda m: _output(m).update(scale=None),
    "an unknown dtype": lambda m: _output(m).update(dtype="float128"),
    "an unknown golden dtype": lambda m: _output(m).update(golden_dtype="object"),
    "a shape in words": lambda m: _output(m).update(shape="ab"),
    "an unknown size": lambda m: _output(m).update(shape=[1, -1]),
    "golden values outside golden/": lambda m: _output(m).update(golden="model.tflite"),
    "golden values outside the bundle": lambda m: _output(m).update(golden="../golden.bin"),
    "a tolerance without its mean": lambda m: m["tolerance"].pop("mean_error_lsb"),
    "a tolerance of nothing": lambda m: m.update(tolerance=dict.fromkeys(m["tolerance"])),
    "a tolerance in words": lambda m: m["tolerance"].update(max_error_lsb="24"),
    "a negative tolerance": lambda m: m["tolerance"].update(max_error_lsb=-1.0),
    "labels in one string": lambda m: m.update(labels="abcd"),
    "labels that are numbers": lambda m: m.update(labels=[0, 1, 2, 3]),
    "a metric in words": lambda m: m["metrics"].update(accuracy="good"),
    "files in a list": lambda m: m.update(files=list(m["files"])),
    "no model among the files": lambda m: m["files"].pop("model.tflite"),
    "a file without hash": lambda m: m["files"][GOLDEN_OUTPUT].pop("sha256"),
    "a hash of another kind": lambda m: m["files"][GOLDEN_OUTPUT].update(sha256="0" * 32),
    "a file that is no entry": lambda m: m["files"].update({GOLDEN_OUTPUT: None}),
    "a file outside the bundle": lambda m: m["files"].update({"../x": m["files"][GOLDEN_OUTPUT]}),
    "a file outside golden/": lambda m: m["files"].update({"golden/../model.json": m["files"][GOLDEN_OUTPUT]}),
    "an absolute path": lambda m: m["files"].update({"/etc/hostname": m["files"][GOLDEN_OUTPUT]}),
}


@pytest.mark.parametrize("edit", BROKEN.values(), ids=BROKEN)
def test_a_broken_manifest_breaks_the_schema(testdata, edit):
    edit_manifest(testdata, edit)
    assert not _is_valid(_manifest(testdata))


@pytest.mark.parametrize("edit", BROKEN.values(), ids=BROKEN)
def test_a_broken_manifest_is_refused(testdata, edit):
    edit_manifest(testdata, edit)
    with pytest.raises(errors.BundleError):
        open_bundle(testdata)


def test_the_unbroken_manifest_is_not_refused(testdata):
    edit_manifest(testdata, lambda manifest: manifest)
    assert _is_valid(_manifest(testdata))
    unbroken = dataclasses.replace(open_bundle(testdata).manifest, manifest_sha256="")
    assert unbroken == dataclasses.replace(open_bundle(TESTDATA).manifest, manifest_sha256="")
