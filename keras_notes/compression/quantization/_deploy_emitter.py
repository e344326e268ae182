"""The arithmetic of the deploy graph: constants on their grids, and a mark at each point where the device rounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes.compression.quantization._affine import Format, Grid
from keras_notes.compression.quantization._evaluator import Arithmetic, Product, Value, Weights

__all__ = ["Deployment"]


class Deployment(Arithmetic):
    """Computes in floating point what a converter is to see.

    Args:
        format: The format of activations; None for floating point.
        bits: The size of weights.
        grids: The grid at each point, in numbers.
        constants: Weights and biases on their grids, and those grids' scales, by name.
        mark: Puts a mark on a tensor, which tells the grid to the quantizer.
    """

    def __init__(
        self,
        format: Format | None,
        bits: int,
        grids: Mapping[str, Grid],
        constants: Mapping[str, tuple[np.ndarray, np.ndarray]],
        mark: Callable[[Any, Grid], Any],
    ) -> None:
        super().__init__(format, bits)
        self._grids = grids
        self._constants = constants
        self._mark = mark

    @contextlib.contextmanager
    def scope(self, path: tuple[str, ...]) -> Iterator[None]:
        """Names the operators after their layer, as Keras does, which opens each scope once before it is used."""
        with contextlib.ExitStack() as stack:
            for name in path:
                with keras.name_scope(name):
                    pass
                stack.enter_context(keras.name_scope(name))
            yield

    def round(self, compute: Callable[[], Any], name: str, rounding: Callable[[Grid], Any] | None = None) -> Value:
        if self.format is None:
            return Value(compute(), None, name)
        return self.round_to(compute(), self._grids[name])

    def round_to(self, tensor: Any, grid: Grid | None) -> Value:
        return Value(tensor if grid is None else self._mark(tensor, grid), grid)

    def masked(self, value: Any, counting: Any, name: str) -> Value:
        if self.format is None:
            return super().masked(value, counting, name)
        grid = self._grids[name]
        scores = self._mark(self._raw(value), grid)
        return self.round_to(ops.where(counting, scores, grid.range[0]), grid)

    def moved(self, tensor: Any, grid: Grid | None) -> Value:
        return self.round_to(tensor, grid)

    def constant(self, tensor: Any, name: str) -> Value:
        """As it is: the quantizer finds its range by itself, which a rounded one would not have any more."""
        tensor = ops.convert_to_tensor(tensor, "float32")
        if self.format is None:
            return Value(tensor)
        scale, zero_point = self._constants[f"{name}/constant"]
        return Value(tensor, Grid(float(scale), float(zero_point), self.format))

    def quantized_weights(self, weights: Weights) -> tuple[Any, Any]:
        kernel, scale = self._constants[weights.name]
        return ops.convert_to_tensor(kernel), scale

    def quantized_bias(self, product: Product, scale: Any) -> Any:
        name = f"{product.weights.name}/bias"
        return ops.convert_to_tensor(self._constants[name][0]) if name in self._constants else product.bias
