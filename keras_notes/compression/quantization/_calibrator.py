"""Calibration: a run in floating point that records the range of values at each point where the device rounds."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.compression.quantization._affine import Grid, IntegerFormat, grid_of_range, range_of
from keras_notes.compression.quantization._evaluator import Evaluator, Rounded, Rounding, WeightedSum, Weights

__all__ = ["Calibrator"]


class Calibrator(Evaluator):
    """Computes in floating point, and records the range at each point.

    Args:
        format: Format of activations; None for floating point.
        bits: Size of weights, in bits.

    Attributes:
        ranges: Smallest and largest value at each point, over all runs so far, by name of the point.
    """

    def __init__(self, format: IntegerFormat | None, bits: int) -> None:
        super().__init__(format, bits)
        self.ranges: dict[str, tuple[float, float]] = {}

    def round(self, compute: Callable[[], Tensor], name: str, rounding: Rounding | None = None) -> Rounded:
        tensor = compute()
        minimum, maximum = (float(ops.convert_to_numpy(limit)) for limit in range_of(tensor))
        before = self.ranges.get(name, (minimum, maximum))
        self.ranges[name] = (min(minimum, before[0]), max(maximum, before[1]))
        return Rounded(tensor, None if self.format is None else grid_of_range(*self.ranges[name], self.format), name)

    def round_to(self, tensor: Tensor, grid: Grid | None) -> Rounded:
        return Rounded(tensor, grid)

    def quantize_weights(self, weights: Weights, weighted_sum: WeightedSum | None = None) -> tuple[Tensor, Tensor]:
        return weights.kernel, None

    def quantize_bias(self, weighted_sum: WeightedSum, scale: Tensor) -> Tensor:
        return weighted_sum.bias
