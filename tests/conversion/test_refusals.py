"""Refusals: the remedy that an error prints is the one that was tried, with all that was declared before."""

import pytest

from keras_notes.conversion._recipes import parse_recipe
from keras_notes.conversion._refusals import complete_remedy, float_layers_of, refuse
from keras_notes.errors import ConversionError

DECLARED = parse_recipe({"default": "static_int8", "layers": {"head": "float16"}})


def refusing(*needed):
    """A function that converts only by recipes with exceptions for each of some layers; it refuses one at a time."""

    def convert(recipes):
        for layer in needed:
            if layer not in recipes.layers:
                raise refuse([f"{layer} must be declared."], recipes, {layer: "float32"})

    return convert


def first_error(convert, recipes=DECLARED):
    with pytest.raises(ConversionError) as caught:
        convert(recipes)
    return caught.value


def test_a_remedy_keeps_what_was_declared_and_is_in_the_message():
    error = first_error(refusing("exp"))
    assert error.remedy == {
        "recipe": {"default": "static_int8", "layers": {"head": "float16", "exp": "float32"}},
    }
    assert f"recipe={error.remedy['recipe']}" in str(error)
    assert complete_remedy(error, refusing("exp")) is error


def test_refusals_one_at_a_time_become_one_error_with_everything():
    convert = refusing("exp", "sin", "block")
    error = complete_remedy(first_error(convert), convert)
    assert error.remedy["recipe"]["layers"] == {
        "head": "float16", "exp": "float32", "sin": "float32", "block": "float32",
    }  # fmt: skip
    assert error.problems == ("exp must be declared.", "sin must be declared.", "block must be declared.")
    assert all(problem in str(error) for problem in error.problems)
    convert(parse_recipe(error.remedy["recipe"]))


def test_a_remedy_that_does_not_help_is_not_printed():
    def convert(recipes):
        raise refuse(["Nothing helps."], recipes, {"exp": "float32"})

    error = complete_remedy(first_error(convert), convert)
    assert error.remedy is None
    assert "recipe=" not in str(error)


def test_a_trained_model_is_trained_again_with_the_layers_skipped():
    error = refuse(["exp stays in floating point."], DECLARED, {"exp": "float32"}, trained=True)
    assert error.remedy == {"skip": ["head", "exp"]}
    assert "skip=['head', 'exp']" in str(error)


def test_other_forms_of_a_loop_are_remedies_too():
    error = refuse(["A loop."], DECLARED, {"lstm": "dynamic_int8"}, lowerings=[{"lstm": "fused"}, {"lstm": "unrolled"}])
    assert error.remedies[1:] == ({"lowering": {"lstm": "fused"}}, {"lowering": {"lstm": "unrolled"}})
    assert all(f"lowering={remedy['lowering']}" in str(error) for remedy in error.remedies[1:])


def test_layers_around_others_are_declared_alone():
    assert float_layers_of([("block", "dense"), ("block",), ("exp#2",), ("exp",)]) == {
        "block": "float32", "exp": "float32",
    }  # fmt: skip
