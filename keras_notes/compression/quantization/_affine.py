"""Affine quantization, the one home of scale and zero point: real = scale * (integer - zero_point)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import ops

__all__ = [
    "INT8",
    "INT16",
    "Format",
    "Grid",
    "fake_quantize",
    "grid_of_range",
    "kernel_scale",
    "limits",
    "of_integers",
    "on_scale",
    "rounded",
    "scale_of_largest",
]

# Of a range that is a single point, and of a channel whose weights are all 0.
_LEAST_SCALE = 1e-9
_OFF_TIES = 1.0 + 1.5 * 2.0**-10


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


def of_integers(steps, grid: Grid):
    """The values that lie so many steps from 0 on a grid, or at its end."""
    integers = ops.clip(steps + grid.zero_point, grid.format.least, grid.format.most)
    return (integers - grid.zero_point) * grid.scale


def _share(extent, steps: int):
    """The quotient by the reciprocal, as compilers make it: else the last bit would tell compiled from eager."""
    return ops.maximum(extent * (1.0 / steps), _LEAST_SCALE)


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
