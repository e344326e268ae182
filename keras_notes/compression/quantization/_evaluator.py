"""Evaluators of a traced program, and the values that its steps take and return.

A result stays `Unrounded` or a `WeightedSum` until something other than a fused operation takes it: LiteRT computes
convolution, bias and activation in one operator, and rounds once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeGuard

import keras
from keras import ops

from keras_notes._shared.softmax_masks import MASK_MARGIN
from keras_notes._shared.types import Operation, Tensor, Tree
from keras_notes.compression.quantization._affine import Grid, IntegerFormat, fake_quantize, grid_of_range

__all__ = [
    "FINEST",
    "Evaluator",
    "Function",
    "Operand",
    "OperandOrConstant",
    "Rounded",
    "Rounding",
    "Unrounded",
    "WeightedSum",
    "Weights",
    "grid_of",
    "is_operand",
    "operands_of",
    "tensor_of",
]

# The finest step of a result, in steps of what its operator adds up. XNNPACK takes no sum whose step is 1/256 of that
# of its products, or less; a grid so fine shows nothing that the operator can give.
FINEST = 1.0 / 128.0
# A masked score in floating point.
_MASKED = -1e9
# The grid of each 8-bit integer type, known before any calibration, as scale and zero point by bits of activations.
_SMALL_INTEGERS: dict[str, dict[int, tuple[float, int]]] = {
    "uint8": {8: (1.0, -128), 16: (1.0, 0)},
    "int8": {8: (1.0, 0), 16: (1.0, 0)},
}

Function: TypeAlias = Callable[[Tensor], Tensor]
"""A function of a single tensor."""

Rounding: TypeAlias = Callable[[Grid], Tensor]
"""A function that computes values and rounds them to a grid as a kernel of the device does."""


@dataclass(frozen=True)
class Rounded:
    """A tensor that a step can take.

    Attributes:
        tensor: Values.
        grid: Grid that the values lie on; None for floating-point values that are not rounded, and for other types.
        name: Name of the point where the values are rounded if they are not yet.
    """

    tensor: Tensor
    grid: Grid | None = None
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor; the size of the batch is None if it is unknown."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True)
class Unrounded:
    """A result that is not rounded yet, so that an activation can be fused to it.

    Attributes:
        name: Name of the point where the result will be rounded.
        compute: Function that computes the values.
        fixed: Grid that LiteRT prescribes for the result, as scale and zero point by bits; None for a grid that follows
            the values.
        fuses: Whether an activation can be fused to the result.
        after: Function that rearranges the values after they are rounded.
        rounding: Function that computes the values on a grid as the kernel does, where that is not the nearest value.
        finest: Function that returns the smallest scale that the operator can give its result; None for any.
    """

    name: str
    compute: Callable[[], Tensor]
    fixed: dict[int, tuple[float, int]] | None = None
    fuses: bool = False
    after: Function | None = None
    rounding: Rounding | None = None
    finest: Callable[[], Tensor | None] | None = None

    def then(self, name: str, function: Function) -> Unrounded:
        """Fuses an activation to the result."""
        return _fuse(self, name, function)


@dataclass(frozen=True)
class Weights:
    """Weights of 8 or 4 bits, with a scale for each channel.

    Attributes:
        name: Name of the weights, the same at every use.
        kernel: Values of the weights.
        variable: Variable that the weights come from; None for weights that are computed from several. Clustered
            variables are recognized by it: all of their channels share a scale.
        channels: Shape that broadcasts a number for each channel along the kernel: (1, 1, 1, filters) for a
            convolution.
        low_bits: Whether LiteRT has the operator for 4 bits.
        multiplier: Factor that each channel was multiplied by, in the shape `channels`; 1 if nothing was folded.
        unfolded: Values of the weights before they were multiplied; None if nothing was folded.
    """

    name: str
    kernel: Tensor
    variable: keras.Variable | None
    channels: tuple[int, ...]
    low_bits: bool = True
    multiplier: Tensor = 1.0
    unfolded: Tensor = None

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the kernel that belong to a single channel."""
        return tuple(axis for axis, size in enumerate(self.channels) if size == 1)

    def scaled(self, multiplier: Tensor) -> Weights:
        """The weights with each channel multiplied."""
        factor = ops.reshape(multiplier, self.channels)
        unfolded = self.kernel if self.unfolded is None else self.unfolded
        return replace(self, kernel=self.kernel * factor, multiplier=self.multiplier * factor, unfolded=unfolded)


