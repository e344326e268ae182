"""candidates.json and tensors.json of a bundle: what we write follows their schemas, and what does not is refused."""

import dataclasses
import json
import math

import jsonschema
import pytest

from keras_notes.bundle import (
    CANDIDATES_FILE,
    TENSORS_FILE,
    Candidate,
    Choice,
    TensorError,
    open_bundle,
    read_choice,
    read_tensor_errors,
)
from keras_notes.errors import BundleError
from tests.support.bundles import ROOT, TESTDATA, rewrite
from tests.support.report_pages import tensor

CANDIDATES, TENSORS = (
    json.loads((ROOT / "tflite" / f"{name}.schema.json").read_text()) for name in ("candidates", "tensors")
)
CHOICE = Choice(
    accuracy_budget=0.01,
    prefer="bytes",
    model_accuracy=None,
    samples=32,
    candidates=(
        Candidate("float32", "xnnpack", 9000, 0.25, None, 0.0, ""),
        Candidate("int16x8", "builtin", None, None, None, None, "The model must not be a riddle."),
        Candidate("static_int8", "xnnpack", 3000, 0.125, None, math.inf, "over the budget"),
    ),
    chosen=0,
)


def _put_choice(directory, data):
    rewrite(directory, CANDIDATES_FILE, data if isinstance(data, bytes) else json.dumps(data).encode())


@pytest.mark.parametrize("name", ["bundle", "candidates", "tensors"])
def test_the_package_holds_the_schemas_of_the_devices(name):
    file = f"{name}.schema.json"
    assert (ROOT / "keras_notes" / "bundle" / file).read_bytes() == (ROOT / "tflite" / file).read_bytes()
    assert f"include tflite/{file}\n" in (ROOT / "MANIFEST.in").read_text()


@pytest.mark.parametrize("definition", [CANDIDATES, TENSORS], ids=["candidates", "tensors"])
def test_a_schema_is_valid_and_describes_every_property(definition):
    jsonschema.Draft202012Validator.check_schema(definition)
    for part in (definition, *definition["$defs"].values()):
        assert part["description"]
        assert all("description" in value for value in part.get("properties", {}).values())


@pytest.mark.parametrize(
    ("entry", "definition"),
    [
        (Choice, CANDIDATES),
        (Candidate, CANDIDATES["$defs"]["candidate"]),
        (TensorError, TENSORS["$defs"]["tensor"]),
    ],
)
def test_the_fields_of_the_classes_are_the_properties_of_the_schemas(entry, definition):
    fields = [field.name for field in dataclasses.fields(entry)]
    assert fields == list(definition["properties"]) == definition["required"]


def test_the_testdata_follow_the_schema_of_tensors():
    jsonschema.validate(json.loads((TESTDATA / TENSORS_FILE).read_text()), TENSORS)


def test_a_choice_follows_its_schema_and_is_read_as_it_was(testdata):
    jsonschema.validate(json.loads(json.dumps(CHOICE.to_dict())), CANDIDATES)
    _put_choice(testdata, CHOICE.to_dict())
    assert read_choice(open_bundle(testdata)) == CHOICE


def _candidate(choice):
    return choice["candidates"][0]


