"""Affine quantization: scale and zero point, with real = scale * (integer - zero_point)."""

from __future__ import annotations

from dataclasses import dataclass

from keras import ops

from keras_notes._shared.types import Tensor

__all__ = [
    "INT8",
    "INT16",
    "Grid",
    "IntegerFormat",
    "dequantize",
    "fake_quantize",
    "grid_of_range",
    "range_of",
    "rounded",
    "scale_of_largest",
    "smallest_scale_for_bias",
    "snap_to_scale",
    "weight_scales",
]

# The scale of a range that is a single point, and of a channel whose weights are all 0.
_SMALLEST_SCALE = 1e-9
# The largest integer of a bias: it and the sum of products fit in int32 together, as TensorFlow's converter has it.
_LARGEST_BIAS = 2.0**30
# The factor by which a range is wider than its values; see `range_of`.
_TIE_MARGIN = 1.0 + 1.5 * 2.0**-10


@dataclass(frozen=True)
class IntegerFormat:
    """An integer type of activations.

    Attributes:
        bits: Size of the type, in bits.
        symmetric: Whether 0 is in the middle of the range, so that the zero point is 0.
    """

    bits: int
    symmetric: bool

    @property
    def minimum(self) -> int:
        """The smallest integer in use; LiteRT does not use -32,768."""
        return -self.maximum if self.symmetric else -(2 ** (self.bits - 1))

    @property
    def maximum(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1


INT8 = IntegerFormat(8, symmetric=False)
INT16 = IntegerFormat(16, symmetric=True)


@dataclass(frozen=True)
class Grid:
    """The values that a tensor of integers can represent: scale * (integer - zero_point).

    Attributes:
        scale: Distance between two neighbouring values: a number, or a scalar tensor.
        zero_point: Integer that represents 0: a number, or a scalar tensor.
        format: Type of the integers.

    Example:
        >>> from keras_notes.compression.quantization._affine import INT8
        >>> Grid(0.5, -128, INT8).range
        (0.0, 127.5)

    References:
        LiteRT, "LiteRT 8-bit quantization specification".
    """

    scale: Tensor
    zero_point: Tensor
    format: IntegerFormat

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value."""
        return (
            (self.format.minimum - self.zero_point) * self.scale,
            (self.format.maximum - self.zero_point) * self.scale,
        )


def grid_of_range(minimum: Tensor, maximum: Tensor, format: IntegerFormat, finest: Tensor | None = None) -> Grid:
    """The grid that holds 0 and all values between two scalars.

    For 8 bits, scale = (maximum - minimum) / 255 and zero_point = round(-128 - minimum / scale).
    For 16 bits, scale = max(|minimum|, |maximum|) / 32767 and zero_point = 0.

    A range that is only 0, as an operator gives that never opens on the calibration data, gets the scale `finest`, by
    default that of the range from 0 to 1.

    Args:
        minimum: Smallest value.
        maximum: Largest value.
        format: Type of the integers.
        finest: Smallest scale; a range that needs less is widened around 0 in proportion. None for no limit.

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 2.1; LiteRT's quantization specification.
    """
    minimum, maximum = ops.minimum(minimum, 0.0), ops.maximum(maximum, 0.0)
    if format.symmetric:
        extent = ops.maximum(-minimum, maximum)
        return Grid(_widen(_divide_range(extent, format.maximum), extent, format.maximum, finest), 0.0, format)
    extent, steps = maximum - minimum, format.maximum - format.minimum
    scale = _divide_range(extent, steps)
    zero_point = format.minimum - minimum / scale
    zero_point = ops.clip(rounded(zero_point), format.minimum, format.maximum)
    return Grid(_widen(scale, extent, steps, finest), zero_point, format)


def _widen(scale: Tensor, extent: Tensor, steps: int, finest: Tensor | None) -> Tensor:
    """Returns a scale that is at least the finest, or that of the range from 0 to 1 for a range without extent."""
    if finest is None:
        return ops.where(extent > 0, scale, 1.0 / steps)
    return ops.maximum(ops.where(extent > 0, scale, 0.0), finest)


def range_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """The range for the grid of a tensor: its smallest and largest value, slightly widened.

    Values that already lie on a grid, such as pixels k / 16, would be ties on a grid over exactly their range, and
    kernels and compilers round ties differently. A range that is wider by the factor 1 + 1.5 * 2^-10 avoids the ties.
    """
    return ops.min(x) * _TIE_MARGIN, ops.max(x) * _TIE_MARGIN


def fake_quantize(x: Tensor, grid: Grid, *, gradient: str = "none") -> Tensor:
    """Rounds a tensor to a grid, and clips it to the range of the grid.

    Args:
        x: Tensor of any shape.
        grid: Grid that the result lies on.
        gradient: "none" (for inference; exact), "inputs" (the straight-through estimator for values inside the range),
            or "all" (for scale and zero point too: LSQ).

    References:
        Esser et al., "Learned Step Size Quantization", ICLR 2020, for "all"; Bhalgat et al., "LSQ+", CVPR 2020
        workshops, for its zero point.
    """
    minimum, maximum = grid.format.minimum, grid.format.maximum
    if gradient == "all":
        integers = ops.clip(rounded(x / grid.scale) + grid.zero_point, minimum, maximum)
        return (integers - grid.zero_point) * grid.scale
    # Multiplied by the reciprocal, as in the kernels: a division rounds differently where values are ties.
    integers = ops.clip(ops.round(x * (1.0 / grid.scale)) + grid.zero_point, minimum, maximum)
    quantized = (integers - grid.zero_point) * grid.scale
    if gradient == "none":
        return quantized
    clipped = ops.clip(x, *grid.range)
    return clipped + ops.stop_gradient(quantized - clipped)


def dequantize(steps: Tensor, grid: Grid) -> Tensor:
    """Dequantizes integers (steps from zero), clipped to the grid."""
    integers = ops.clip(steps + grid.zero_point, grid.format.minimum, grid.format.maximum)
    return (integers - grid.zero_point) * grid.scale


def _divide_range(extent: Tensor, steps: int) -> Tensor:
    """Divides by multiplying with the reciprocal, as compilers do, so that compiled and eager results are equal."""
    return ops.maximum(extent * (1.0 / steps), _SMALLEST_SCALE)


def rounded(x: Tensor) -> Tensor:
    """The nearest integer, half to even, with the gradient of x (straight-through)."""
    return x + ops.stop_gradient(ops.round(x) - x)


def weight_scales(kernel: Tensor, axes: tuple[int, ...], bits: int) -> Tensor:
    """The scale of each channel of weights: max|w| / (2^(bits - 1) - 1), with axes of size 1.

    Symmetric and narrow: the smallest integer is never used, so that products fit in 16 bits. A channel whose weights
    are all 0 gets the largest of the other scales, because its bias is a multiple of its scale.

    Args:
        kernel: Weights.
        axes: Axes of the weights that belong to a single channel, over which the maximum is taken.
        bits: Size of the integers, in bits.
    """
    return scale_of_largest(ops.max(ops.abs(kernel), axis=axes, keepdims=True), bits)


def scale_of_largest(largest: Tensor, bits: int) -> Tensor:
    """The scale of each channel, from the largest magnitude of its weights."""
    overall = ops.max(largest)
    largest = ops.where(largest > 0, largest, ops.where(overall > 0, overall, 1.0))
    return _divide_range(largest, 2 ** (bits - 1) - 1)


def smallest_scale_for_bias(bias: Tensor, x_scale: Tensor) -> Tensor:
    """The scale of each channel of weights below which its bias overflows: |bias| / (x_scale * 2^30).

    The integer of a bias is bias / (x_scale * scale). It overflows where the weights of a channel vanish beside the
    bias, as weight decay and normalization leave them.

    Args:
        bias: Number for each channel.
        x_scale: Scale of the inputs.
    """
    return ops.abs(bias) * (1.0 / _LARGEST_BIAS) / x_scale


def snap_to_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Rounds values to the nearest multiples of `scale`."""
    return ops.round(x / scale) * scale
