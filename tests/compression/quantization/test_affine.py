"""Scale, zero point and the roundings of LiteRT's kernels, against integer arithmetic."""

import numpy as np
import pytest
from keras import ops

from keras_notes.compression.quantization._affine import (
    INT8,
    INT16,
    Grid,
    fake_quantize,
    grid_of_range,
    snap_to_scale,
    weight_scales,
)
from keras_notes.compression.quantization._integer_kernels import average_pool_int, matmul_int, requantize_int
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend


def _array(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def _numbers(grid: Grid) -> tuple[float, float]:
    return float(_array(grid.scale)), float(_array(grid.zero_point))


@pytest.mark.parametrize(("minimum", "maximum"), [(0.0, 1.0), (-3.0, 5.0), (2.0, 5.0), (-5.0, -2.0), (-1e-6, 1e4)])
def test_int8_grid_is_that_of_the_specification(minimum, maximum):
    scale, zero_point = _numbers(grid_of_range(ops.convert_to_tensor(minimum), ops.convert_to_tensor(maximum), INT8))
    low, high = min(np.float64(minimum), 0.0), max(np.float64(maximum), 0.0)
    assert scale == pytest.approx((high - low) / 255, rel=1e-6)
    assert zero_point == np.clip(np.round(-128 - low / scale), -128, 127)


def test_int16_grid_is_symmetric():
    scale, zero_point = _numbers(grid_of_range(ops.convert_to_tensor(-3.0), ops.convert_to_tensor(1.0), INT16))
    assert scale == pytest.approx(3.0 / 32767, rel=1e-6)
    assert zero_point == 0.0


def test_range_without_extent_has_a_scale():
    scale, _ = _numbers(grid_of_range(ops.convert_to_tensor(0.0), ops.convert_to_tensor(0.0), INT8))
    assert scale > 0


def test_range_that_needs_less_than_the_finest_scale_is_widened_in_proportion():
    narrow, wide = (
        _numbers(grid_of_range(ops.convert_to_tensor(-1e-3), ops.convert_to_tensor(3e-3), INT8, finest))
        for finest in (1e-9, 0.5)
    )
    assert narrow == (pytest.approx(4e-3 / 255, rel=1e-6), -64.0)
    assert wide == (0.5, -64.0)
    assert _numbers(grid_of_range(ops.convert_to_tensor(0.0), ops.convert_to_tensor(0.0), INT8, 0.5)) == (0.5, -128.0)


@pytest.mark.parametrize("format", [INT8, INT16])
def test_zero_and_what_is_rounded_stay(format):
    grid = grid_of_range(ops.convert_to_tensor(-1.7), ops.convert_to_tensor(2.9), format)
    x = np.linspace(-3, 4, 1001).astype("float32")
    once = fake_quantize(ops.convert_to_tensor(x), grid)
    np.testing.assert_array_equal(_array(fake_quantize(once, grid)), _array(once))
    assert float(_array(fake_quantize(ops.convert_to_tensor(0.0), grid))) == 0.0
    scale, _ = _numbers(grid)
    inside = (x > -1.69) & (x < 2.89)
    assert np.abs(_array(once) - x)[inside].max() <= scale * (0.5 + 1e-3)


def test_gradient_passes_inside_of_the_range_and_stops_outside():
    grid = grid_of_range(ops.convert_to_tensor(-1.0), ops.convert_to_tensor(1.0), INT8)
    x = np.array([-1.5, -0.5, 0.013, 0.9, 1.5], "float32")
    _, actual = value_and_gradient(lambda tensor: ops.sum(fake_quantize(tensor, grid, gradient="inputs")), x)
    np.testing.assert_array_equal(actual, [0.0, 1.0, 1.0, 1.0, 0.0])


def test_learned_scale_has_the_gradient_of_lsq():
    x = np.array([0.26, 0.44, 3.0], "float32")

    def loss(scale):
        grid = Grid(scale[0], 0.0, INT16)
        return ops.sum(fake_quantize(ops.convert_to_tensor(x), grid, gradient="all"))

    # Esser et al., equation 3: round(x / s) - x / s inside, the largest integer outside.
    scale = 0.1
    expected = sum(np.round(v / scale) - v / scale for v in x.astype("float64"))
    _, actual = value_and_gradient(loss, np.array([scale], "float32"))
    assert actual[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_have_a_scale_for_each_channel(bits):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 5)).astype("float32") * [1, 10, 100, 1e-3, 0]
    kernel = kernel.astype("float32")
    scale = weight_scales(ops.convert_to_tensor(kernel), (0, 1, 2), bits)
    maximum = 2 ** (bits - 1) - 1
    integers = _array(snap_to_scale(ops.convert_to_tensor(kernel), scale)) / _array(scale)
    np.testing.assert_allclose(np.abs(integers[..., :4]).max((0, 1, 2)), maximum, atol=1e-3)
    assert not integers[..., 4].any()