@dataclass(frozen=True)
class WeightedSum:
    """A product of inputs and weights that is not computed yet: apply(x, kernel) + bias.

    Attributes:
        name: Name of the point where the result will be rounded.
        x: Inputs, rounded.
        weights: Weights.
        bias: Number for each channel, or None.
        apply: Function that computes the product from inputs and kernel.
        evaluator: Evaluator that computes the result.
        after: Function that rearranges the values after they are rounded.
        channels_last: Whether the channels are the last axis of the result after that.
    """

    name: str
    x: Rounded
    weights: Weights
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor], Tensor]
    evaluator: Evaluator
    after: Function | None = None
    fixed: None = None
    fuses: bool = True
    channels_last: bool = True

    def is_per_channel(self, shape: Sequence[int]) -> bool:
        """Whether a constant of this shape, broadcast along the result, holds a number for each channel."""
        return self.channels_last and tuple(shape) == (math.prod(self.weights.channels),)

    def compute(self) -> Tensor:
        """Computes the values."""
        return self.evaluator.compute_sum(self)

    def finest(self) -> Tensor | None:
        """Returns the smallest scale that the operator can give the result; None for any."""
        return self.evaluator.finest_scale(self)

    def rounding(self, grid: Grid) -> Tensor:
        """Computes the values on a grid."""
        return self.evaluator.compute_sum_on(self, grid)

    def then(self, name: str, function: Function) -> Unrounded:
        """Fuses an activation to the result."""
        return _fuse(self, name, function)

    def scaled(self, name: str, multiplier: Tensor, shift: Tensor) -> WeightedSum:
        """Folds a batch normalization: multiplies weights and bias by channel, and shifts the bias."""
        bias = shift if self.bias is None else self.bias * multiplier + shift
        return replace(self, name=name, weights=self.weights.scaled(multiplier), bias=bias)


Operand: TypeAlias = Rounded | Unrounded | WeightedSum
"""A value that depends on the inputs of the program."""

OperandOrConstant: TypeAlias = Operand | Tensor
"""A value that a rule gets: an operand, or a constant of the network as a tensor, array or number."""


