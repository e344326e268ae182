"""The settings of the quantizer: with few weights, and depthwise kernels, operators compute in floating point."""

import pytest

from keras_notes._litert.model import Graph, Operator, Signature, Tensor, TfliteFile
from keras_notes.conversion._quantizer_settings import find_recipes_by_operator
from keras_notes.conversion._recipes import parse_recipe

WEIGHT_ONLY = {"layer/result": "weight_only_int8"}
MANY, FEW = (64, 1, 1, 64), (8, 3, 3, 4)


def graph_of(name, shape, *, buffer=1, is_constant=True):
    """A graph of one operator with weights of a shape."""
    tensors = (
        Tensor("x", "float32", (1, 4, 4, 4), None, None, is_constant=False),
        Tensor("weights", "float32", shape, None, None, is_constant=is_constant, buffer=buffer),
        Tensor("layer/result", "float32", (1, 4, 4, 8), None, None, is_constant=False),
    )
    return Graph(tensors, (Operator(name, False, (0, 1), (2,)),))


def recipes_of(*graphs, recipe="dynamic_int8"):
    file = TfliteFile(graphs, (Signature("serving_default", {"x": 0}, {"y": 2}),))
    return find_recipes_by_operator(file, parse_recipe(recipe), [("layer",)])


@pytest.mark.parametrize(
    ("operator", "shape", "expected"),
    [
        ("CONV_2D", FEW, WEIGHT_ONLY),
        ("CONV_2D", MANY, {}),
        ("FULLY_CONNECTED", (2, 128), WEIGHT_ONLY),
        ("FULLY_CONNECTED", (8, 128), {}),
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 960), WEIGHT_ONLY),
        ("ADD", FEW, {}),
    ],
)
def test_few_weights_and_depthwise_kernels_are_rounded_alone(operator, shape, expected):
    assert recipes_of(graph_of(operator, shape)) == expected


@pytest.mark.parametrize(("others", "recipe"), [(0, "weight_only_int8"), (863, "weight_only_int8"), (864, "float16")])
def test_few_of_all_weights_keep_sixteen_bits(others, recipe):
    graph = graph_of("CONV_2D", FEW)  # of 288
    other = Tensor("others", "float32", (others,), None, None, is_constant=True, buffer=2)
    assert recipes_of(Graph((*graph.tensors, other), graph.operators)) == {"layer/result": recipe}


def test_weights_that_two_operators_share_have_one_recipe():
    graph = graph_of("FULLY_CONNECTED", FEW)
    assert recipes_of(Graph(graph.tensors, graph.operators * 2)) == {}


def test_products_of_two_activations_and_loops_are_left():
    assert recipes_of(graph_of("FULLY_CONNECTED", FEW, is_constant=False)) == {}
    assert recipes_of(graph_of("CONV_2D", MANY), graph_of("FULLY_CONNECTED", FEW, buffer=2)) == {}


@pytest.mark.parametrize("recipe", ["static_int8", "int16x8", "float16", "weight_int4"])
def test_other_recipes_are_left(recipe):
    assert recipes_of(graph_of("CONV_2D", FEW), recipe=recipe) == {}


def test_an_exception_by_layer_counts_as_a_default_does():
    recipe = {"default": "static_int8", "layers": {"layer": "dynamic_int8"}}
    assert recipes_of(graph_of("CONV_2D", FEW), recipe=recipe) == WEIGHT_ONLY
    assert recipes_of(graph_of("CONV_2D", MANY), recipe=recipe) == {"layer/result": "dynamic_int8"}
