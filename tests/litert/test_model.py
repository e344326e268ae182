"""The reader of .tflite files, against LiteRT's interpreter and against files drawn by hand."""

import dataclasses
import json

import numpy as np
import pytest

from keras_notes._litert.model import Signature, TfliteFile
from keras_notes._litert.reader import read_tflite
from tests.support.bundles import DEQUANTIZE, MODEL_FILE, QUANTIZE, TESTDATA, drawn_file, interpreter

PATH = TESTDATA / MODEL_FILE


def test_signatures_are_those_of_the_interpreter():
    run = interpreter(PATH).get_signature_runner("serving_default")
    inputs = {name: int(details["index"]) for name, details in run.get_input_details().items()}
    outputs = {name: int(details["index"]) for name, details in run.get_output_details().items()}
    assert read_tflite(PATH).signatures == (Signature("serving_default", inputs, outputs),)


def test_tensors_are_those_of_the_interpreter():
    file = read_tflite(PATH)
    for details in interpreter(PATH).get_tensor_details()[: len(file.main.tensors)]:
        tensor = file.main.tensors[details["index"]]
        scales = details["quantization_parameters"]["scales"]
        assert (tensor.name, tensor.shape) == (details["name"], tuple(details["shape"]))
        assert np.dtype(tensor.dtype) == details["dtype"]
        assert (tensor.scale, tensor.zero_point) == (details["quantization"] if len(scales) == 1 else (None, None))


def test_operators_are_those_of_the_interpreter():
    # `_get_ops_details` is private, but nothing public lists operators.
    names = [details["op_name"] for details in interpreter(PATH)._get_ops_details()]
    assert [operator.name for operator in read_tflite(PATH).main.operators] == names


def test_weights_are_constants_and_activations_are_not():
    graph = read_tflite(PATH).main
    convolution = next(operator for operator in graph.operators if operator.name == "CONV_2D")
    assert [graph.tensors[index].is_constant for index in convolution.inputs] == [False, True, True]
    assert not graph.tensors[convolution.outputs[0]].is_constant


def test_the_grid_of_a_float_edge_is_that_of_the_integers_behind_it():
    file = read_tflite(PATH)
    (signature,), graph = file.signatures, file.main
    for index, grid in (
        (signature.inputs["image"], graph.input_grid(signature.inputs["image"])),
        (signature.outputs["output"], graph.output_grid(signature.outputs["output"])),
    ):
        assert (graph.tensors[index].dtype, graph.tensors[index].scale) == ("float32", None)
        assert grid.dtype == "int8"
        assert grid.scale > 0
    assert file.float_operators() == ()


@pytest.mark.parametrize("operators", [(), (QUANTIZE, ("ADD", False, (1, -1), (1,)), DEQUANTIZE)])
def test_a_file_survives_the_way_through_json(operators):
    signature = Signature("step", {"x": 0}, {"y": 1}, graph=1)
    graphs = (*drawn_file().graphs, *drawn_file(*operators).graphs)
    file = TfliteFile(graphs, (signature,), {"about": "text"})
    assert TfliteFile.from_dict(json.loads(json.dumps(dataclasses.asdict(file)))) == file
    assert file.graph(signature) == graphs[1]
    with pytest.raises(KeyError, match="metadata"):
        TfliteFile.from_dict({"graphs": [], "signatures": []})


def test_an_integer_graph_between_float_edges_has_no_float_operators():
    assert drawn_file(QUANTIZE, ("CONV_2D", False, (1, 1, -1), (1,)), DEQUANTIZE).float_operators() == ()


@pytest.mark.parametrize(("inputs", "outputs"), [((0,), (1,)), ((1,), (0,)), ((1, 2), (1,)), ((1, -1, 0), (1,))])
def test_an_operator_that_touches_floats_is_a_float_operator(inputs, outputs):
    (operator,) = drawn_file(QUANTIZE, ("ADD", False, inputs, outputs), DEQUANTIZE).float_operators()
    assert operator.startswith("ADD ")


FLOAT, INTEGER = ("ADD", False, (0,), (0,)), ("ADD", False, (1,), (1,))
# Weights in float16, which a DEQUANTIZE reads for the operators in float32.
WEIGHTS = ("DEQUANTIZE", False, (2,), (3,))


@pytest.mark.parametrize(
    ("operators", "is_mixed"),
    [
        ((WEIGHTS, FLOAT, FLOAT), False),
        ((QUANTIZE, INTEGER, DEQUANTIZE), False),
        ((QUANTIZE, INTEGER, DEQUANTIZE, FLOAT), True),
        ((), False),
    ],
)
def test_a_file_is_mixed_if_it_computes_in_both(operators, is_mixed):
    file = drawn_file(*operators)
    assert file.is_mixed == is_mixed
    in_a_body = dataclasses.replace(file, graphs=(*drawn_file().graphs, *file.graphs))
    assert in_a_body.is_mixed == is_mixed


def test_custom_operators_are_named_once():
    file = drawn_file(("FlexErfinv", True, (0,), (0,)), ("ADD", False, (0,), (0,)), ("FlexErfinv", True, (0,), (0,)))
    assert file.custom_operators() == ("FlexErfinv",)
    assert drawn_file(QUANTIZE).custom_operators() == ()


def test_operators_on_variables_are_named():
    file = drawn_file(("VAR_HANDLE", False, (), (0,)), ("READ_VARIABLE", False, (0,), (0,)), DEQUANTIZE)
    assert file.resource_operators() == ("READ_VARIABLE", "VAR_HANDLE")
    assert drawn_file(DEQUANTIZE).resource_operators() == ()


def test_operators_are_counted_the_most_frequent_first():
    file = drawn_file(("ADD", False, (0,), (0,)), QUANTIZE, ("ADD", False, (0,), (0,)))
    assert list(file.operator_counts().items()) == [("ADD", 2), ("QUANTIZE", 1)]
