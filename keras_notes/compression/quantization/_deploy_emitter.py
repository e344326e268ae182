"""Emission of the deploy graph: constants on their grids, and a mark at each point where the device rounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import numpy as np
from keras import ops

from keras_notes._shared.models.operation_names import open_scopes
from keras_notes._shared.types import Operation, Tensor
from keras_notes.compression.quantization._affine import Grid, IntegerFormat
from keras_notes.compression.quantization._evaluator import (
    Evaluator,
    Operand,
    Rounded,
    Rounding,
    WeightedSum,
    Weights,
)

__all__ = ["DeployEmitter"]


class DeployEmitter(Evaluator):
    """Computes in floating point the graph that a converter traces.

    Args:
        format: Format of activations; None for floating point.
        bits: Size of weights, in bits.
        grids: Grid at each point, in numbers.
        constants: Weights and biases on their grids, and the scales of these grids, by name.
        mark: Function that puts a mark on a tensor, from which the quantizer reads the grid.
    """

    def __init__(
        self,
        format: IntegerFormat | None,
        bits: int,
        grids: Mapping[str, Grid],
        constants: Mapping[str, tuple[np.ndarray, np.ndarray]],
        mark: Callable[[Tensor, Grid], Tensor],
    ) -> None:
        super().__init__(format, bits)
        self._grids = grids
        self._constants = constants
        self._mark = mark

    def scope(
        self, path: tuple[str, ...], operation: Operation | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Names the operators after their layer."""
        return open_scopes(path, operation)

    def round(self, compute: Callable[[], Tensor], name: str, rounding: Rounding | None = None) -> Rounded:
        if self.format is None:
            return Rounded(compute(), None, name)
        return self.round_to(compute(), self._grids[name])

    def round_to(self, tensor: Tensor, grid: Grid | None) -> Rounded:
        return Rounded(tensor if grid is None else self._mark(tensor, grid), grid)

    def mask_scores(self, value: Operand, unmasked: Tensor, name: str) -> Rounded:
        if self.format is None:
            return super().mask_scores(value, unmasked, name)
        grid = self._grids[name]
        scores = self._mark(self._raw(value), grid)
        return self.round_to(ops.where(unmasked, scores, grid.range[0]), grid)

    def same_grid(self, tensor: Tensor, grid: Grid | None) -> Rounded:
        return self.round_to(tensor, grid)

    def constant(self, tensor: Tensor, name: str) -> Rounded:
        """Leaves the constant unrounded: the quantizer derives its range, which rounded values would change."""
        tensor = ops.convert_to_tensor(tensor, "float32")
        if self.format is None:
            return Rounded(tensor)
        scale, zero_point = self._constants[f"{name}/constant"]
        return Rounded(tensor, Grid(float(scale), float(zero_point), self.format))

    def quantize_weights(self, weights: Weights, weighted_sum: WeightedSum | None = None) -> tuple[Tensor, Tensor]:
        kernel, scale = self._constants[weights.name]
        return ops.convert_to_tensor(kernel), scale

    def quantize_bias(self, weighted_sum: WeightedSum, scale: Tensor) -> Tensor:
        name = f"{weighted_sum.weights.name}/bias"
        return ops.convert_to_tensor(self._constants[name][0]) if name in self._constants else weighted_sum.bias