def test_requantization_is_that_of_eight_bits_of_xnnpack():
    before, after = Grid(0.05, -3.0, INT8), Grid(0.031, 7.0, INT8)
    integers = np.arange(-128, 128)
    multiplier = int(np.round(256 * np.float32(0.05) / np.float32(0.031)))
    expected = np.clip(((integers + 3) * multiplier + 128) // 256 + 7, -128, 127)
    x = ((integers + 3) * np.float32(0.05)).astype("float32")
    actual = _array(requantize_int(ops.convert_to_tensor(x), before, after)) / np.float32(0.031) + 7
    np.testing.assert_array_equal(np.round(actual), expected)


@pytest.mark.parametrize(("half", "expected"), [("away", [1.0, -1.0, 2.0, -2.0]), ("up", [1.0, 0.0, 2.0, -1.0])])
def test_averages_round_on_the_integers(half, expected):
    grid = Grid(0.5, -4.0, INT8)
    pairs = np.array([[0, 1], [0, -1], [1, 2], [-1, -2]])
    x = ((pairs + 4) * 0.5).astype("float32")
    actual = average_pool_int(lambda t: ops.mean(t, axis=-1), ops.convert_to_tensor(x), grid, half=half)
    np.testing.assert_array_equal(_array(actual) / 0.5 - 4, expected)


def _doubly_rounded(total: int, multiplier: float) -> int:
    """As gemmlowp does it, in integers of 64 bits."""
    mantissa, exponent = np.frexp(multiplier)
    fixed = int(np.round(mantissa * 2**31))
    product = total * fixed
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = int((product + nudge) / 2**31) if product + nudge >= 0 else -int(-(product + nudge) / 2**31)
    shift = -int(exponent)
    half = 2 ** (shift - 1) if shift else 0
    return (abs(high) + half) // 2**shift * (1 if high >= 0 else -1)


@pytest.mark.parametrize("zero_point", [0.0, 5.0])
def test_product_of_two_tensors_rounds_as_the_kernel_that_takes_it(zero_point):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (16, 24)), rng.integers(-100, 100, (24, 16))
    x_grid, y_grid, grid = Grid(0.02, 3.0, INT8), Grid(0.03, zero_point, INT8), Grid(0.05, -2.0, INT8)
    sums = (a - 3) @ (b - int(zero_point))
    multiplier = float(np.float32(0.02)) * float(np.float32(0.03)) / float(np.float32(0.05))
    if zero_point:
        expected = np.vectorize(lambda total: _doubly_rounded(int(total), multiplier))(sums)
    else:
        expected = np.round(sums * multiplier)
    x, y = ((a - 3) * np.float32(0.02)), ((b - zero_point) * np.float32(0.03))
    actual = matmul_int(
        ops.convert_to_tensor(x.astype("float32")), x_grid, ops.convert_to_tensor(y.astype("float32")), y_grid, grid
    )
    integers = np.round(_array(actual) / np.float32(0.05) - 2)
    # A sum in float32 may fall on the other side of a tie; none of these is further off.
    assert np.mean(integers != np.clip(expected - 2, -128, 127)) < 0.01
