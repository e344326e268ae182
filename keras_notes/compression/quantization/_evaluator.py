"""Quantized arithmetic: what each step of a program computes, rounded where the device rounds.

A result stays `Pending` until something else than a fused operation takes it: LiteRT computes convolution, bias and
activation in one operator, and rounds once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from keras_notes.compression.quantization._affine import Format, Grid, fake_quantize, grid_of_range

# As in conversion: exp(-12) is less than half a step of a softmax.
MASK_MARGIN = 12.0
# In floating point.
_MASKED = -1e9
# The integers of 8 bits are known before any calibration: one of the grid for each, as scale and zero point by bits.
_SMALL_INTEGERS: dict[str, dict[int, tuple[float, int]]] = {
    "uint8": {8: (1.0, -128), 16: (1.0, 0)},
    "int8": {8: (1.0, 0), 16: (1.0, 0)},
}

__all__ = ["MASK_MARGIN", "Arithmetic", "Pending", "Product", "Value", "Weights", "is_result", "several"]


@dataclass(frozen=True)
class Value:
    """A tensor that a step may take.

    Attributes:
        tensor: Its values.
        grid: The grid that they lie on; None for values in floating point, and for what is not floating point at all.
        name: Of the point where it would be rounded if it is not yet.
    """

    tensor: Any
    grid: Grid | None = None
    name: str = ""

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of the tensor: numbers, but for a batch of unknown size."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True)
class Pending:
    """A result that is not rounded yet, so that an activation can be fused.

    Attributes:
        name: Of the point where it will be rounded.
        compute: Gives the values.
        fixed: The grid that LiteRT prescribes for the result, as scale and zero point by bits; None for one that
            follows the values.
        fuses: Whether an activation can be fused to it.
        after: Moves the values when they are rounded.
        rounding: Rounds to a grid as the kernel does, where that is not the nearest value.
    """

    name: str
    compute: Callable[[], Any]
    fixed: dict[int, tuple[float, int]] | None = None
    fuses: bool = False
    after: Callable[[Any], Any] | None = None
    rounding: Callable[[Grid], Any] | None = None

    def then(self, name: str, function: Callable) -> Pending:
        """With an activation fused to it."""
        return _fused(self, name, function)


@dataclass(frozen=True)
class Weights:
    """Weights of 8 or 4 bits, with a scale for each channel.

    Attributes:
        name: Their own, the same at every use.
        kernel: The values.
        channels: The shape in which a number for each channel stands beside them: (1, 1, 1, filters) for a convolution.
        low_bits: Whether LiteRT has the operator for 4 bits.
        multiplier: What each channel was multiplied with, in the shape `channels`, 1 if nothing was folded.
        unfolded: The values before that.
    """

    name: str
    kernel: Any
    channels: tuple[int, ...]
    low_bits: bool = True
    multiplier: Any = 1.0
    unfolded: Any = None

    @property
    def axes(self) -> tuple[int, ...]:
        """What belongs to one channel."""
        return tuple(axis for axis, size in enumerate(self.channels) if size == 1)

    def scaled(self, multiplier: Any) -> Weights:
        """With each channel multiplied."""
        factor = ops.reshape(multiplier, self.channels)
        unfolded = self.kernel if self.unfolded is None else self.unfolded
        return replace(self, kernel=self.kernel * factor, multiplier=self.multiplier * factor, unfolded=unfolded)


@dataclass(frozen=True)
class Product:
    """A pending product of inputs and weights: apply(x, kernel) + bias.

    Attributes:
        name: As of `Pending`.
        x: The inputs, rounded.
        weights: The weights.
        bias: A number for each channel, or None.
        apply: Computes the product.
        arithmetic: Who computes it.
        after: Moves the values when they are rounded.
        channels_last: Whether the last axis of the result, after that, is the axis of the channels.
    """

    name: str
    x: Value
    weights: Weights
    bias: Any
    apply: Callable[[Any, Any], Any]
    arithmetic: Arithmetic
    after: Callable[[Any], Any] | None = None
    fixed: None = None
    fuses: bool = True
    channels_last: bool = True

    def is_per_channel(self, shape: Sequence[int]) -> bool:
        """Whether a constant of this shape, broadcast along the result, holds one number for each channel."""
        return self.channels_last and tuple(shape) == (math.prod(self.weights.channels),)

    def compute(self) -> Any:
        """The values."""
        return self.arithmetic.product(self)

    def rounding(self, grid: Grid) -> Any:
        """The values on a grid."""
        return self.arithmetic.product_to(self, grid)

    def then(self, name: str, function: Callable) -> Pending:
        """With an activation fused to it."""
        return _fused(self, name, function)

    def scaled(self, name: str, multiplier, shift) -> Product:
        """With each channel multiplied, and shifted: batch normalization folded into weights and bias."""
        bias = shift if self.bias is None else self.bias * multiplier + shift
        return replace(self, name=name, weights=self.weights.scaled(multiplier), bias=bias)


class Arithmetic:
    """Computes in the number format of a device.

    Args:
        format: The format of activations; None for floating point.
        bits: The size of weights.
        training: Whether layers behave as in training.
    """

    def __init__(self, format: Format | None, bits: int, *, training: bool = False) -> None:
        self.format = format
        self.bits = bits
        self.training = training

    def round(self, compute: Callable[[], Any], name: str, rounding: Callable[[Grid], Any] | None = None) -> Value:
        """Rounds at a point of its own, to the nearest value or as the kernel does.

        Args:
            compute: Gives the values.
            name: Of the point.
            rounding: Gives the values on a grid as the kernel does.
        """
        raise NotImplementedError

    def masked(self, value: Any, counting: Any, name: str) -> Value:
        """Scores, with those that do not count so far below the others that a softmax makes them 0."""
        if self.format is None:
            return Value(ops.where(counting, self.settled(value).tensor, _MASKED))
        scores = self._raw(value)
        return self.round(lambda: ops.where(counting, scores, ops.min(scores) - MASK_MARGIN), name)

    def _raw(self, value: Any) -> Any:
        return value.compute() if isinstance(value, Pending) and value.after is None else self.settled(value).tensor

    def round_to(self, tensor: Any, grid: Grid | None) -> Value:
        """Rounds to a grid that there is."""
        raise NotImplementedError

    def scope(self, path: tuple[str, ...]) -> contextlib.AbstractContextManager:
        """Stands around the computation of a layer."""
        return contextlib.nullcontext()

    def moved(self, tensor: Any, grid: Grid | None) -> Value:
        """Values that were on the grid before, at other places."""
        return Value(tensor, grid)

    def constant(self, tensor: Any, name: str) -> Value:
        """A constant that takes part as an activation does; its range is its own."""
        tensor = ops.convert_to_tensor(tensor, "float32")
        if self.format is None:
            return Value(tensor)
        grid = grid_of_range(ops.min(tensor), ops.max(tensor), self.format)
        self.note(f"{name}/constant", (grid.scale, grid.zero_point))
        return self.round_to(tensor, grid)

    def operand(self, value: Any, name: str) -> Value:
        """What computes with others: a result, rounded, or a constant."""
        return self.quantized(value) if is_result(value) else self.constant(value, name)

    def note(self, name: str, values: tuple[Any, Any]) -> None:
        """Keeps what the deploy graph will need."""

    def inverse_root(self, name: str, value: Value) -> Value:
        """1 / sqrt(x), rounded at a point of its own."""
        return self.round(lambda: ops.rsqrt(value.tensor), name)

    def average(self, value: Value, function: Callable, half: str) -> Value:
        """Averages of a value, rounded to its grid, ties "up" or "away" from 0."""
        return self.round_to(function(value.tensor), value.grid)

    def on_grid_of(self, value: Value, name: str) -> Value:
        """A rounded value, rounded again at another point."""
        return self.round(lambda: value.tensor, name)

    def quantized_weights(self, weights: Weights) -> tuple[Any, Any]:
        """Weights on their grid, and its scales."""
        raise NotImplementedError

    def quantized_bias(self, product: Product, scale: Any) -> Any:
        """The bias on the grid of the product, with a number for each channel."""
        raise NotImplementedError

    def batch_statistics(self, name: str, layer: Any, product: Product) -> Pending | None:
        """A product normalized by the statistics of the batch; None where the moving ones count."""
        return None

    def product(self, product: Product) -> Any:
        """Computes a pending product."""
        kernel, scale = self.quantized_weights(product.weights)
        result = product.apply(product.x.tensor, kernel)
        return result if product.bias is None else result + self.quantized_bias(product, scale)

    def product_to(self, product: Product, grid: Grid) -> Any:
        """A pending product on a grid, as the kernel rounds it."""
        return self.round_to(self.product(product), grid).tensor

    def settled(self, value: Any, name: str | None = None) -> Any:
        """What a step may take: rounded, if it was pending; at its own point or at that of a name."""
        if not isinstance(value, (Pending, Product)):
            return value
        if value.fixed and self.format and name is None:
            scale, zero_point = value.fixed[self.format.bits]
            result = self.round_to(value.compute(), Grid(scale, zero_point, self.format))
        else:
            result = self.round(value.compute, name or value.name, value.rounding)
        return result if value.after is None else self.moved(value.after(result.tensor), result.grid)

    def floating(self, value: Any) -> Value | Pending:
        """Integers that stand for quantities, as those of an image, as floating point, which will be rounded."""
        value = self.settled(value)
        if _is_float(value.tensor):
            return value
        fixed = _SMALL_INTEGERS.get(keras.backend.standardize_dtype(value.tensor.dtype))
        return Pending(value.name, lambda: ops.cast(value.tensor, "float32"), fixed=fixed)

    def quantized(self, value: Any) -> Value:
        """The same, of values in floating point too."""
        value = self.settled(value)
        if isinstance(value, Value) and value.grid is None and self.format and _is_float(value.tensor):
            return self.round(lambda: value.tensor, value.name)
        return value


def _fused(value: Pending | Product, name: str, function: Callable) -> Pending:
    """With an activation, whose limits the kernel rounds to the grid and clips what it has rounded to."""
    rounding = value.rounding
    clipped = None if rounding is None else lambda grid: fake_quantize(function(rounding(grid)), grid)
    return Pending(name, lambda: function(value.compute()), after=value.after, rounding=clipped)


def is_result(value: Any) -> bool:
    """Whether a step gave it; else it is a constant of the network."""
    return isinstance(value, (Value, Pending, Product))


def several(values: Sequence[Any]) -> list[Any]:
    """The operands of a layer, which takes one list, or of an operation, which takes them one by one."""
    return list(values[0]) if len(values) == 1 and isinstance(values[0], (list, tuple)) else list(values)


def _is_float(tensor: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
