"""Sums, differences and products of all pairs of integers, and inverse roots of all integers: model against device."""

import math

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import keras_notes as kn
from keras_notes.compression import quantize_aware
from keras_notes.compression.quantization._affine import INT8, Grid, fake_quantize
from keras_notes.compression.quantization._integer_kernels import add_int, rsqrt_int

PAIRS = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), -1).reshape(-1, 2)
# Of one of the sums some are so near a tie that multipliers of 21 bits tell.
RANGES = {"plain": ((-0.7, 1.9), (-2.3, 0.4)), "near ties": ((-3.61, 2.16), (-1.11, 2.01))}


def _grid(scale: float, zero_point: int) -> Grid:
    return Grid(np.float32(scale), np.float32(zero_point), INT8)


def _values(grid: Grid, integers: np.ndarray) -> np.ndarray:
    return (integers.astype("float32") - grid.zero_point) * grid.scale


@pytest.mark.parametrize("ranges", list(RANGES))
def test_no_pair_of_integers_differs_on_xnnpack(ranges, tmp_path):
    inputs = [keras.Input((len(PAIRS),), name=name) for name in ("a", "b")]
    layer_classes = {"sum": layers.Add, "difference": layers.Subtract, "product": layers.Multiply}
    model = keras.Model(inputs, {name: layer(name=name)(inputs) for name, layer in layer_classes.items()})
    rng = np.random.default_rng(0)
    calibration = [
        rng.permutation(np.linspace(minimum, maximum, len(PAIRS), dtype="float32"))[None]
        for minimum, maximum in RANGES[ranges]
    ]
    aware = quantize_aware(model, calibration=calibration)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=calibration)
    check_all(aware, bundle, PAIRS.T)


def check_all(aware: keras.Model, bundle: kn.Bundle, integers: np.ndarray) -> None:
    """Runs model and file on integers for each input, and checks that they have the same outputs."""
    (signature,) = bundle.manifest.signatures
    arrays = [
        _values(_grid(tensor.scale, tensor.zero_point), column)[None]
        for tensor, column in zip(signature.inputs, integers, strict=True)
    ]
    run = Interpreter(str(bundle.directory / "model.tflite")).get_signature_runner()
    actual = run(**{tensor.name: values for tensor, values in zip(signature.inputs, arrays, strict=True)})
    for name, values in aware.predict(arrays, verbose=0).items():
        np.testing.assert_array_equal(values, actual[name], err_msg=name)


@pytest.mark.any_backend
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_round_half_up_with_multipliers_of_21_bits(sign):
    x_grid, y_grid, grid = _grid(0.02, 11), _grid(0.0123, -37), _grid(0.04, 3)
    x, y = (
        ops.convert_to_tensor(_values(operand_grid, column))
        for operand_grid, column in zip((x_grid, y_grid), PAIRS.T, strict=True)
    )
    steps = PAIRS.astype("int64") - np.array([11, -37])
    multipliers = np.rint(np.array([x_grid.scale, sign * y_grid.scale]) / grid.scale * 2.0**21).astype("int64")
    expected = np.clip(((steps * multipliers).sum(1) + 2**20 >> 21) + 3, -128, 127)
    actual = ops.convert_to_numpy(add_int(x, x_grid, y, y_grid, grid, sign)) / grid.scale + grid.zero_point
    np.testing.assert_array_equal(np.round(actual), expected)
    nearest = ops.convert_to_numpy(fake_quantize(x + sign * y, grid)) / grid.scale + grid.zero_point
    assert np.any(np.round(nearest) != expected)


# In the first, -89 and -31 lie so near to ties that it tells that the kernel rounds twice.
ROOTS = {"near ties": (0.00063593505, 0.03182878, -128), "wide": (0.0391, 0.0197, 5), "narrow": (7e-6, 1.7, -60)}


@pytest.mark.parametrize("maximum", [0.162163, 33.0])
def test_no_inverse_root_differs_on_the_device(maximum, tmp_path):
    inputs = keras.Input((256,), name="x")
    calibration = np.linspace(maximum / 255, maximum, 256, dtype="float32")[None]
    model = keras.Model(inputs, {"output": ops.rsqrt(inputs)})
    aware = quantize_aware(model, calibration=calibration)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=calibration)
    check_all(aware, bundle, np.arange(-128, 128)[None])


@pytest.mark.any_backend
@pytest.mark.parametrize("case", list(ROOTS))
def test_inverse_roots_round_twice_in_fixed_point(case):
    x_scale, scale, zero_point = ROOTS[case]
    x_grid, grid = _grid(x_scale, -128), _grid(scale, zero_point)
    steps = np.arange(1, 256)
    multiplier, exponent = math.frexp(2.0**-20 / float(np.sqrt(x_grid.scale) * grid.scale))
    multiplier = round(multiplier * 2**31)
    expected = []
    for step in steps:
        product = (round(2**20 / math.sqrt(step)) * multiplier + 2**30) >> 31
        expected.append(((product + (1 << (-exponent - 1))) >> -exponent) + zero_point)
    x = ops.convert_to_tensor(_values(x_grid, steps - 128))
    actual = ops.convert_to_numpy(rsqrt_int(x, x_grid, grid)) / grid.scale + grid.zero_point
    np.testing.assert_array_equal(np.round(actual), np.clip(expected, -128, 127))
    if case == "near ties":
        nearest = np.rint(1 / np.sqrt(steps * np.float64(x_grid.scale)) / grid.scale) + zero_point
        assert list(steps[np.clip(nearest, -128, 127) != np.clip(expected, -128, 127)] - 128) == [-89, -31]
