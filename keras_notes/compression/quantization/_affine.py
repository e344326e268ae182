"""Affine quantization, the one home of scale and zero point: real = scale * (integer - zero_point)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

__all__ = [
    "INT8",
    "INT16",
    "Format",
    "Grid",
    "averaged",
    "fake_quantize",
    "grid_of_range",
    "inverse_root_on_grid",
    "kernel_scale",
    "limits",
    "of_integers",
    "on_scale",
    "product_on_grid",
    "requantize",
    "rounded",
    "scale_of_largest",
    "sum_on_grid",
    "times_on_grid",
]

# Of a range that is a single point, and of a channel whose weights are all 0.
_LEAST_SCALE = 1e-9
_OFF_TIES = 1.0 + 1.5 * 2.0**-10
# 2^20 / sqrt(q) in integers, as LiteRT's kernel has it; of 0 what is beyond any grid.
_ROOT_BITS = 20
_INVERSE_ROOTS = np.array([2.0**30, *np.rint(2.0**_ROOT_BITS / np.sqrt(np.arange(1, 256)))], "float32")
# Of the multipliers in XNNPACK's sums, and of the shifts that they may have.
_SUM_BITS, _SUM_SHIFTS = 21, np.arange(1, 31)


@dataclass(frozen=True)
class Format:
    """An integer type of activations.

    Attributes:
        bits: Its size.
        symmetric: Whether 0 stands in the middle of the range, so that the zero point is 0.
    """

    bits: int
    symmetric: bool

    @property
    def least(self) -> int:
        """The least integer in use; LiteRT leaves -32,768 out."""
        return -self.most if self.symmetric else -(2 ** (self.bits - 1))

    @property
    def most(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1


INT8 = Format(8, symmetric=False)
INT16 = Format(16, symmetric=True)


@dataclass(frozen=True)
class Grid:
    """The values that a tensor of integers can stand for.

    Attributes:
        scale: The distance of two of them: a number, or a scalar tensor.
        zero_point: The integer that stands for 0.
        format: The type of the integers.
    """

    scale: Any
    zero_point: Any
    format: Format

    @property
    def range(self) -> tuple[Any, Any]:
        """The least and the largest value."""
        return (
            (self.format.least - self.zero_point) * self.scale,
            (self.format.most - self.zero_point) * self.scale,
        )


def grid_of_range(least, most, format: Format) -> Grid:
    """The grid that holds all values between two scalars, and 0.

    scale = (most - least) / 255 and zero_point = round(-128 - least / scale) for 8 bits;
    scale = max(|least|, |most|) / 32767 and zero_point = 0 for 16.

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 2.1; LiteRT's quantization specification.
    """
    least, most = ops.minimum(least, 0.0), ops.maximum(most, 0.0)
    if format.symmetric:
        return Grid(_share(ops.maximum(-least, most), format.most), 0.0, format)
    scale = _share(most - least, format.most - format.least)
    zero_point = format.least - least / scale
    return Grid(scale, ops.clip(rounded(zero_point), format.least, format.most), format)


def limits(x):
    """The least and the largest value of a tensor, a little apart, as the range that its grid shall hold.

    Values that stand on a grid of their own, such as pixels k / 16, would be ties on a grid over exactly their range,
    and every kernel and compiler rounds ties in its own way. On a range wider by 2^-10 and a half they are none.
    """
    return ops.min(x) * _OFF_TIES, ops.max(x) * _OFF_TIES


def fake_quantize(x, grid: Grid, *, gradient: str = "none"):
    """Rounds to a grid, and clips to its range.

    Args:
        x: Any tensor.
        grid: The grid.
        gradient: "none" (inference; exact), "inputs" (straight through for what is inside of the range), or "all" (of
            scale and zero point too: LSQ).

    References:
        Esser et al., "Learned Step Size Quantization", ICLR 2020, for "all"; and for its zero point
        Bhalgat et al., "LSQ+", CVPR 2020 workshops.
    """
    least, most = grid.format.least, grid.format.most
    if gradient == "all":
        integers = ops.clip(rounded(x / grid.scale) + grid.zero_point, least, most)
        return (integers - grid.zero_point) * grid.scale
    # By the reciprocal, as the kernels that run it: quotient and product round differently where values are ties.
    integers = ops.clip(ops.round(x * (1.0 / grid.scale)) + grid.zero_point, least, most)
    quantized = (integers - grid.zero_point) * grid.scale
    if gradient == "none":
        return quantized
    clipped = ops.clip(x, *grid.range)
    return clipped + ops.stop_gradient(quantized - clipped)


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


def of_integers(steps, grid: Grid):
    """The values that lie so many steps from 0 on a grid, or at its end."""
    integers = ops.clip(steps + grid.zero_point, grid.format.least, grid.format.most)
    return (integers - grid.zero_point) * grid.scale


def _share(extent, steps: int):
    """The quotient by the reciprocal, as compilers make it: else the last bit would tell compiled from eager."""
    return ops.maximum(extent * (1.0 / steps), _LEAST_SCALE)


def _rounded_twice(integers, multiplier):
    """Integers times m / 2^n, m in [1/2, 1), rounded behind each, half away from 0: gemmlowp's fixed point."""
    shift = 2.0 ** ops.floor(-ops.log2(multiplier))
    return _half_away(_half_away(integers * (multiplier * shift)) / shift)


def _half_away(x):
    return ops.sign(x) * ops.floor(ops.abs(x) + 0.5)


def rounded(x):
    """The nearest integer, half to even, with the gradient of x itself."""
    return x + ops.stop_gradient(ops.round(x) - x)


def kernel_scale(kernel, axes: tuple[int, ...], bits: int):
    """The scale of each channel of weights: max|w| / (2^(bits - 1) - 1), with axes of size 1.

    Symmetric and narrow: the least integer is never used, so that products stay within 16 bits. A channel whose weights
    are all 0 has the largest of the other scales: its bias is a multiple of it.

    Args:
        kernel: The weights.
        axes: What belongs to one channel.
        bits: The size of the integers.
    """
    return scale_of_largest(ops.max(ops.abs(kernel), axis=axes, keepdims=True), bits)


def scale_of_largest(largest, bits: int):
    """The scale of each channel, from the largest magnitude of its weights."""
    most = ops.max(largest)
    largest = ops.where(largest > 0, largest, ops.where(most > 0, most, 1.0))
    return _share(largest, 2 ** (bits - 1) - 1)


def on_scale(x, scale):
    """The nearest multiples of `scale`."""
    return ops.round(x / scale) * scale
