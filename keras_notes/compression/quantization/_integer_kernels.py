"""Integer arithmetic of LiteRT's and XNNPACK's kernels, on tensors of floating point that hold values of a grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_notes.compression.quantization._affine import Grid, of_integers

__all__ = [
    "averaged",
    "inverse_root_on_grid",
    "product_on_grid",
    "requantize",
    "sum_on_grid",
    "times_on_grid",
]

# 2^20 / sqrt(q) in integers, as LiteRT's kernel has it; of 0 what is beyond any grid.
_ROOT_BITS = 20
_INVERSE_ROOTS = np.array([2.0**30, *np.rint(2.0**_ROOT_BITS / np.sqrt(np.arange(1, 256)))], "float32")
# Of the multipliers in XNNPACK's sums, and of the shifts that they may have.
_SUM_BITS, _SUM_SHIFTS = 21, np.arange(1, 31)


def requantize(x, before: Grid, after: Grid, *, straight_through: bool = False):
    """Moves values from one grid to another, as XNNPACK's kernel for 8 bits: the ratio of the scales in 256ths.

    integer = floor(((q - before.zero_point) * round(256 * before.scale / after.scale) + 128) / 256) + after.zero_point

    References:
        XNNPACK, src/qs8-vcvt: its reference kernel (scalar) and src/microparams-init.c.
    """
    multiplier = ops.round(256.0 * before.scale / after.scale)
    steps = ops.round(x / before.scale)
    moved = of_integers(ops.floor((steps * multiplier + 128.0) / 256.0), after)
    if not straight_through:
        return moved
    clipped = ops.clip(x, *after.range)
    return clipped + ops.stop_gradient(moved - clipped)


def averaged(function: Callable, x, grid: Grid, *, half: str, straight_through: bool = False):
    """Averages values on a grid and rounds to it, on the integers, as LiteRT on XNNPACK does.

    Args:
        function: The average.
        x: Values on the grid.
        grid: The grid.
        half: Where ties go: "away" from 0 (pooling), or "up" (interpolation).
        straight_through: Whether gradients are wanted.
    """
    integers = function(ops.round(x / grid.scale) + grid.zero_point)
    integers = _half_away(integers) if half == "away" else ops.floor(integers + 0.5)
    result = (integers - grid.zero_point) * grid.scale
    if not straight_through:
        return result
    average = function(x)
    return average + ops.stop_gradient(result - average)


def product_on_grid(x, x_grid: Grid, y, y_grid: Grid, grid: Grid):
    """The matrix product of two tensors on grids, rounded as LiteRT on XNNPACK does.

    With q the integers less their zero points and scale_x * scale_y / scale = m / 2^n, m in [1/2, 1):
    round(sum(q_x * q_y) * m / 2^n) + zero_point in XNNPACK, which takes it only if the zero point of y is 0; else
    LiteRT's own kernel, which rounds twice, half away from 0: round(round(sum(q_x * q_y) * m) / 2^n) + zero_point.
    The sums are exact in float32 up to 2^24.

    References:
        Jacob et al., CVPR 2018, section 2.2; gemmlowp, fixedpoint/fixedpoint.h.
    """
    sums = ops.matmul(ops.round(x / x_grid.scale), ops.round(y / y_grid.scale))
    multiplier = x_grid.scale * y_grid.scale / grid.scale
    once, twice = ops.round(sums * multiplier), _rounded_twice(sums, multiplier)
    return of_integers(ops.where(ops.equal(y_grid.zero_point, 0.0), once, twice), grid)


def inverse_root_on_grid(x, x_grid: Grid, grid: Grid):
    """1 / sqrt(x) of values on a grid, none of them negative, rounded as LiteRT's own kernel does; XNNPACK has none.

    With q the integer less its zero point and 2^-20 / (sqrt(scale_x) * scale) = m / 2^n, m in [1/2, 1):
    round(round(round(2^20 / sqrt(q)) * m) / 2^n) + zero_point, half away from 0; of q = 0 the largest integer.

    References:
        LiteRT, tflite/kernels/elementwise.cc, RsqrtEvalQuantized.
    """
    roots = ops.take(_INVERSE_ROOTS, ops.cast(ops.round(x / x_grid.scale), "int32"))
    multiplier = 2.0**-_ROOT_BITS / (ops.sqrt(x_grid.scale) * grid.scale)
    return of_integers(_rounded_twice(roots, multiplier), grid)


def times_on_grid(x, x_grid: Grid, y, y_grid: Grid, grid: Grid):
    """The elementwise product of two tensors on grids, rounded as XNNPACK does: q_x q_y (scale_x scale_y / scale)."""
    products = ops.round(x / x_grid.scale) * ops.round(y / y_grid.scale)
    return of_integers(ops.round(products * (x_grid.scale * y_grid.scale / grid.scale)), grid)


def sum_on_grid(x, x_grid: Grid, y, y_grid: Grid, grid: Grid, sign: int = 1):
    """X + y, or x - y with a sign of -1, of two tensors on grids, rounded as XNNPACK does: in 32 bits, half up.

    With q the integers less their zero points, shift such that the larger of scale_x / scale and scale_y / scale, times
    2^shift, has 21 bits, and m = round(2^shift scale_. / scale):
    (q_x m_x + q_y m_y + 2^(shift - 1)) >> shift.

    References:
        XNNPACK, src/microparams-init.c (xnn_init_qs8_add_minmax_scalar_params) and src/qs8-vadd.
    """
    ratios = x_grid.scale / grid.scale, y_grid.scale / grid.scale
    fits = ops.maximum(*ratios) * ops.convert_to_tensor(2.0**_SUM_SHIFTS, "float32") < 2.0**_SUM_BITS
    shift = ops.sum(ops.cast(fits, "int32"))
    one = ops.convert_to_tensor(1, "int32")
    power = ops.cast(ops.left_shift(one, shift), "float32")
    total = ops.left_shift(one, shift - 1)
    for values, values_grid, ratio, factor in ((x, x_grid, ratios[0], 1), (y, y_grid, ratios[1], sign)):
        integers = ops.cast(ops.round(values / values_grid.scale), "int32")
        total = total + integers * (factor * ops.cast(ops.round(ratio * power), "int32"))
    return of_integers(ops.cast(ops.right_shift(total, shift), "float32"), grid)


def _rounded_twice(integers, multiplier):
    """Integers times m / 2^n, m in [1/2, 1), rounded behind each, half away from 0: gemmlowp's fixed point."""
    shift = 2.0 ** ops.floor(-ops.log2(multiplier))
    return _half_away(_half_away(integers * (multiplier * shift)) / shift)


def _half_away(x):
    return ops.sign(x) * ops.floor(ops.abs(x) + 0.5)
