"""Layers with weights, as products that batch normalization and an activation can be fused to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_notes.compression.quantization._evaluator import Arithmetic, Product, Weights
from keras_notes.compression.quantization.rules._activations import activated
from keras_notes.compression.quantization.rules._shapes import check_channels_last

__all__ = ["WEIGHTED_LAYERS", "affine", "matrix"]


def product(
    arithmetic: Arithmetic,
    name: str,
    value: Any,
    kernel: Any,
    bias: Any,
    channels: tuple[int, ...],
    apply: Callable,
    low_bits: bool = False,
    weights_name: str | None = None,
) -> Product:
    """A product of inputs and weights that is still to be computed."""
    weights = Weights(weights_name or name, ops.cast(kernel, "float32"), channels, low_bits)
    bias = None if bias is None else ops.cast(bias, "float32")
    return Product(name, arithmetic.quantized(value), weights, bias, apply, arithmetic)


def affine(arithmetic: Arithmetic, name: str, value: Any, multiplier: Any, shift: Any) -> Product:
    """Multiplier * x + shift with a number for each channel, as a convolution of size 1 that mixes none of them."""
    x = arithmetic.quantized(arithmetic.floating(value))
    size = x.shape[-1]

    def apply(tensor, kernel):
        shape = tuple(tensor.shape)
        square = ops.reshape(tensor, (-1, 1, math.prod(shape[1:-1]), size)) if len(shape) != 4 else tensor
        result = ops.depthwise_conv(square, kernel)
        return ops.reshape(result, (-1, *shape[1:])) if len(shape) != 4 else result

    kernel = ops.reshape(ops.broadcast_to(multiplier, (size,)), (1, 1, size, 1))
    return product(arithmetic, name, x, kernel, ops.broadcast_to(shift, (size,)), (1, 1, size, 1), apply)


def matrix(arithmetic: Arithmetic, name: str, value: Any, kernel: Any, bias: Any, shape: Any = None) -> Product:
    """A product with a matrix over the last axes.

    The inputs become a matrix before, so that the bias is added to one, which LiteRT has in the operator.

    Args:
        arithmetic: Who computes.
        name: Of the point.
        value: Inputs of shape (batch, ..., rows), or several last axes of as many elements.
        kernel: Of shape (rows, columns).
        bias: Of shape (columns,), or None.
        shape: The last axes of the result. Defaults to (columns,).
    """
    x = arithmetic.quantized(arithmetic.floating(value))
    rows, columns = kernel.shape
    outer: list[int] = []
    while math.prod((*outer, rows)) < math.prod(x.shape[1:]):
        outer.append(x.shape[1 + len(outer)])
    after = None
    if outer or shape or len(x.shape) != 2:
        x = arithmetic.moved(ops.reshape(x.tensor, (-1, rows)), x.grid)
        result = (-1, *outer, *(shape or (columns,)))
        after = lambda tensor: ops.reshape(tensor, result)  # noqa: E731
    weights = Weights(name, ops.cast(kernel, "float32"), (1, columns), low_bits=True)
    bias = None if bias is None else ops.cast(bias, "float32")
    channels_last = not shape or shape[-1] == columns
    return Product(name, x, weights, bias, ops.matmul, arithmetic, after, channels_last=channels_last)


def _dense(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    result = matrix(arithmetic, step.name, value, layer.kernel, layer.bias)
    return activated(arithmetic, step.name, result, layer.activation)


def _einsum_dense(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    """As a matrix product where the contracted axes are the last of x and the first of the kernel."""
    layer = step.operation
    letters, rest = layer.equation.replace("...", "").replace(" ", "").split(",")
    kernel_letters, result_letters = rest.split("->")
    summed = [letter for letter in kernel_letters if letter not in result_letters]
    kept = [letter for letter in kernel_letters if letter in result_letters]
    sizes = dict(zip(kernel_letters, layer.kernel.shape, strict=True))
    matches = letters.endswith("".join(summed)) and result_letters == letters[: -len(summed)] + "".join(kept)
    if not summed or not matches or "..." in layer.equation or set(kept) & set(letters):
        raise ValueError(
            f"An EinsumDense must contract the last axes of its input, and give those of the kernel last, to be a "
            f"matrix product. Received: {step.name!r} with {layer.equation!r}. Give it in `skip`."
        )
    order = [kernel_letters.index(letter) for letter in (*summed, *kept)]
    columns = [sizes[letter] for letter in kept]
    kernel = ops.reshape(
        ops.transpose(layer.kernel, order), (math.prod(sizes[letter] for letter in summed), math.prod(columns))
    )
    bias = None
    if layer.bias is not None:
        bias = ops.reshape(ops.broadcast_to(layer.bias, columns), (-1,))
    result = matrix(arithmetic, step.name, value, kernel, bias, tuple(columns))
    return activated(arithmetic, step.name, result, layer.activation)


def _convolution(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    check_channels_last(step)
    x = arithmetic.quantized(value)
    padding = layer.padding
    if padding == "causal":
        x = arithmetic.moved(ops.pad(x.tensor, layer._compute_causal_padding()), x.grid)
        padding = "valid"

    def apply(tensor, kernel):
        return ops.conv(tensor, kernel, strides=list(layer.strides), padding=padding, dilation_rate=layer.dilation_rate)

    channels = (*(1,) * (layer.rank + 1), layer.filters)
    low_bits = layer.rank == 2
    result = product(arithmetic, step.name, x, layer.kernel, layer.bias, channels, apply, low_bits)
    return activated(arithmetic, step.name, result, layer.activation)


def _depthwise(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    check_channels_last(step)

    result = _each_channel(arithmetic, step.name, layer, value, layer.kernel, layer.bias)
    return activated(arithmetic, step.name, result, layer.activation)


def _each_channel(arithmetic: Arithmetic, name: str, layer: Any, value: Any, kernel: Any, bias: Any) -> Product:
    """A convolution that mixes no channels, as a depthwise layer or the first half of a separable one sets it."""

    def apply(tensor, weights):
        return ops.depthwise_conv(
            tensor, weights, strides=layer.strides, padding=layer.padding, dilation_rate=layer.dilation_rate
        )

    channels = (*(1,) * layer.rank, *kernel.shape[-2:])
    return product(arithmetic, name, value, kernel, bias, channels, apply)


def _separable(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    check_channels_last(step)

    def pointwise(tensor, kernel):
        return ops.conv(tensor, kernel, strides=1, padding="valid")

    spread = _each_channel(arithmetic, f"{step.name}/depthwise", layer, value, layer.depthwise_kernel, None)
    channels = (*(1,) * (layer.rank + 1), layer.filters)
    result = product(arithmetic, step.name, spread, layer.pointwise_kernel, layer.bias, channels, pointwise)
    return activated(arithmetic, step.name, result, layer.activation)


def _transposed(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    check_channels_last(step)

    def apply(tensor, kernel):
        return ops.conv_transpose(
            tensor,
            kernel,
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation_rate=layer.dilation_rate,
        )

    channels = (*(1,) * layer.rank, layer.filters, 1)
    result = product(arithmetic, step.name, value, layer.kernel, layer.bias, channels, apply)
    return activated(arithmetic, step.name, result, layer.activation)


def _batch_normalization(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    foldable = isinstance(value, Product) and value.is_per_channel(layer.moving_mean.shape)
    if foldable:
        _check_last_axis(step, layer.input_spec.ndim)
    if foldable and (live := arithmetic.batch_statistics(step.name, layer, value)) is not None:
        return live
    multiplier = ops.rsqrt(ops.cast(layer.moving_variance, "float32") + layer.epsilon)
    multiplier = multiplier if layer.gamma is None else multiplier * layer.gamma
    shift = -layer.moving_mean * multiplier
    shift = shift if layer.beta is None else shift + layer.beta
    if foldable:
        return value.scaled(step.name, multiplier, shift)
    _check_last_axis(step, len(arithmetic.quantized(value).shape))
    return affine(arithmetic, step.name, value, multiplier, shift)


def _rescaling(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    scale = ops.convert_to_tensor(layer.scale, "float32")
    return affine(arithmetic, step.name, value, scale, ops.convert_to_tensor(layer.offset, "float32"))


def _normalization(arithmetic: Arithmetic, step: Any, value: Any) -> Any:
    layer = step.operation
    x = arithmetic.quantized(arithmetic.floating(value))
    _check_last_axis(step, len(x.shape), (layer.axis or (-1,))[-1])
    deviation = ops.maximum(ops.sqrt(ops.reshape(layer.variance, (-1,))), keras.backend.epsilon())
    multiplier = deviation if layer.invert else 1.0 / deviation
    mean = ops.reshape(layer.mean, (-1,))
    return affine(arithmetic, step.name, x, multiplier, mean if layer.invert else -mean * multiplier)


def _check_last_axis(step: Any, rank: int, axis: int | None = None) -> None:
    axis = step.operation.axis if axis is None else axis
    if axis not in (-1, rank - 1):
        raise ValueError(
            f"A normalization must be of the last axis. Received: {step.name!r} with axis={axis}. Give it in `skip`."
        )


_LAYERS = keras.layers
WEIGHTED_LAYERS: dict[Any, Callable] = {
    _LAYERS.Dense: _dense,
    _LAYERS.EinsumDense: _einsum_dense,
    _LAYERS.Conv1D: _convolution,
    _LAYERS.Conv2D: _convolution,
    _LAYERS.DepthwiseConv1D: _depthwise,
    _LAYERS.DepthwiseConv2D: _depthwise,
    _LAYERS.SeparableConv1D: _separable,
    _LAYERS.SeparableConv2D: _separable,
    _LAYERS.Conv1DTranspose: _transposed,
    _LAYERS.Conv2DTranspose: _transposed,
    _LAYERS.BatchNormalization: _batch_normalization,
    _LAYERS.Rescaling: _rescaling,
    _LAYERS.Normalization: _normalization,
}
