"""The audit of what the converter gave, on files drawn by hand."""

import pytest

from keras_notes import errors
from keras_notes.conversion._audit import audit
from keras_notes.conversion._recipes import parse_recipe
from tests.support.bundles import DEQUANTIZE, QUANTIZE, drawn_file

FLOAT32, STATIC_INT8 = parse_recipe("float32"), parse_recipe("static_int8")
FLOAT_ADD, INTEGER_ADD = ("ADD", False, (0, 0), (0,)), ("ADD", False, (1, 1), (1,))


def test_a_float_file_may_compute_in_floats():
    audit(drawn_file(FLOAT_ADD), "net", FLOAT32)


def test_an_integer_file_may_have_float_edges():
    audit(drawn_file(QUANTIZE, INTEGER_ADD, DEQUANTIZE), "net", STATIC_INT8)


def test_a_float_island_in_an_integer_file_is_refused():
    message = (
        r"The model 'net' converted with the recipe 'static_int8' must compute in integers throughout\. "
        r"Received: ADD block/a float32 in floating point\. Replace that layer, or declare it: "
        r".*'layers': \{'block': 'float32'\}"
    )
    with pytest.raises(errors.ConversionError, match=message):
        audit(drawn_file(QUANTIZE, INTEGER_ADD, FLOAT_ADD), "net", STATIC_INT8)


def test_many_float_islands_are_counted():
    with pytest.raises(
        errors.ConversionError, match=r"(ADD block/a float32, ){4}ADD block/a float32 and 2 more in floating"
    ):
        audit(drawn_file(*[FLOAT_ADD] * 7), "net", STATIC_INT8)


@pytest.mark.parametrize("recipe", [FLOAT32, STATIC_INT8])
def test_an_operator_that_is_no_built_in_is_refused(recipe):
    with pytest.raises(errors.ConversionError, match=r"built-in operators only.* Received: FlexErfinv\."):
        audit(drawn_file(("FlexErfinv", True, (1,), (1,))), "net", recipe)


@pytest.mark.parametrize("recipe", [FLOAT32, STATIC_INT8])
def test_weights_that_are_no_constants_are_refused(recipe):
    with pytest.raises(errors.ConversionError, match=r"its weights as constants\. Received: READ_VARIABLE\."):
        audit(drawn_file(("READ_VARIABLE", False, (1,), (1,))), "net", recipe)


def test_a_declared_layer_may_compute_in_floats():
    plan = parse_recipe({"default": "static_int8", "layers": {"block": "float32"}})
    audit(drawn_file(QUANTIZE, INTEGER_ADD, FLOAT_ADD), "net", plan)
    with pytest.raises(errors.ConversionError, match="in floating point"):
        audit(drawn_file(FLOAT_ADD), "net", parse_recipe({"default": "static_int8", "layers": {"other": "float32"}}))


def test_a_weight_of_another_type_is_refused():
    product = ("FULLY_CONNECTED", False, (0, 3), (0,))
    message = r"weights in the type of the recipe\. Received: FULLY_CONNECTED block/a float32 with float32 weights"
    for recipe in ("dynamic_int8", "float16", "weight_int4"):
        with pytest.raises(errors.ConversionError, match=message):
            audit(drawn_file(product), "net", parse_recipe(recipe))
    audit(drawn_file(product), "net", FLOAT32)
