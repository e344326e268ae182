"""Rules for layers over three dimensions, computed by layers over two: LiteRT has no integer operators for volumes.

A convolution over a volume is a convolution over its frames, with the neighbouring frames as further channels. Pooling
pools the frames first, then along the depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.compression.quantization._evaluator import Evaluator, Operand, Rounded, Unrounded, WeightedSum, Weights
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import apply_activation
from keras_notes.compression.quantization.rules._shapes import check_channels_last, reduce_mean

__all__ = ["VOLUME_LAYERS"]

_LAYERS = keras.layers


def _convolution(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    x = _volume(evaluator, step, value)
    if layer.groups != 1:
        raise ValueError(
            f"A convolution over volumes must have one group. Received: {step.name!r} with groups={layer.groups}. Give "
            f"it in `skip`."
        )
    depth, *_, channels = x.shape[1:]
    size, stride, dilation = layer.kernel_size[0], layer.strides[0], layer.dilation_rate[0]
    extent = (size - 1) * dilation + 1
    if layer.padding == "same":
        missing = max((-(-depth // stride) - 1) * stride + extent - depth, 0)
        pads = ((0, 0), (missing // 2, missing - missing // 2), *[(0, 0)] * 3)
        x = evaluator.same_grid(ops.pad(x.tensor, pads), x.grid)
    frames = (x.shape[1] - extent) // stride + 1
    neighbours = [
        evaluator.same_grid(x.tensor[:, first : first + (frames - 1) * stride + 1 : stride], x.grid).tensor
        for first in range(0, extent, dilation)
    ]
    x = evaluator.same_grid(ops.concatenate(neighbours, axis=-1) if size > 1 else neighbours[0], x.grid)
    x = evaluator.same_grid(ops.reshape(x.tensor, (-1, *x.shape[2:])), x.grid)

    def apply(tensor: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv(tensor, kernel, list(layer.strides[1:]), layer.padding, dilation_rate=layer.dilation_rate[1:])

    def to_volumes(tensor: Tensor) -> Tensor:
        return ops.reshape(tensor, (-1, frames, *tensor.shape[1:]))

    kernel = ops.transpose(ops.cast(layer.kernel, "float32"), (1, 2, 0, 3, 4))
    kernel = ops.reshape(kernel, (*layer.kernel_size[1:], size * channels, layer.filters))
    bias = None if layer.bias is None else ops.cast(layer.bias, "float32")
    weights = Weights(step.name, kernel, variable=layer.kernel, channels=(1, 1, 1, layer.filters))
    result = WeightedSum(step.name, x, weights, bias, apply, evaluator, to_volumes)
    return apply_activation(evaluator, step.name, result, layer.activation)


def _max_pooling(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    def pool(x: Rounded, size: tuple[int, ...], strides: tuple[int, ...], padding: str) -> Rounded:
        return evaluator.same_grid(ops.max_pool(x.tensor, size, strides, padding), x.grid)

    return _pool(evaluator, step, value, pool)


def _average_pooling(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    """Averages the frames, then the averages along the depth; both are rounded."""

    def pool(x: Rounded, size: tuple[int, ...], strides: tuple[int, ...], padding: str) -> Rounded:
        return evaluator.average(x, lambda tensor: ops.average_pool(tensor, size, strides, padding), half="away")

    return _pool(evaluator, step, value, pool)


def _pool(evaluator: Evaluator, step: Step, value: Operand, pool: Callable[..., Rounded]) -> Rounded:
    layer = step.operation
    x = _volume(evaluator, step, value)
    depth = x.shape[1]
    size, strides, padding = layer.pool_size, layer.strides, layer.padding
    x = _reshape(evaluator, x, x.shape[2:])
    x = pool(x, tuple(size[1:]), tuple(strides[1:]), padding)
    height, width, channels = x.shape[1:]
    x = _reshape(evaluator, x, (depth, height * width, channels))
    x = pool(x, (size[0], 1), (strides[0], 1), padding)
    return _reshape(evaluator, x, (x.shape[1], height, width, channels))


def _global_average(evaluator: Evaluator, step: Step, value: Operand) -> Unrounded:
    x = _flat_frames(evaluator, step, value)
    keepdims = step.operation.keepdims
    result = reduce_mean(evaluator, step.name, x, [1, 2], keepdims)
    return replace(result, after=_expand_depth) if keepdims else result


def _expand_depth(tensor: Tensor) -> Tensor:
    return ops.expand_dims(tensor, 1)


def _global_max(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    x = _flat_frames(evaluator, step, value)
    channels = x.shape[-1]
    x = evaluator.same_grid(ops.max_pool(x.tensor, x.shape[1:3], x.shape[1:3]), x.grid)
    return _reshape(evaluator, x, (1, 1, 1, channels) if step.operation.keepdims else (channels,))


def _rearrange(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    x = _volume(evaluator, step, value)
    return evaluator.same_grid(step.operation(x.tensor), x.grid)


def _volume(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    check_channels_last(step)
    return evaluator.to_grid(value)


def _flat_frames(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    """Reshapes a volume to (batch, depth, height * width, channels)."""
    x = _volume(evaluator, step, value)
    return _reshape(evaluator, x, (x.shape[1], math.prod(x.shape[2:4]), x.shape[4]))


def _reshape(evaluator: Evaluator, x: Rounded, shape: Sequence[int]) -> Rounded:
    return evaluator.same_grid(ops.reshape(x.tensor, (-1, *shape)), x.grid)


VOLUME_LAYERS: dict[type[keras.Layer], Rule] = {
    _LAYERS.Conv3D: _convolution,
    _LAYERS.MaxPooling3D: _max_pooling,
    _LAYERS.AveragePooling3D: _average_pooling,
    _LAYERS.GlobalAveragePooling3D: _global_average,
    _LAYERS.GlobalMaxPooling3D: _global_max,
    _LAYERS.ZeroPadding3D: _rearrange,
    _LAYERS.Cropping3D: _rearrange,
}
