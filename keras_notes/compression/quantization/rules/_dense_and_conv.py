"""Rules for layers with weights: weighted sums, to which batch normalization and an activation can be fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.compression.quantization._evaluator import Evaluator, Operand, WeightedSum, Weights
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import apply_activation
from keras_notes.compression.quantization.rules._shapes import check_channels_last

__all__ = ["WEIGHTED_LAYERS", "affine", "matrix"]


def weighted_sum(
    evaluator: Evaluator,
    name: str,
    value: Operand,
    kernel: Tensor,
    bias: Tensor | None,
    channels: tuple[int, ...],
    apply: Callable[[Tensor, Tensor], Tensor],
    *,
    variable: keras.Variable | None,
    low_bits: bool = False,
) -> WeightedSum:
    """Creates a weighted sum of inputs; see `WeightedSum` and `Weights` for the arguments."""
    weights = Weights(name, ops.cast(kernel, "float32"), variable, channels, low_bits)
    bias = None if bias is None else ops.cast(bias, "float32")
    return WeightedSum(name, evaluator.to_grid(value), weights, bias, apply, evaluator)


def affine(evaluator: Evaluator, name: str, value: Operand, multiplier: Tensor, shift: Tensor) -> WeightedSum:
    """Computes multiplier * x + shift, with numbers for each channel, as a depthwise convolution of size 1."""
    x = evaluator.to_grid(evaluator.to_float(value))
    size = x.shape[-1]

    def apply(tensor: Tensor, kernel: Tensor) -> Tensor:
        shape = tuple(tensor.shape)
        square = ops.reshape(tensor, (-1, 1, math.prod(shape[1:-1]), size)) if len(shape) != 4 else tensor
        result = ops.depthwise_conv(square, kernel)
        return ops.reshape(result, (-1, *shape[1:])) if len(shape) != 4 else result

    kernel = ops.reshape(ops.broadcast_to(multiplier, (size,)), (1, 1, size, 1))
    bias = ops.broadcast_to(shift, (size,))
    return weighted_sum(evaluator, name, x, kernel, bias, (1, 1, size, 1), apply, variable=None)


def matrix(
    evaluator: Evaluator,
    name: str,
    value: Operand,
    kernel: Tensor,
    bias: Tensor | None,
    shape: Sequence[int] | None = None,
    *,
    variable: keras.Variable | None,
) -> WeightedSum:
    """Multiplies the last axes of a value by a matrix.

    The inputs are reshaped to a matrix first, because LiteRT adds the bias in the operator only to a matrix.

    Args:
        evaluator: Evaluator that calibrates, simulates or emits the step.
        name: Name of the point where the result is rounded, and of the weights.
        value: Inputs of shape (batch, ..., rows), or with several last axes that have `rows` elements together.
        kernel: Matrix of shape (rows, columns).
        bias: Vector of shape (columns,), or None.
        shape: Shape of the last axes of the result. Defaults to (columns,).
        variable: Variable that the kernel comes from; None for a constant or a matrix from several variables.
    """
    x = evaluator.to_grid(evaluator.to_float(value))
    rows, columns = kernel.shape
    outer: list[int] = []
    while math.prod((*outer, rows)) < math.prod(x.shape[1:]):
        outer.append(x.shape[1 + len(outer)])
    after = None
    if outer or shape or len(x.shape) != 2:
        x = evaluator.same_grid(ops.reshape(x.tensor, (-1, rows)), x.grid)
        result = (-1, *outer, *(shape or (columns,)))
        after = lambda tensor: ops.reshape(tensor, result)  # noqa: E731
    weights = Weights(name, ops.cast(kernel, "float32"), variable, (1, columns), low_bits=True)
    bias = None if bias is None else ops.cast(bias, "float32")
    channels_last = not shape or shape[-1] == columns
    return WeightedSum(name, x, weights, bias, ops.matmul, evaluator, after, channels_last=channels_last)


def _dense(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    result = matrix(evaluator, step.name, value, layer.kernel, layer.bias, variable=layer.kernel)
    return apply_activation(evaluator, step.name, result, layer.activation)


def _einsum_dense(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    """Computes a matrix product: x ends with the contracted axes, and the result with those of the kernel."""
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
    result = matrix(evaluator, step.name, value, kernel, bias, tuple(columns), variable=layer.kernel)
    return apply_activation(evaluator, step.name, result, layer.activation)


def _convolution(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    check_channels_last(step)
    x = evaluator.to_grid(value)
    padding = layer.padding
    if padding == "causal":
        x = evaluator.same_grid(ops.pad(x.tensor, layer._compute_causal_padding()), x.grid)
        padding = "valid"

    def apply(tensor: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv(tensor, kernel, strides=list(layer.strides), padding=padding, dilation_rate=layer.dilation_rate)

    channels = (*(1,) * (layer.rank + 1), layer.filters)
    result = weighted_sum(
        evaluator,
        step.name,
        x,
        layer.kernel,
        layer.bias,
        channels,
        apply,
        variable=layer.kernel,
        low_bits=layer.rank == 2,
    )
    return apply_activation(evaluator, step.name, result, layer.activation)


def _depthwise(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    check_channels_last(step)
    result = _convolve_depthwise(evaluator, step.name, layer, value, layer.kernel, layer.bias)
    return apply_activation(evaluator, step.name, result, layer.activation)


def _convolve_depthwise(
    evaluator: Evaluator, name: str, layer: keras.Layer, value: Operand, kernel: keras.Variable, bias: Tensor | None
) -> WeightedSum:
    """Computes a depthwise layer, or the first half of a separable one."""

    def apply(tensor: Tensor, weights: Tensor) -> Tensor:
        return ops.depthwise_conv(
            tensor, weights, strides=layer.strides, padding=layer.padding, dilation_rate=layer.dilation_rate
        )

    channels = (*(1,) * layer.rank, *kernel.shape[-2:])
    return weighted_sum(evaluator, name, value, kernel, bias, channels, apply, variable=kernel)


def _separable(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    check_channels_last(step)

    def pointwise(tensor: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv(tensor, kernel, strides=1, padding="valid")

    spread = _convolve_depthwise(evaluator, f"{step.name}/depthwise", layer, value, layer.depthwise_kernel, None)
    channels = (*(1,) * (layer.rank + 1), layer.filters)
    kernel = layer.pointwise_kernel
    result = weighted_sum(evaluator, step.name, spread, kernel, layer.bias, channels, pointwise, variable=kernel)
    return apply_activation(evaluator, step.name, result, layer.activation)


def _transposed(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    check_channels_last(step)

    def apply(tensor: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv_transpose(
            tensor,
            kernel,
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation_rate=layer.dilation_rate,
        )

    channels = (*(1,) * layer.rank, layer.filters, 1)
    kernel = layer.kernel
    result = weighted_sum(evaluator, step.name, value, kernel, layer.bias, channels, apply, variable=kernel)
    return apply_activation(evaluator, step.name, result, layer.activation)


def _batch_normalization(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    foldable = value if isinstance(value, WeightedSum) and value.is_per_channel(layer.moving_mean.shape) else None
    if foldable is not None:
        _check_last_axis(step, layer.input_spec.ndim)
        if (live := evaluator.batch_statistics(step.name, layer, foldable)) is not None:
            return live
    multiplier = ops.rsqrt(ops.cast(layer.moving_variance, "float32") + layer.epsilon)
    multiplier = multiplier if layer.gamma is None else multiplier * layer.gamma
    shift = -layer.moving_mean * multiplier
    shift = shift if layer.beta is None else shift + layer.beta
    if foldable is not None:
        return foldable.scaled(step.name, multiplier, shift)
    _check_last_axis(step, len(evaluator.to_grid(value).shape))
    return affine(evaluator, step.name, value, multiplier, shift)


def _rescaling(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    scale = ops.convert_to_tensor(layer.scale, "float32")
    return affine(evaluator, step.name, value, scale, ops.convert_to_tensor(layer.offset, "float32"))


def _normalization(evaluator: Evaluator, step: Step, value: Operand) -> Operand:
    layer = step.operation
    x = evaluator.to_grid(evaluator.to_float(value))
    _check_last_axis(step, len(x.shape), (layer.axis or (-1,))[-1])
    deviation = ops.maximum(ops.sqrt(ops.reshape(layer.variance, (-1,))), keras.backend.epsilon())
    multiplier = deviation if layer.invert else 1.0 / deviation
    mean = ops.reshape(layer.mean, (-1,))
    return affine(evaluator, step.name, x, multiplier, mean if layer.invert else -mean * multiplier)


def _check_last_axis(step: Step, rank: int, axis: int | None = None) -> None:
    axis = step.operation.axis if axis is None else axis
    if axis not in (-1, rank - 1):
        raise ValueError(
            f"A normalization must be of the last axis. Received: {step.name!r} with axis={axis}. Give it in `skip`."
        )


_LAYERS = keras.layers
WEIGHTED_LAYERS: dict[type[keras.Layer], Rule] = {
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
