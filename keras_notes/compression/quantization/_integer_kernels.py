"""Integer kernels of LiteRT and XNNPACK, computed on floating-point tensors whose values lie on a grid.

In all formulas q is an integer minus its zero point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.compression.quantization._affine import Grid, dequantize

__all__ = [
    "abs_int",
    "add_int",
    "average_pool_int",
    "leaky_relu_int",
    "matmul_int",
    "multiply_int",
    "prelu_int",
    "requantize_int",
    "rescale_int",
    "rsqrt_int",
]

# 2^20 / sqrt(q) in integers, as in LiteRT's kernel; for q = 0 a value beyond any grid.
_ROOT_BITS = 20
_INVERSE_ROOTS = np.array([2.0**30, *np.rint(2.0**_ROOT_BITS / np.sqrt(np.arange(1, 256)))], "float32")
# Bits of the multipliers in XNNPACK's sums, and the shifts that it allows.
_SUM_BITS, _SUM_SHIFTS = 21, np.arange(1, 31)


def requantize_int(x: Tensor, before: Grid, after: Grid, *, straight_through: bool = False) -> Tensor:
    """Moves values from one grid to another as XNNPACK's kernel for 8 bits does, with the scales' ratio in 256ths.

    integer = floor(((q - before.zero_point) * round(256 * before.scale / after.scale) + 128) / 256) + after.zero_point

    References:
        XNNPACK, src/qs8-vcvt: its reference kernel (scalar) and src/microparams-init.c.
    """
    multiplier = ops.round(256.0 * before.scale / after.scale)
    steps = ops.round(x / before.scale)
    result = dequantize(ops.floor((steps * multiplier + 128.0) / 256.0), after)
    if not straight_through:
        return result
    clipped = ops.clip(x, *after.range)
    return clipped + ops.stop_gradient(result - clipped)


def average_pool_int(
    function: Callable[[Tensor], Tensor], x: Tensor, grid: Grid, *, half: str, straight_through: bool = False
) -> Tensor:
    """Averages values on a grid and rounds the averages to it, on the integers, as LiteRT with XNNPACK does.

    Args:
        function: Function that computes the averages.
        x: Values on the grid.
        grid: Grid of the values and of the averages.
        half: Rounding of ties: "away" from 0 (pooling), or "up" (interpolation).
        straight_through: Whether the result has the gradient of the averages.
    """
    integers = function(ops.round(x / grid.scale) + grid.zero_point)
    integers = _half_away(integers) if half == "away" else ops.floor(integers + 0.5)
    result = (integers - grid.zero_point) * grid.scale
    if not straight_through:
        return result
    average = function(x)
    return average + ops.stop_gradient(result - average)


def matmul_int(x: Tensor, x_grid: Grid, y: Tensor, y_grid: Grid, grid: Grid) -> Tensor:
    """Multiplies two matrices on grids, rounded as LiteRT with XNNPACK does.

    Let scale_x * scale_y / scale = m / 2^n with m in [1/2, 1). XNNPACK, which takes the product only if the zero point
    of y is 0, computes round(sum(q_x * q_y) * m / 2^n) + zero_point. Otherwise LiteRT's own kernel rounds twice, half
    away from 0: round(round(sum(q_x * q_y) * m) / 2^n) + zero_point. The sums are exact in float32 up to 2^24.

    References:
        Jacob et al., CVPR 2018, section 2.2; gemmlowp, fixedpoint/fixedpoint.h.
    """
    sums = ops.matmul(ops.round(x / x_grid.scale), ops.round(y / y_grid.scale))
    multiplier = x_grid.scale * y_grid.scale / grid.scale
    once, twice = ops.round(sums * multiplier), _rounded_twice(sums, multiplier)
    return dequantize(ops.where(ops.equal(y_grid.zero_point, 0.0), once, twice), grid)


def rsqrt_int(x: Tensor, x_grid: Grid, grid: Grid) -> Tensor:
    """1 / sqrt(x) of non-negative values on a grid, rounded as LiteRT's own kernel does; XNNPACK has no such kernel.

    With 2^-20 / (sqrt(scale_x) * scale) = m / 2^n and m in [1/2, 1), the integer is
    round(round(round(2^20 / sqrt(q)) * m) / 2^n) + zero_point, half away from 0; for q = 0 it is the largest integer.

    References:
        LiteRT, tflite/kernels/elementwise.cc, RsqrtEvalQuantized.
    """
    roots = ops.take(_INVERSE_ROOTS, ops.cast(ops.round(x / x_grid.scale), "int32"))
    multiplier = 2.0**-_ROOT_BITS / (ops.sqrt(x_grid.scale) * grid.scale)
    return dequantize(_rounded_twice(roots, multiplier), grid)


def multiply_int(x: Tensor, x_grid: Grid, y: Tensor, y_grid: Grid, grid: Grid) -> Tensor:
    """Multiplies two tensors on grids elementwise, rounded as XNNPACK does: q_x q_y (scale_x scale_y / scale)."""
    products = ops.round(x / x_grid.scale) * ops.round(y / y_grid.scale)
    return dequantize(ops.round(products * (x_grid.scale * y_grid.scale / grid.scale)), grid)


def add_int(x: Tensor, x_grid: Grid, y: Tensor, y_grid: Grid, grid: Grid, sign: int = 1) -> Tensor:
    """Adds two tensors on grids, or subtracts with a sign of -1, rounded as XNNPACK does: in 32 bits, half up.

    The shift is chosen such that the larger of scale_x / scale and scale_y / scale, times 2^shift, has 21 bits. With
    m_x = round(2^shift scale_x / scale), and m_y likewise, the integer is
    (q_x m_x + q_y m_y + 2^(shift - 1)) >> shift, plus the zero point.

    References:
        XNNPACK, src/microparams-init.c (xnn_init_qs8_add_minmax_scalar_params) and src/qs8-vadd.
    """
    ratios = x_grid.scale / grid.scale, y_grid.scale / grid.scale
    fits = ops.maximum(*ratios) * ops.convert_to_tensor(2.0**_SUM_SHIFTS, "float32") < 2.0**_SUM_BITS
    shift = ops.sum(ops.cast(fits, "int32"))
    unit = ops.convert_to_tensor(1, "int32")
    power = ops.cast(ops.left_shift(unit, shift), "float32")
    total = ops.left_shift(unit, shift - 1)
    for values, values_grid, ratio, factor in ((x, x_grid, ratios[0], 1), (y, y_grid, ratios[1], sign)):
        integers = ops.cast(ops.round(values / values_grid.scale), "int32")
        total = total + integers * (factor * ops.cast(ops.round(ratio * power), "int32"))
    return dequantize(ops.cast(ops.right_shift(total, shift), "float32"), grid)


def rescale_int(x: Tensor, before: Grid, after: Grid) -> Tensor:
    """Moves values from one grid to another as LiteRT's own kernels do; XNNPACK has no RELU of two grids.

    With before.scale / after.scale = m * 2^n and m in [1/2, 1), the integer is round(q * m * 2^n) if n >= 0, and
    otherwise round(round(q * m) / 2^-n); half away from 0.

    References:
        gemmlowp, fixedpoint/fixedpoint.h; LiteRT, tflite/kernels/activations.cc, QuantizedReluX.
    """
    steps, ratio = ops.round(x / before.scale), before.scale / after.scale
    return dequantize(_rounded_twice(steps, ops.convert_to_tensor(ratio, "float32")), after)


def leaky_relu_int(x: Tensor, x_grid: Grid, slope: float, grid: Grid) -> Tensor:
    """LeakyReLU on a grid, rounded as XNNPACK does: with multipliers in 256ths, half up.

    integer = floor((q * round(256 * m) + 128) / 256) + zero_point, m = scale_x / scale, times the slope if q < 0

    References:
        XNNPACK, src/qs8-vlrelu and src/microparams-init.c (xnn_init_qs8_lrelu_scalar_params).
    """
    steps = ops.round(x / x_grid.scale)
    ratio = x_grid.scale / grid.scale
    multiplier = ops.where(steps < 0, ops.round(256.0 * ratio * slope), ops.round(256.0 * ratio))
    return dequantize(ops.floor((steps * multiplier + 128.0) / 256.0), grid)


def prelu_int(x: Tensor, x_grid: Grid, slopes: Tensor, slopes_grid: Grid, grid: Grid) -> Tensor:
    """PReLU on a grid, rounded as LiteRT's own kernel does; XNNPACK has none for 8 bits.

    References:
        LiteRT, tflite/kernels/internal/reference/prelu.h.
    """
    steps = ops.round(x / x_grid.scale)
    ratio = x_grid.scale / grid.scale
    products = steps * ops.round(slopes / slopes_grid.scale)
    negative = _rounded_twice(products, ratio * slopes_grid.scale)
    return dequantize(ops.where(steps < 0, negative, _rounded_twice(steps, ratio)), grid)


def abs_int(x: Tensor, x_grid: Grid, grid: Grid) -> Tensor:
    """|x| on a grid, rounded as LiteRT's own kernel does (tflite/kernels/elementwise.cc, AbsEvalQuantized)."""
    steps = ops.abs(ops.round(x / x_grid.scale))
    return dequantize(_rounded_twice(steps, ops.convert_to_tensor(x_grid.scale / grid.scale, "float32")), grid)


def _rounded_twice(integers: Tensor, multiplier: Tensor) -> Tensor:
    """Integers times m, then divided by 2^n, with m in [1/2, 1); rounded after each, half away from 0 (gemmlowp).

    A multiplier of 1 or more is 2^n m, and rounded once.
    """
    shift = ops.maximum(2.0 ** ops.floor(-ops.log2(multiplier)), 1.0)
    return _half_away(_half_away(integers * (multiplier * shift)) / shift)


def _half_away(x: Tensor) -> Tensor:
    """The nearest integer, half away from 0."""
    return ops.sign(x) * ops.floor(ops.abs(x) + 0.5)
