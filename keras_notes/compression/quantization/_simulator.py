"""Simulation: a run that computes, in floating point, the integers that the device computes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeGuard

import keras
from keras import ops

from keras_notes._shared.softmax_masks import MASK_MARGIN
from keras_notes._shared.types import Tensor
from keras_notes.compression.quantization._affine import (
    Grid,
    IntegerFormat,
    dequantize,
    fake_quantize,
    grid_of_range,
    range_of,
    scale_of_largest,
    smallest_scale_for_bias,
    snap_to_scale,
    weight_scales,
)
from keras_notes.compression.quantization._evaluator import (
    FINEST,
    Evaluator,
    Function,
    Operand,
    Rounded,
    Rounding,
    Unrounded,
    WeightedSum,
    Weights,
    grid_of,
)
from keras_notes.compression.quantization._integer_kernels import average_pool_int, requantize_int, rsqrt_int
from keras_notes.compression.quantization._ranges import Ranges

__all__ = ["Simulator"]


# How much wider than necessary for their biases the scale of weights is that are all 0.
_SPARE = 256.0


class Simulator(Evaluator):
    """Computes what the device computes, in floating point on the device's grids.

    An object serves a single run: `visited` and `constants` are filled while the steps of the program are computed.

    Args:
        format: Format of activations; None for floating point.
        bits: Size of weights, in bits.
        ranges: Ranges at all points.
        training: Whether the results have gradients, and the ranges of the batch are recorded.
        live_statistics: Whether batch normalization uses the statistics of the batch in training.
        clustered: Ids (`id`) of variables with few different values. All channels of their weights share a scale,
            except for the factors that are folded into them, so that there are as few different integers.

    Attributes:
        visited: Smallest and largest value of the batch at each point, by number of the point; in training only.
        constants: Weights and biases on their grids, with the scales of these, and grids of constants, by name.
        grids: Grid at each point that the run passed, by name.
    """

    def __init__(
        self,
        format: IntegerFormat | None,
        bits: int,
        ranges: Ranges,
        *,
        training: bool,
        live_statistics: bool = False,
        clustered: Collection[int] = (),
    ) -> None:
        super().__init__(format, bits, training=training)
        self.ranges = ranges
        self.visited: dict[int, tuple[Tensor, Tensor]] = {}
        self.constants: dict[str, tuple[Tensor, Tensor]] = {}
        self.grids: dict[str, Grid] = {}
        self._finest: dict[str, Tensor] = {}
        self._live_statistics = live_statistics
        self._clustered = clustered
        self._limits = ops.convert_to_tensor(ranges.limits)
        if ranges.learned and training:
            self._limits = ops.where(ranges.is_frozen, ops.stop_gradient(self._limits), self._limits)
        self._numbers = {name: number for number, name in enumerate(ranges.points)}

    def round(self, compute: Callable[[], Tensor], name: str, rounding: Rounding | None = None) -> Rounded:
        if self.format is None:
            return Rounded(compute(), None, name)
        if self._rounds_as_kernel(rounding):
            grid = self._grid(None, name, self.format)
            return Rounded(rounding(grid), grid, name)
        tensor = compute()
        grid = self._grid(tensor, name, self.format)
        return Rounded(self._nearest(tensor, grid), grid, name)

    def mask_scores(self, value: Operand, unmasked: Tensor, name: str) -> Rounded:
        """Sets masked scores to the smallest value of the grid, which is a constant on the device."""
        if self.format is None:
            return super().mask_scores(value, unmasked, name)
        scores = self._raw(value)
        grid = self._grid(ops.where(unmasked, scores, ops.min(scores) - MASK_MARGIN), name, self.format)
        rounding = None if isinstance(value, Rounded) else value.rounding
        rounded = rounding(grid) if self._rounds_as_kernel(rounding) else self._nearest(scores, grid)
        return Rounded(ops.where(unmasked, rounded, grid.range[0]), grid, name)

    def _rounds_as_kernel(self, rounding: Rounding | None) -> TypeGuard[Rounding]:
        """Whether to round as the kernel does: not in training, which needs gradients, and not for 16 bits."""
        return rounding is not None and not self.training and self.format is not None and not self.format.symmetric

    def _nearest(self, tensor: Tensor, grid: Grid) -> Tensor:
        if self.training:
            return fake_quantize(tensor, grid, gradient="all" if self.ranges.learned else "inputs")
        return fake_quantize(tensor, grid)

    def round_to(self, tensor: Tensor, grid: Grid | None) -> Rounded:
        if grid is None:
            return Rounded(tensor)
        return Rounded(fake_quantize(tensor, grid, gradient="inputs" if self.training else "none"), grid)

    def rsqrt(self, name: str, value: Rounded) -> Rounded:
        """Computes 1 / sqrt(x); where x rounds to 0, the largest value of the grid, as the device does.

        The ranges do not follow that value.
        """
        if self.format is None:
            return super().rsqrt(name, value)
        is_positive = value.tensor > 0
        source = grid_of(value)
        rounded = self.round(
            lambda: ops.where(is_positive, ops.rsqrt(ops.where(is_positive, value.tensor, 1.0)), 0.0),
            name,
            lambda grid: rsqrt_int(value.tensor, source, grid),
        )
        return Rounded(ops.where(is_positive, rounded.tensor, grid_of(rounded).range[1]), rounded.grid, name)

    def average(self, value: Rounded, function: Function, half: str) -> Rounded:
        if value.grid is None:
            return Rounded(function(value.tensor))
        result = average_pool_int(function, value.tensor, value.grid, half=half, straight_through=self.training)
        return Rounded(result, value.grid)

    def requantize(self, value: Rounded, name: str) -> Rounded:
        if self.format is None or self.format.symmetric or value.grid is None:
            return self.round(lambda: value.tensor, name)
        grid = self._grid(value.tensor, name, self.format)
        return Rounded(requantize_int(value.tensor, value.grid, grid, straight_through=self.training), grid, name)

    def compute_sum(self, weighted_sum: WeightedSum) -> Tensor:
        """Computes a weighted sum; in inference on integers, whose sums are exact in float32 up to 2^24."""
        x = weighted_sum.x
        if self.training or x.grid is None or x.grid.format.symmetric:
            return super().compute_sum(weighted_sum)
        sums, step = self._sums(weighted_sum)
        return sums * step

    def compute_sum_on(self, weighted_sum: WeightedSum, grid: Grid) -> Tensor:
        """Computes the sum of integers, multiplied by scale_x * scale_weights / scale."""
        if weighted_sum.x.grid is None:
            return super().compute_sum_on(weighted_sum, grid)
        sums, step = self._sums(weighted_sum)
        return dequantize(ops.round(sums * (step / grid.scale)), grid)

    def _sums(self, weighted_sum: WeightedSum) -> tuple[Tensor, Tensor]:
        """Returns the integer sums of products and bias, and the scale of the sums, by channel."""
        x_scale = grid_of(weighted_sum.x).scale
        kernel, scale = self.quantize_weights(weighted_sum.weights, weighted_sum)
        step = ops.reshape(scale, (-1,)) * x_scale
        sums = weighted_sum.apply(ops.round(weighted_sum.x.tensor / x_scale), ops.round(kernel / scale))
        if weighted_sum.bias is not None:
            sums = sums + ops.round(self.quantize_bias(weighted_sum, scale) / step)
        return sums, step

    def finest_scale(self, weighted_sum: WeightedSum) -> Tensor | None:
        x = weighted_sum.x
        if x.grid is None:
            return None
        _, scale = self.quantize_weights(weighted_sum.weights, weighted_sum)
        return ops.max(scale) * x.grid.scale * FINEST

    def widen(self, name: str, value: Operand) -> None:
        if self.format is None or name in self.grids:
            return  # a point that is passed many times, as in recurrent layers, keeps its grid
        if isinstance(value, Rounded):
            finest = None if value.grid is None else value.grid.scale * FINEST
        else:
            finest = None if value.finest is None else value.finest()
        if finest is not None:
            finest = ops.stop_gradient(ops.convert_to_tensor(finest, "float32"))
            self._finest[name] = ops.maximum(self._finest[name], finest) if name in self._finest else finest

    def quantize_weights(self, weights: Weights, weighted_sum: WeightedSum | None = None) -> tuple[Tensor, Tensor]:
        """Quantizes each weight tensor once; later uses share the result."""
        if weights.name not in self.constants:
            bits = self.bits if weights.low_bits else 8
            scale = self._scale(weights, bits)
            if weighted_sum is not None:
                scale = self._scale_for_bias(weighted_sum, scale)
            scale = ops.stop_gradient(scale)
            kernel = snap_to_scale(weights.kernel, scale)
            if self.training:
                kernel = weights.kernel + ops.stop_gradient(kernel - weights.kernel)
            self.constants[weights.name] = (kernel, scale)
        return self.constants[weights.name]

    def _scale(self, weights: Weights, bits: int) -> Tensor:
        if weights.variable is None or id(weights.variable) not in self._clustered:
            return weight_scales(weights.kernel, weights.axes, bits)
        values = weights.kernel if weights.unfolded is None else weights.unfolded
        largest = ops.max(ops.abs(values)) * ops.abs(weights.multiplier)
        return scale_of_largest(ops.broadcast_to(largest, weights.channels), bits)

    def _scale_for_bias(self, weighted_sum: WeightedSum, scale: Tensor) -> Tensor:
        """Widens the scale of each channel so far that the integer of its bias fits."""
        if weighted_sum.bias is None or weighted_sum.x.grid is None:
            return scale
        minimum = smallest_scale_for_bias(weighted_sum.bias, weighted_sum.x.grid.scale)
        wide = ops.maximum(scale, ops.reshape(minimum, scale.shape))
        # Weights that are all 0 have no scale of their own: the biases choose it.
        free = ops.where(ops.max(minimum) > 0, ops.max(minimum) * _SPARE, scale)
        return ops.where(ops.max(ops.abs(weighted_sum.weights.kernel)) > 0, wide, free)

    def quantize_bias(self, weighted_sum: WeightedSum, scale: Tensor) -> Tensor:
        """Rounds a bias to the grid of the sums.

        Its integer and the sums are numbers of float32, whose rounded total is the number that XNNPACK makes of its
        total in int32.
        """
        if weighted_sum.x.grid is None:
            return weighted_sum.bias
        step = ops.reshape(scale, (-1,)) * weighted_sum.x.grid.scale
        bias = snap_to_scale(weighted_sum.bias, step)
        if self.training:
            bias = weighted_sum.bias + ops.stop_gradient(bias - weighted_sum.bias)
        self.record_constant(f"{weighted_sum.weights.name}/bias", (bias, step))
        return bias

    def record_constant(self, name: str, values: tuple[Tensor, Tensor]) -> None:
        self.constants[name] = values

    def batch_statistics(self, name: str, layer: keras.Layer, weighted_sum: WeightedSum) -> Unrounded | None:
        """Normalizes as Keras's BatchNormalization does; the moving statistics take over when the ranges freeze."""
        if not (self.training and self._live_statistics):
            return None

        def compute() -> Tensor:
            y = weighted_sum.compute()
            axes = list(range(len(y.shape) - 1))
            batch = ops.moments(y, axes)
            variables = layer.moving_mean, layer.moving_variance
            moving = [ops.convert_to_tensor(variable) for variable in variables]
            frozen = self.ranges.is_frozen
            for variable, old, new in zip(variables, moving, batch, strict=True):
                average = old * layer.momentum + new * (1.0 - layer.momentum)
                variable.assign(ops.stop_gradient(ops.where(frozen, old, average)))
            mean, variance = (ops.where(frozen, old, new) for old, new in zip(moving, batch, strict=True))
            offset, scale = (
                None if variable is None else ops.convert_to_tensor(variable) for variable in (layer.beta, layer.gamma)
            )
            return ops.batch_normalization(
                y, mean, variance, axis=-1, offset=offset, scale=scale, epsilon=layer.epsilon
            )

        return Unrounded(name, compute, fuses=True, after=weighted_sum.after)

    def _grid(self, tensor: Tensor | None, name: str, format: IntegerFormat) -> Grid:
        """Returns the grid of a point; in training the range of the batch is recorded."""
        number = self._numbers[name]
        minimum, maximum = self._limits[number, 0], self._limits[number, 1]
        if self.training:
            batch = range_of(tensor)
            if not self.ranges.calibrated:
                seen = self.ranges.seen[number] > 0
                minimum, maximum = ops.where(seen, minimum, batch[0]), ops.where(seen, maximum, batch[1])
            if number in self.visited:
                before = self.visited[number]
                batch = ops.minimum(batch[0], before[0]), ops.maximum(batch[1], before[1])
            self.visited[number] = batch
        grid = grid_of_range(minimum, maximum, format, self._finest.get(name))
        self.grids.setdefault(name, grid)
        return grid
