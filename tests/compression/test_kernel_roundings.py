"""Sums, differences and products of all pairs of integers: what the model computes and what XNNPACK computes."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import keras_notes as kn
from keras_notes.compression import quantize_aware
from keras_notes.compression._affine import INT8, Grid, fake_quantize, sum_on_grid

PAIRS = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), -1).reshape(-1, 2)
# Of one of the sums some are so near a tie that multipliers of 21 bits tell.
RANGES = {"plain": ((-0.7, 1.9), (-2.3, 0.4)), "near ties": ((-3.61, 2.16), (-1.11, 2.01))}


def _grid(scale: float, zero_point: int) -> Grid:
    return Grid(np.float32(scale), np.float32(zero_point), INT8)


def _values(grid: Grid, integers: np.ndarray) -> np.ndarray:
    return (integers.astype("float32") - grid.zero_point) * grid.scale


@pytest.mark.parametrize("ranges", list(RANGES))
@pytest.mark.parametrize("layer", [layers.Add, layers.Subtract, layers.Multiply])
def test_no_pair_of_integers_differs_on_xnnpack(layer, ranges, tmp_path):
    inputs = [keras.Input((len(PAIRS),), name=name) for name in ("a", "b")]
    model = keras.Model(inputs, layer()(inputs))
    rng = np.random.default_rng(0)
    calibration = [
        rng.permutation(np.linspace(least, most, len(PAIRS), dtype="float32"))[None] for least, most in RANGES[ranges]
    ]
    aware = quantize_aware(model, calibration=calibration)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=calibration)
    interpreter = Interpreter(str(bundle.directory / "model.tflite"))
    run = interpreter.get_signature_runner()
    grids = [_grid(one.scale, one.zero_point) for one in bundle.manifest.signatures[0].inputs]
    fed = [_values(grid, integers)[None] for grid, integers in zip(grids, PAIRS.T, strict=True)]
    (got,) = run(a=fed[0], b=fed[1]).values()
    np.testing.assert_array_equal(aware.predict(fed, verbose=0), got)


@pytest.mark.any_backend
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_round_half_up_with_multipliers_of_21_bits(sign):
    x_grid, y_grid, grid = _grid(0.02, 11), _grid(0.0123, -37), _grid(0.04, 3)
    x, y = (ops.convert_to_tensor(_values(one, column)) for one, column in zip((x_grid, y_grid), PAIRS.T, strict=True))
    steps = PAIRS.astype("int64") - np.array([11, -37])
    multipliers = np.rint(np.array([x_grid.scale, sign * y_grid.scale]) / grid.scale * 2.0**21).astype("int64")
    expected = np.clip(((steps * multipliers).sum(1) + 2**20 >> 21) + 3, -128, 127)
    found = ops.convert_to_numpy(sum_on_grid(x, x_grid, y, y_grid, grid, sign)) / grid.scale + grid.zero_point
    np.testing.assert_array_equal(np.round(found), expected)
    nearest = ops.convert_to_numpy(fake_quantize(x + sign * y, grid)) / grid.scale + grid.zero_point
    assert np.any(np.round(nearest) != expected)
