"""Calibration: a run in floating point that records the range of values at each point where the device rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_notes.compression.quantization._affine import Format, Grid, grid_of_range, limits
from keras_notes.compression.quantization._evaluator import Arithmetic, Product, Value, Weights

__all__ = ["Calibration"]


class Calibration(Arithmetic):
    """Computes in floating point, and notes the range at each point."""

    def __init__(self, format: Format | None, bits: int) -> None:
        super().__init__(format, bits)
        self.ranges: dict[str, tuple[float, float]] = {}

    def round(self, compute: Callable[[], Any], name: str, rounding: Callable[[Grid], Any] | None = None) -> Value:
        tensor = compute()
        least, most = (float(ops.convert_to_numpy(limit)) for limit in limits(tensor))
        before = self.ranges.get(name, (least, most))
        self.ranges[name] = (min(least, before[0]), max(most, before[1]))
        return Value(tensor, None if self.format is None else grid_of_range(*self.ranges[name], self.format), name)

    def round_to(self, tensor: Any, grid: Grid | None) -> Value:
        return Value(tensor, grid)

    def quantized_weights(self, weights: Weights) -> tuple[Any, Any]:
        return weights.kernel, None

    def quantized_bias(self, product: Product, scale: Any) -> Any:
        return product.bias
