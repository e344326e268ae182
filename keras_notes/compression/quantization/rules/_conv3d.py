"""Layers over three dimensions, as layers over two: LiteRT has no integer operator for volumes.

A convolution over a volume is one over its frames, each with the frames beside it as further channels. Pooling goes
over the frames first, then over the depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from keras_notes.compression.quantization._evaluator import Arithmetic, Pending, Product, Value, Weights
from keras_notes.compression.quantization.rules._activations import activated
from keras_notes.compression.quantization.rules._shapes import averaged, check_channels_last

__all__ = ["VOLUME_LAYERS"]

_LAYERS = keras.layers


def _convolution(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    x = _volume(arithmetic, step, value)
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
        x = arithmetic.moved(ops.pad(x.tensor, pads), x.grid)
    frames = (x.shape[1] - extent) // stride + 1
    beside = [
        arithmetic.moved(x.tensor[:, first : first + (frames - 1) * stride + 1 : stride], x.grid).tensor
        for first in range(0, extent, dilation)
    ]
    x = arithmetic.moved(ops.concatenate(beside, axis=-1) if size > 1 else beside[0], x.grid)
    x = arithmetic.moved(ops.reshape(x.tensor, (-1, *x.shape[2:])), x.grid)

    def apply(tensor, kernel):
        return ops.conv(tensor, kernel, list(layer.strides[1:]), layer.padding, dilation_rate=layer.dilation_rate[1:])

    def unfolded(tensor):
        return ops.reshape(tensor, (-1, frames, *tensor.shape[1:]))

    kernel = ops.transpose(ops.cast(layer.kernel, "float32"), (1, 2, 0, 3, 4))
    kernel = ops.reshape(kernel, (*layer.kernel_size[1:], size * channels, layer.filters))
    bias = None if layer.bias is None else ops.cast(layer.bias, "float32")
    weights = Weights(step.name, kernel, (1, 1, 1, layer.filters))
    result = Product(step.name, x, weights, bias, apply, arithmetic, unfolded)
    return activated(arithmetic, step.name, result, layer.activation)


def _max_pooling(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    def pooled(x: Value, size: tuple, strides: tuple, padding: str) -> Value:
        return arithmetic.moved(ops.max_pool(x.tensor, size, strides, padding), x.grid)

    return _pooled(arithmetic, step, value, pooled)


def _average_pooling(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    """The average of averages, rounded each time."""

    def pooled(x: Value, size: tuple, strides: tuple, padding: str) -> Value:
        return arithmetic.average(x, lambda tensor: ops.average_pool(tensor, size, strides, padding), half="away")

    return _pooled(arithmetic, step, value, pooled)


def _pooled(arithmetic: Arithmetic, step: Any, value: Any, pool: Callable) -> Value:
    layer = step.operation
    x = _volume(arithmetic, step, value)
    depth = x.shape[1]
    size, strides, padding = layer.pool_size, layer.strides, layer.padding
    x = _shaped(arithmetic, x, x.shape[2:])
    x = pool(x, tuple(size[1:]), tuple(strides[1:]), padding)
    height, width, channels = x.shape[1:]
    x = _shaped(arithmetic, x, (depth, height * width, channels))
    x = pool(x, (size[0], 1), (strides[0], 1), padding)
    return _shaped(arithmetic, x, (x.shape[1], height, width, channels))


def _global_average(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    x = _flat_frames(arithmetic, step, value)
    result = averaged(arithmetic, step.name, x, [1, 2], step.operation.keepdims)
    return replace(result, after=lambda tensor: ops.expand_dims(tensor, 1)) if step.operation.keepdims else result


def _global_max(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    x = _flat_frames(arithmetic, step, value)
    channels = x.shape[-1]
    x = arithmetic.moved(ops.max_pool(x.tensor, x.shape[1:3], x.shape[1:3]), x.grid)
    return _shaped(arithmetic, x, (1, 1, 1, channels) if step.operation.keepdims else (channels,))


def _moving(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    x = _volume(arithmetic, step, value)
    return arithmetic.moved(step.operation(x.tensor), x.grid)


def _volume(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    check_channels_last(step)
    return arithmetic.quantized(value)


def _flat_frames(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    """Of shape (batch, depth, height * width, channels)."""
    x = _volume(arithmetic, step, value)
    return _shaped(arithmetic, x, (x.shape[1], math.prod(x.shape[2:4]), x.shape[4]))


def _shaped(arithmetic: Arithmetic, x: Value, shape: Sequence[int]) -> Value:
    return arithmetic.moved(ops.reshape(x.tensor, (-1, *shape)), x.grid)


VOLUME_LAYERS: dict[Any, Callable] = {
    _LAYERS.Conv3D: _convolution,
    _LAYERS.MaxPooling3D: _max_pooling,
    _LAYERS.AveragePooling3D: _average_pooling,
    _LAYERS.GlobalAveragePooling3D: _global_average,
    _LAYERS.GlobalMaxPooling3D: _global_max,
    _LAYERS.ZeroPadding3D: _moving,
    _LAYERS.Cropping3D: _moving,
}
