"""Simulation: a run that computes, in floating point, the integers that the device computes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeGuard

from keras import ops

from keras_notes.compression.quantization._affine import (
    Format,
    Grid,
    fake_quantize,
    grid_of_range,
    kernel_scale,
    limits,
    of_integers,
    on_scale,
    scale_of_largest,
)
from keras_notes.compression.quantization._evaluator import MASK_MARGIN, Arithmetic, Pending, Product, Value, Weights
from keras_notes.compression.quantization._integer_kernels import averaged, inverse_root_on_grid, requantize
from keras_notes.compression.quantization._ranges import Ranges

__all__ = ["Simulation"]


class Simulation(Arithmetic):
    """Computes what the device computes, in floating point on the device's grids.

    Args:
        format: The format of activations; None for floating point.
        bits: The size of weights.
        ranges: The ranges at all points.
        training: Whether gradients are wanted, and ranges to follow the batch.
        live_statistics: Whether batch normalization uses the statistics of the batch in training.
        shared: The names of weights whose channels share one scale, but for what is folded into them, so that few
            different weights are as few integers.
    """

    def __init__(
        self,
        format: Format | None,
        bits: int,
        ranges: Ranges,
        *,
        training: bool,
        live_statistics: bool = False,
        shared: Collection[str] = (),
    ) -> None:
        super().__init__(format, bits, training=training)
        self.ranges = ranges
        self.visited: dict[int, tuple] = {}
        self.constants: dict[str, tuple] = {}
        self._live_statistics = live_statistics
        self._shared = shared
        self._limits = ops.convert_to_tensor(ranges.limits)
        if ranges.learned and training:
            self._limits = ops.where(ranges.is_frozen, ops.stop_gradient(self._limits), self._limits)
        self._numbers = {name: number for number, name in enumerate(ranges.points)}

    def round(self, compute: Callable[[], Any], name: str, rounding: Callable[[Grid], Any] | None = None) -> Value:
        if self.format is None:
            return Value(compute(), None, name)
        if self._rounds_as_kernel(rounding):
            grid = self._grid(None, name)
            return Value(rounding(grid), grid, name)
        tensor = compute()
        grid = self._grid(tensor, name)
        return Value(self._nearest(tensor, grid), grid, name)

    def masked(self, value: Any, counting: Any, name: str) -> Value:
        """As the least value of their grid, which is a constant on the device."""
        if self.format is None:
            return super().masked(value, counting, name)
        scores = self._raw(value)
        grid = self._grid(ops.where(counting, scores, ops.min(scores) - MASK_MARGIN), name)
        rounding = getattr(value, "rounding", None)
        rounded = rounding(grid) if self._rounds_as_kernel(rounding) else self._nearest(scores, grid)
        return Value(ops.where(counting, rounded, grid.range[0]), grid, name)

    def _rounds_as_kernel(self, rounding: Callable[[Grid], Any] | None) -> TypeGuard[Callable[[Grid], Any]]:
        """In training, rounding to the nearest value has a gradient; kernels for 16 bits are not looked into."""
        return rounding is not None and not self.training and self.format is not None and not self.format.symmetric

    def _nearest(self, tensor: Any, grid: Grid) -> Any:
        if self.training:
            return fake_quantize(tensor, grid, gradient="all" if self.ranges.learned else "inputs")
        return fake_quantize(tensor, grid)

    def round_to(self, tensor: Any, grid: Grid | None) -> Value:
        if grid is None:
            return Value(tensor)
        return Value(fake_quantize(tensor, grid, gradient="inputs" if self.training else "none"), grid)

    def inverse_root(self, name: str, value: Value) -> Value:
        """Of what rounds to 0 the largest value of the grid, as the device has it; ranges do not follow it."""
        if self.format is None:
            return super().inverse_root(name, value)
        is_positive = value.tensor > 0
        source = value.grid
        assert source is not None
        rounded = self.round(
            lambda: ops.where(is_positive, ops.rsqrt(ops.where(is_positive, value.tensor, 1.0)), 0.0),
            name,
            lambda grid: inverse_root_on_grid(value.tensor, source, grid),
        )
        assert rounded.grid is not None
        return Value(ops.where(is_positive, rounded.tensor, rounded.grid.range[1]), rounded.grid, name)

    def average(self, value: Value, function: Callable, half: str) -> Value:
        if value.grid is None:
            return Value(function(value.tensor))
        result = averaged(function, value.tensor, value.grid, half=half, straight_through=self.training)
        return Value(result, value.grid)

    def on_grid_of(self, value: Value, name: str) -> Value:
        if self.format is None or self.format.symmetric or value.grid is None:
            return self.round(lambda: value.tensor, name)
        grid = self._grid(value.tensor, name)
        return Value(requantize(value.tensor, value.grid, grid, straight_through=self.training), grid, name)

    def product(self, product: Product) -> Any:
        """In inference on integers, whose sums are exact in float32 up to 2^24, in whatever order they are made."""
        x = product.x
        if self.training or x.grid is None or x.grid.format.symmetric:
            return super().product(product)
        sums, step = self._sums(product)
        return sums * step

    def product_to(self, product: Product, grid: Grid) -> Any:
        """The sums times scale_x * scale_weights / scale."""
        if product.x.grid is None:
            return super().product_to(product, grid)
        sums, step = self._sums(product)
        return of_integers(ops.round(sums * (step / grid.scale)), grid)

    def _sums(self, product: Product) -> tuple[Any, Any]:
        """The integers that the products and the bias add up to, and what 1 of them stands for, by channel."""
        x = product.x
        assert x.grid is not None
        kernel, scale = self.quantized_weights(product.weights)
        step = ops.reshape(scale, (-1,)) * x.grid.scale
        sums = product.apply(ops.round(x.tensor / x.grid.scale), ops.round(kernel / scale))
        if product.bias is not None:
            sums = sums + ops.round(self.quantized_bias(product, scale) / step)
        return sums, step

    def quantized_weights(self, weights: Weights) -> tuple[Any, Any]:
        """Each weights once, however often they are used."""
        if weights.name not in self.constants:
            bits = self.bits if weights.low_bits else 8
            scale = ops.stop_gradient(self._scale(weights, bits))
            kernel = on_scale(weights.kernel, scale)
            if self.training:
                kernel = weights.kernel + ops.stop_gradient(kernel - weights.kernel)
            self.constants[weights.name] = (kernel, scale)
        return self.constants[weights.name]

    def _scale(self, weights: Weights, bits: int) -> Any:
        if weights.name not in self._shared:
            return kernel_scale(weights.kernel, weights.axes, bits)
        values = weights.kernel if weights.unfolded is None else weights.unfolded
        largest = ops.max(ops.abs(values)) * ops.abs(weights.multiplier)
        return scale_of_largest(ops.broadcast_to(largest, weights.channels), bits)

    def quantized_bias(self, product: Product, scale: Any) -> Any:
        if product.x.grid is None:
            return product.bias
        step = ops.reshape(scale, (-1,)) * product.x.grid.scale
        bias = on_scale(product.bias, step)
        if self.training:
            bias = product.bias + ops.stop_gradient(bias - product.bias)
        self.note(f"{product.weights.name}/bias", (bias, step))
        return bias

    def note(self, name: str, values: tuple[Any, Any]) -> None:
        self.constants[name] = values

    def batch_statistics(self, name: str, layer: Any, product: Product) -> Pending | None:
        """As Keras's BatchNormalization; the moving statistics take over when ranges freeze."""
        if not (self.training and self._live_statistics):
            return None

        def compute():
            y = product.compute()
            axes = list(range(len(y.shape) - 1))
            batch = ops.moments(y, axes)
            variables = layer.moving_mean, layer.moving_variance
            moving = [ops.convert_to_tensor(variable) for variable in variables]
            frozen = self.ranges.is_frozen
            for variable, old, new in zip(variables, moving, batch, strict=True):
                moved = old * layer.momentum + new * (1.0 - layer.momentum)
                variable.assign(ops.stop_gradient(ops.where(frozen, old, moved)))
            mean, variance = (ops.where(frozen, old, new) for old, new in zip(moving, batch, strict=True))
            offset, scale = (None if one is None else ops.convert_to_tensor(one) for one in (layer.beta, layer.gamma))
            return ops.batch_normalization(
                y, mean, variance, axis=-1, offset=offset, scale=scale, epsilon=layer.epsilon
            )

        return Pending(name, compute, fuses=True, after=product.after)

    def _grid(self, tensor: Any, name: str) -> Grid:
        number = self._numbers[name]
        least, most = self._limits[number, 0], self._limits[number, 1]
        if self.training:
            batch = limits(tensor)
            if not self.ranges.calibrated:
                seen = self.ranges.seen[number] > 0
                least, most = ops.where(seen, least, batch[0]), ops.where(seen, most, batch[1])
            if number in self.visited:
                before = self.visited[number]
                batch = ops.minimum(batch[0], before[0]), ops.maximum(batch[1], before[1])
            self.visited[number] = batch
        assert self.format is not None
        return grid_of_range(least, most, self.format)
