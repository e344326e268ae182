import keras
import numpy as np
import pytest

from keras_notes.layers import OneHot, one_hot
from tests.layers.contract import check_layer, compiles

pytestmark = pytest.mark.any_backend


# Identities


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("out_of_range", ["error", "zero"])
def test_rows_are_those_of_the_identity_matrix(shape, dtype, out_of_range):
    ids = np.random.default_rng(0).integers(0, 7, shape).astype(dtype)
    actual = keras.ops.convert_to_numpy(one_hot(ids, 7, out_of_range=out_of_range))
    np.testing.assert_array_equal(actual, np.eye(7, dtype="float32")[ids])


def test_an_id_out_of_range_gives_a_row_of_zeros_if_asked_for():
    rows = keras.ops.convert_to_numpy(one_hot(np.array([-1, 0, 2, 3, 1000]), 3, out_of_range="zero"))
    assert rows.sum(axis=-1).tolist() == [0, 1, 1, 0, 0]


def test_zero_rows_can_be_of_any_type():
    rows = one_hot(np.array([1, 5]), 2, out_of_range="zero", dtype="int32")
    assert keras.ops.convert_to_numpy(rows).tolist() == [[0, 1], [0, 0]]


def test_an_id_out_of_range_gives_nan_where_it_cannot_be_seen():
    if not compiles():
        pytest.skip("PyTorch's compiler needs a C++ toolchain")
    model = keras.Sequential([keras.Input((), dtype="int32"), OneHot(3)])
    model.compile(jit_compile=True)
    rows = model.predict(np.array([2, 3, -1]), verbose=0)
    assert rows[0].tolist() == [0, 0, 1]
    assert np.isnan(rows[1:]).all()


# The contract


@pytest.mark.parametrize("out_of_range", ["error", "zero"])
def test_keeps_the_contract(out_of_range, tmp_path):
    check_layer(OneHot(5, out_of_range=out_of_range), np.array([[1, 2], [0, 4]], "int32"), tmp_path=tmp_path)


def test_hands_the_mask_on():
    ids = keras.layers.Masking(mask_value=0)(np.array([[[1], [0]]]))
    embedded = keras.ops.cast(ids, "int32")
    embedded._keras_mask = ids._keras_mask
    assert keras.ops.convert_to_numpy(OneHot(3)(embedded)._keras_mask).tolist() == [[True, False]]


# Errors


@pytest.mark.parametrize("convert", [np.asarray, keras.ops.convert_to_tensor])
@pytest.mark.parametrize("function", [lambda ids: one_hot(ids, 3), lambda ids: OneHot(3)(ids)])
def test_an_id_out_of_range_is_an_error_where_it_can_be_seen(function, convert):
    with pytest.raises(ValueError, match=r"Ids must be in \[0, 3\). Received: 3 \(1 of 2 are wrong\). Give a larger"):
        function(convert([0, 3]))
    with pytest.raises(ValueError, match=r"Received: -1 \(1 of 2 are wrong\)"):
        function(convert([-1, 0]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
@pytest.mark.parametrize("function", [lambda ids: one_hot(ids, 3), lambda ids: OneHot(3)(ids)])
def test_ids_that_are_no_integers_are_an_error(function, dtype):
    with pytest.raises(TypeError, match=f"Ids must be integers. Received: dtype='{dtype}'. Cast them"):
        function(np.zeros(2, dtype))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "`num_classes` must be >= 1. Received: num_classes=0."),
        ({"num_classes": 2.0}, TypeError, "`num_classes` must be an integer"),
        ({"num_classes": 2, "out_of_range": "clip"}, ValueError, "`out_of_range` must be one of 'error', 'zero'."),
        ({"num_classes": 2, "dtype": "int32"}, ValueError, "`dtype` must be a float type when out_of_range='error'"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        OneHot(**arguments)
    with pytest.raises(error, match=message):
        one_hot(np.array([0]), **arguments)