class Evaluator:
    """Computes the steps of a program in the number format of a device; the base of all evaluators.

    Args:
        format: Format of activations; None for floating point.
        bits: Size of weights, in bits.
        training: Whether layers behave as in training.
    """

    def __init__(self, format: IntegerFormat | None, bits: int, *, training: bool = False) -> None:
        self.format = format
        self.bits = bits
        self.training = training

    def round(self, compute: Callable[[], Tensor], name: str, rounding: Rounding | None = None) -> Rounded:
        """Rounds values at a point of their own, to the nearest value or as the kernel does.

        Args:
            compute: Function that computes the values.
            name: Name of the point.
            rounding: Function that computes the values on a grid as the kernel does.
        """
        raise NotImplementedError

    def mask_scores(self, value: Operand, unmasked: Tensor, name: str) -> Rounded:
        """Lowers masked scores so far below the others that a softmax makes them 0."""
        if self.format is None:
            return Rounded(ops.where(unmasked, self.materialize(value).tensor, _MASKED))
        scores = self._raw(value)
        return self.round(lambda: ops.where(unmasked, scores, ops.min(scores) - MASK_MARGIN), name)

    def _raw(self, value: Operand) -> Tensor:
        """The values before they are rounded, where that is possible."""
        if isinstance(value, Unrounded) and value.after is None:
            return value.compute()
        return self.materialize(value).tensor

    def round_to(self, tensor: Tensor, grid: Grid | None) -> Rounded:
        """Rounds values to a known grid."""
        raise NotImplementedError

    def scope(
        self, path: tuple[str, ...], operation: Operation | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Returns the context in which the layer or operation at a path is computed."""
        return contextlib.nullcontext()

    def same_grid(self, tensor: Tensor, grid: Grid | None) -> Rounded:
        """Wraps values that were on the grid before and have only been rearranged."""
        return Rounded(tensor, grid)

    def constant(self, tensor: Tensor, name: str) -> Rounded:
        """Rounds a constant that is used like an activation, on a grid of its own range."""
        tensor = ops.convert_to_tensor(tensor, "float32")
        if self.format is None:
            return Rounded(tensor)
        grid = grid_of_range(ops.min(tensor), ops.max(tensor), self.format)
        self.record_constant(f"{name}/constant", (grid.scale, grid.zero_point))
        return self.round_to(tensor, grid)

    def operand(self, value: OperandOrConstant, name: str) -> Rounded:
        """Rounds a value that is computed with others: an operand or a constant."""
        return self.to_grid(value) if is_operand(value) else self.constant(value, name)

    def record_constant(self, name: str, values: tuple[Tensor, Tensor]) -> None:
        """Keeps values that the deploy graph will need. Does nothing unless an evaluator overrides it."""

    def rsqrt(self, name: str, value: Rounded) -> Rounded:
        """Computes 1 / sqrt(x), rounded at a point of its own."""
        return self.round(lambda: ops.rsqrt(value.tensor), name)

    def average(self, value: Rounded, function: Function, half: str) -> Rounded:
        """Averages a value and rounds the averages to its grid, ties "up" or "away" from 0."""
        return self.round_to(function(value.tensor), value.grid)

    def requantize(self, value: Rounded, name: str) -> Rounded:
        """Rounds a rounded value again, at another point."""
        return self.round(lambda: value.tensor, name)

    def quantize_weights(self, weights: Weights, weighted_sum: WeightedSum | None = None) -> tuple[Tensor, Tensor]:
        """Returns weights on their grid, and the scale of each channel.

        Args:
            weights: Weights.
            weighted_sum: Sum that they belong to, whose bias must fit; None for a table.
        """
        raise NotImplementedError

    def quantize_bias(self, weighted_sum: WeightedSum, scale: Tensor) -> Tensor:
        """Returns the bias on the grid of the sum, which has a scale for each channel."""
        raise NotImplementedError

    def finest_scale(self, weighted_sum: WeightedSum) -> Tensor | None:
        """Returns the smallest scale that the operator of a sum can give its result; None for any."""
        return None

    def widen(self, name: str, value: Operand) -> None:
        """Lets the grid of a point be no finer than the operator of a value can make it.

        Does nothing unless an evaluator overrides it. A point that many values share is widened for all of them before
        the first is rounded.
        """

    def batch_statistics(self, name: str, layer: keras.Layer, weighted_sum: WeightedSum) -> Unrounded | None:
        """Normalizes a sum by the statistics of the batch; returns None where the moving statistics are used."""
        return None

    def compute_sum(self, weighted_sum: WeightedSum) -> Tensor:
        """Computes a weighted sum."""
        kernel, scale = self.quantize_weights(weighted_sum.weights, weighted_sum)
        result = weighted_sum.apply(weighted_sum.x.tensor, kernel)
        return result if weighted_sum.bias is None else result + self.quantize_bias(weighted_sum, scale)

    def compute_sum_on(self, weighted_sum: WeightedSum, grid: Grid) -> Tensor:
        """Computes a weighted sum on a grid, rounded as the kernel does."""
        return self.round_to(self.compute_sum(weighted_sum), grid).tensor

    def materialize(self, value: Operand, name: str | None = None) -> Rounded:
        """Computes and rounds a value that is not rounded yet, at its own point or at the point `name`."""
        if isinstance(value, Rounded):
            return value
        if value.fixed and self.format and name is None:
            scale, zero_point = value.fixed[self.format.bits]
            result = self.round_to(value.compute(), Grid(scale, zero_point, self.format))
        else:
            self.widen(name or value.name, value)
            result = self.round(value.compute, name or value.name, value.rounding)
        return result if value.after is None else self.same_grid(value.after(result.tensor), result.grid)

    def to_float(self, value: Operand) -> Rounded | Unrounded:
        """Casts integers that represent quantities, such as those of an image, to floating point, not rounded yet."""
        rounded = self.materialize(value)
        if _is_float(rounded.tensor):
            return rounded
        fixed = _SMALL_INTEGERS.get(keras.backend.standardize_dtype(rounded.tensor.dtype))
        return Unrounded(rounded.name, lambda: ops.cast(rounded.tensor, "float32"), fixed=fixed)

    def to_grid(self, value: Operand) -> Rounded:
        """Like `materialize`, and rounds floating-point values without a grid at their own point."""
        rounded = self.materialize(value)
        if rounded.grid is None and self.format and _is_float(rounded.tensor):
            return self.round(lambda: rounded.tensor, rounded.name)
        return rounded


def _fuse(value: Unrounded | WeightedSum, name: str, function: Function) -> Unrounded:
    """Fuses an activation: the kernel rounds the limits of the activation to the grid, and clips the rounded values."""
    rounding = value.rounding
    clipped = None if rounding is None else lambda grid: fake_quantize(function(rounding(grid)), grid)
    compute = lambda: function(value.compute())  # noqa: E731
    return Unrounded(name, compute, after=value.after, rounding=clipped, finest=value.finest)


def is_operand(value: OperandOrConstant) -> TypeGuard[Operand]:
    """Whether a value depends on the inputs of the program; otherwise it is a constant of the network."""
    return isinstance(value, (Rounded, Unrounded, WeightedSum))


def grid_of(value: Rounded) -> Grid:
    """Returns the grid of a value.

    Raises:
        ValueError: If the value is in floating point.
    """
    if value.grid is None:
        raise ValueError(
            f"A value must be on a grid to be computed in integers. Received: name={value.name!r} in floating point. "
            f"Round it with `to_grid` first."
        )
    return value.grid


def tensor_of(value: Rounded | Tensor) -> Tensor:
    """Returns the tensor of an operand, or a constant as it is."""
    return value.tensor if isinstance(value, Rounded) else value


def operands_of(values: Sequence[Tree]) -> list[OperandOrConstant]:
    """Returns the operands of a layer, which takes a single list, or of an operation, which takes them one by one."""
    return list(values[0]) if len(values) == 1 and isinstance(values[0], (list, tuple)) else list(values)


def _is_float(tensor: Tensor) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