BROKEN = {
    "a missing key": (lambda c: c.pop("samples"), r"'samples' is a required property, at \$."),
    "an unknown key": (lambda c: c.update(extra=1), "'extra' was unexpected"),
    "a preference of its own": (lambda c: c.update(prefer="beauty"), r"'beauty' is not one of \['bytes', 'latency'\]"),
    "a number for a word": (lambda c: c.update(prefer=3), r"at \$.prefer."),
    "a budget in words": (lambda c: c.update(accuracy_budget="1"), r"'1' is not of type 'number', at \$.accuracy_budg"),
    "a bool for a number": (lambda c: c.update(accuracy_budget=True), "True is not of type 'number'"),
    "half a sample": (lambda c: c.update(samples=0.5), "0.5 is not of type 'integer'"),
    "a float for an integer": (lambda c: c.update(samples=16.0), "16.0 is not of type 'integer'"),
    "a choice beyond the end": (lambda c: c.update(chosen=3), "chosen=3 of 3 candidates"),
    "a choice before the start": (lambda c: c.update(chosen=-1), "-1 is less than the minimum"),
    "a bool for a choice": (lambda c: c.update(chosen=True), "True is not of type 'integer'"),
    "no candidates": (lambda c: c.update(candidates=[]), r"at \$.candidates."),
    "candidates in words": (lambda c: c.update(candidates="abc"), "'abc' is not of type 'array'"),
    "a candidate that is a number": (lambda c: c.update(candidates=[1]), r"at \$.candidates\[0\]"),
    "a candidate with an unknown key": (lambda c: _candidate(c).update(extra=1), "'extra' was unexpected"),
    "a candidate without its loss": (lambda c: _candidate(c).pop("loss"), "'loss' is a required property"),
    "bytes in words": (lambda c: _candidate(c).update(bytes="9000"), r"at \$.candidates\[0\].bytes."),
    "a recipe of numbers": (lambda c: _candidate(c).update(recipe=1), r"at \$.candidates\[0\].recipe."),
    "no reason": (lambda c: _candidate(c).update(reason=None), r"at \$.candidates\[0\].reason."),
    "an accuracy in words": (lambda c: _candidate(c).update(accuracy="1"), r"at \$.candidates\[0\].accuracy."),
}


@pytest.mark.parametrize(("edit", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_choice_is_refused_with_its_place(testdata, edit, message):
    choice = json.loads(json.dumps(CHOICE.to_dict()))
    edit(choice)
    _put_choice(testdata, choice)
    form = (
        rf"candidates.json' must be a JSON object with what was tried .* Received: .*{message}.*Convert the model again"
    )
    with pytest.raises(BundleError, match=form) as caught:
        read_choice(open_bundle(testdata))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b" ", b"{", b"[]", b"\xff\xfe\xff", b"[" * 100_000, b'{"a": ' * 900 + b"1" + b"}" * 900, b"9" * 5000]
)
def test_a_choice_that_is_no_json_object_is_refused_on_one_line(testdata, content):
    _put_choice(testdata, content)
    with pytest.raises(BundleError, match="must be a JSON object with what was tried") as caught:
        read_choice(open_bundle(testdata))
    assert "\n" not in str(caught.value)
    # The line without its middle, beside the path and what it must hold.
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -1}, r"-1 is less than the minimum of 0, at \$\[0\].size."),
        ({"size": 16.0}, r"16.0 is not of type 'integer', at \$\[0\].size."),
        ({"squares": True}, r"True is not of type 'number', at \$\[0\].squares."),
        ({"max_error": None}, r"None is not of type 'number', at \$\[0\].max_error."),
        ({"scale": "1"}, r"'1' is not of type 'number', 'null', at \$\[0\].scale."),
        ({"max_value": 10**400}, "an integer beyond 64 bits"),
    ],
)
def test_broken_errors_of_tensors_are_refused_with_their_place(testdata, change, message):
    rewrite(testdata, TENSORS_FILE, json.dumps([tensor("a", 1.0, **change)]).encode())
    with pytest.raises(BundleError, match=rf"tensors.json' must be a JSON list with .* Received: .*{message}"):
        read_tensor_errors(open_bundle(testdata))


def test_errors_of_tensors_may_be_infinite_whole_numbers_or_have_more_to_say(testdata):
    entry = tensor("a", math.inf, squares=4, remark="from a later version")
    rewrite(testdata, TENSORS_FILE, json.dumps([entry]).encode())
    (error,) = read_tensor_errors(open_bundle(testdata))
    assert (error.error_squares, error.squares) == (math.inf, 4.0)
    assert isinstance(error.squares, float)
