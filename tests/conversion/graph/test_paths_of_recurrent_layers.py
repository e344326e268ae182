"""Recurrent layers in nested models: recipes and lowerings name them by path, as they name operators."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert.reader import read_tflite
from keras_notes.conversion._pipeline import ConversionPipeline
from keras_notes.conversion._recipes import parse_recipe
from keras_notes.conversion.graph._deploy_graph import deploy_graph

SHORT, LONG = 12, 36  # sequences that are written out for integers, and too long for that
INPUTS, UNITS = 4, 5
INTEGER_BLOCK = {"default": "dynamic_int8", "layers": {"block": "static_int8"}}
FLOAT_BLOCK = {"default": "static_int8", "layers": {"block": "dynamic_int8"}}


def block(name, steps, layer_class=layers.LSTM, **arguments):
    """A model around one recurrent layer "cell"."""
    series = [keras.Input((steps, INPUTS)), layer_class(UNITS, name="cell", **arguments)]
    return keras.Sequential(series, name=name)


def around(*blocks):
    """A model "net" of nested models on the same series, and a dense layer "head" on their results."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(blocks[0].input_shape[1:], name="series")
    features = [each(inputs) for each in blocks]
    joined = layers.Concatenate()(features) if len(features) > 1 else features[0]
    return keras.Model(inputs, layers.Dense(3, name="head")(joined), name="net")


def operators_of(model, directory, recipe, **arguments):
    """The names of the operators of the file, which is verified."""
    x = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:])).astype("float32")
    calibration = None if recipe == "float32" else x
    bundle = kn.convert(model, directory / "bundle", recipe, calibration=calibration, golden=x[:8], **arguments)
    kn.verify(bundle)
    file = read_tflite(bundle.model_path)
    return [operator.name for graph in file.graphs for operator in graph.operators]


def forms_of(model, recipe="float32", lowering="auto"):
    """The forms of the recurrent layers by path."""
    pipeline = ConversionPipeline((deploy_graph(model),), 1, {}, lowering)
    return pipeline._recurrent_forms(parse_recipe(recipe))["serving_default"]


def test_a_short_layer_in_an_integer_block_is_written_out(tmp_path):
    operators = operators_of(around(block("block", SHORT)), tmp_path, INTEGER_BLOCK)
    assert "WHILE" not in operators
    assert operators.count("LOGISTIC") >= SHORT


@pytest.mark.parametrize("steps", [SHORT, LONG])
def test_a_layer_in_a_float_block_is_a_loop(steps, tmp_path):
    assert operators_of(around(block("block", steps)), tmp_path, FLOAT_BLOCK).count("WHILE") == 1


def test_a_long_layer_in_an_integer_block_is_written_out_if_asked_for(tmp_path):
    model = around(block("block", LONG))
    remedy = {"block/cell": "unrolled"}
    message = r"A loop must not compute in integers.*" + re.escape(f"lowering={remedy}")
    with pytest.raises(errors.ConversionError, match=message):
        operators_of(model, tmp_path, INTEGER_BLOCK)
    assert "WHILE" not in operators_of(model, tmp_path, INTEGER_BLOCK, lowering=remedy)


@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")])
def test_layers_of_one_name_in_two_models_have_their_own_forms(order, tmp_path):
    model = around(*(block(name, SHORT) for name in order))
    lowering = {"left/cell": "unrolled", "right/cell": "loop"}
    assert forms_of(model, lowering=lowering) == {f"{name}/cell": lowering[f"{name}/cell"] for name in order}
    operators = operators_of(model, tmp_path, "float32", lowering=lowering)
    assert operators.count("WHILE") == 1
    # Three gates in each step that is written out; the loop has its steps in few operators.
    assert operators.count("LOGISTIC") >= SHORT


@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")])
def test_layers_of_one_name_keep_their_own_lowering(order):
    own = {"left": "unrolled", "right": "loop"}
    model = around(*(block(name, SHORT, kn.layers.LSTM, lowering=own[name]) for name in order))
    assert forms_of(model) == {"left/cell": "unrolled", "right/cell": "loop"}


@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")])
def test_layers_of_one_name_have_the_recipe_of_their_own_path(order):
    model = around(*(block(name, SHORT) for name in order))
    recipe = {"default": "dynamic_int8", "layers": {"left/cell": "static_int8"}}
    assert forms_of(model, recipe) == {"left/cell": "unrolled if short", "right/cell": "loop"}


@pytest.mark.parametrize("pattern", ["cell", "c*", "*", "block", "block/cell", "block/*", "*/cell"])
def test_a_lowering_names_a_layer_by_name_or_path(pattern):
    assert forms_of(around(block("block", SHORT)), lowering={pattern: "unrolled"}) == {"block/cell": "unrolled"}


@pytest.mark.parametrize("pattern", ["head", "other/cell", "cell/block", "block/head", "net", "net/block"])
def test_a_lowering_that_names_no_recurrent_layer_is_refused(pattern):
    message = rf"`lowering` must name recurrent layers of the model: \['block/cell'\]\. .*pattern='{pattern}'"
    with pytest.raises(ValueError, match=message):
        forms_of(around(block("block", SHORT)), lowering={pattern: "unrolled"})


def test_the_last_lowering_that_matches_counts():
    model = around(block("left", SHORT), block("right", SHORT))
    lowering = {"left/cell": "unrolled", "cell": "loop", "right": "unrolled"}
    assert forms_of(model, lowering=lowering) == {"left/cell": "loop", "right/cell": "unrolled"}


def test_a_layer_in_two_models_has_one_form():
    shared = layers.LSTM(UNITS, name="cell")
    model = around(*(keras.Sequential([keras.Input((SHORT, INPUTS)), shared], name=name) for name in ("left", "right")))
    forms = forms_of(model, lowering={"left": "unrolled"})
    assert forms == {"left/cell": "unrolled", "right/cell": "unrolled"}


def test_the_name_of_a_subclassed_model_is_no_part_of_the_path():
    """Its tensors do not bear it either: a pattern that matches it would mean the layers, and not their operators."""

    class Net(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.block = block("block", SHORT)

        def call(self, inputs):
            return self.block(inputs)

    model = Net(name="net")
    x = np.zeros((1, SHORT, INPUTS), "float32")
    pipeline = ConversionPipeline((deploy_graph(model, example=x),), 1, {}, {"block/cell": "unrolled"})
    plan = parse_recipe({"default": "dynamic_int8", "layers": {"net": "static_int8"}})
    assert pipeline._recurrent_forms(plan) == {"serving_default": {"net/block/cell": "unrolled"}}
    with pytest.raises(ValueError, match="`lowering` must name recurrent layers"):
        ConversionPipeline((deploy_graph(model, example=x),), 1, {}, {"net": "unrolled"})
