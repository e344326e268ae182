"""Rules for layers and operations that rearrange, select or average values, mostly on the grid of their input."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import keras
from keras import ops, tree

from keras_notes._shared.models.layer_forms import up_sample_nearest
from keras_notes._shared.types import Tensor, Tree
from keras_notes.compression.quantization._evaluator import (
    Evaluator,
    Operand,
    OperandOrConstant,
    Rounded,
    Unrounded,
    Weights,
    is_operand,
    operands_of,
    tensor_of,
)
from keras_notes.compression.quantization._tracer import Step
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import subtract

__all__ = ["SHAPE_LAYERS", "SHAPE_OPERATIONS", "check_channels_last", "concatenate", "reduce_mean"]

_LAYERS = keras.layers
# The grid from 0 to 1, as scale and zero point by bits.
_ZERO_TO_ONE = {8: (1.0 / 255.0, -128), 16: (1.0 / 32767.0, 0)}


def concatenate(evaluator: Evaluator, name: str, values: Sequence[Operand], axis: int) -> Rounded:
    """Concatenates values on a common grid; values that are not rounded yet are rounded to it directly."""
    return _join(evaluator, name, values, lambda tensors: ops.concatenate(tensors, axis=axis))


def reduce_mean(evaluator: Evaluator, name: str, value: Operand, axis: Tree, keepdims: bool) -> Unrounded:
    """Averages a value over some axes."""
    x = evaluator.to_grid(value)
    compute = lambda: ops.mean(x.tensor, axis=axis, keepdims=keepdims)  # noqa: E731
    if x.grid is None:
        return Unrounded(name, compute)
    axes = range(1, len(x.shape)) if axis is None else tree.flatten(axis)
    finest = x.grid.scale / math.prod(x.shape[number] for number in axes)  # that of the sum
    return Unrounded(name, compute, finest=lambda: finest)


def check_channels_last(step: Step) -> None:
    """Raises ValueError if the channels of a layer are not its last axis."""
    data_format = getattr(step.operation, "data_format", "channels_last")
    if data_format != "channels_last":
        raise ValueError(
            f"A layer must have its channels last, as the operators of the device do. Received: {step.name!r} with "
            f"data_format={data_format!r}. Rebuild it with data_format='channels_last'."
        )


def _join(
    evaluator: Evaluator, name: str, values: Sequence[Operand], function: Callable[[list[Tensor]], Tensor]
) -> Rounded:
    """Rounds values to a common grid, the one of the point `name`, and joins them."""
    if evaluator.format is None:
        return Rounded(function([evaluator.materialize(value).tensor for value in values]))
    operands = [value if _can_be_rounded(value) else evaluator.to_grid(value) for value in values]
    for operand in operands:
        evaluator.widen(name, operand)
    rounded = [
        evaluator.requantize(operand, name) if isinstance(operand, Rounded) else evaluator.materialize(operand, name)
        for operand in operands
    ]
    return evaluator.same_grid(function([value.tensor for value in rounded]), rounded[-1].grid)


def _can_be_rounded(value: Operand) -> bool:
    """Whether a value is not rounded yet, and can be rounded to any grid."""
    return not isinstance(value, Rounded) and value.fixed is None and value.after is None


def _rearrange(evaluator: Evaluator, step: Step, value: Operand, *args: Tree, **kwargs: Tree) -> Rounded:
    x = evaluator.to_grid(value)
    return evaluator.same_grid(step.operation(x.tensor, *args, **kwargs), x.grid)


def _average_pooling(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    return evaluator.average(evaluator.to_grid(value), step.operation, half="away")


def _identity(evaluator: Evaluator, step: Step, value: Operand, **kwargs: Tree) -> Operand:
    return value


def _random(evaluator: Evaluator, step: Step, value: Operand, **kwargs: Tree) -> Operand:
    """Computes a layer that changes its inputs in training only."""
    if not evaluator.training:
        return value
    x = evaluator.materialize(value)
    return Rounded(step.operation(x.tensor, training=True), x.grid, x.name or step.name)


def _global_average(evaluator: Evaluator, step: Step, value: Operand) -> Unrounded:
    layer = step.operation
    axes = list(range(1, len(evaluator.materialize(value).shape) - 1))
    return reduce_mean(evaluator, step.name, value, axes, layer.keepdims)


def _global_max(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    """Pools with a single window: LiteRT's quantizer leaves REDUCE_MAX in floating point."""
    x = evaluator.to_grid(value)
    size = x.shape[1:-1]
    pooled = ops.max_pool(x.tensor, size, strides=size)
    if not step.operation.keepdims:
        pooled = ops.reshape(pooled, (-1, x.shape[-1]))
    return evaluator.same_grid(pooled, x.grid)


def _up_sampling(evaluator: Evaluator, step: Step, value: Operand) -> Rounded:
    layer = step.operation
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return evaluator.average(evaluator.to_grid(value), layer, half="up")
    check_channels_last(step)
    x = evaluator.to_grid(value)
    sizes = (layer.size,) if isinstance(layer.size, int) else layer.size
    return evaluator.same_grid(up_sample_nearest(x.tensor, sizes), x.grid)


def _top_k(evaluator: Evaluator, step: Step, value: Operand) -> list[Operand]:
    """Gives the largest values on their grid, and their indices."""
    x = evaluator.to_grid(value)
    values, indices = step.operation(x.tensor)
    return [evaluator.same_grid(values, x.grid), Rounded(indices)]


def _concatenate(evaluator: Evaluator, step: Step, values: Sequence[Operand]) -> Rounded:
    return concatenate(evaluator, step.name, values, step.operation.axis)


def _stack(evaluator: Evaluator, step: Step, values: Sequence[Operand]) -> Rounded:
    return _join(evaluator, step.name, values, lambda tensors: ops.stack(tensors, axis=step.operation.axis))


def _maximum(evaluator: Evaluator, step: Step, *values: OperandOrConstant) -> Rounded:
    """Computes the maximum of several values, which LiteRT requires on a common grid."""
    operands = _operands(evaluator, step, operands_of(values))
    return _join(evaluator, step.name, operands, lambda tensors: functools.reduce(ops.maximum, tensors))


def _minimum(evaluator: Evaluator, step: Step, *values: OperandOrConstant) -> Operand:
    """Computes the minimum as a - relu(a - b): LiteRT's quantizer leaves MINIMUM in floating point."""
    operands = operands_of(values)
    result = operands[0]
    for number, operand in enumerate(operands[1:], 1):
        name = step.name if number == len(operands) - 1 else f"{step.name}/{number}"
        result = _minimum_of_two(evaluator, name, result, operand)
    return result


def _minimum_of_two(evaluator: Evaluator, name: str, a: OperandOrConstant, b: OperandOrConstant) -> Unrounded:
    x, y = (evaluator.operand(value, name) for value in (a, b))
    excess = evaluator.materialize(subtract(evaluator, f"{name}/excess", x, y).then(f"{name}/excess", ops.relu))
    return subtract(evaluator, name, x, excess)


def _where(evaluator: Evaluator, step: Step, condition: OperandOrConstant, *values: OperandOrConstant) -> Rounded:
    mask = tensor_of(condition)
    operands = _operands(evaluator, step, values)
    return _join(evaluator, step.name, operands, lambda tensors: ops.where(mask, *tensors))


def _operands(evaluator: Evaluator, step: Step, values: Sequence[OperandOrConstant]) -> list[Operand]:
    """Returns operands as they are, and constants rounded on grids of their own."""
    return [value if is_operand(value) else evaluator.constant(value, step.name) for value in values]


def _split(evaluator: Evaluator, step: Step, value: Operand, *args: Tree, **kwargs: Tree) -> list[Operand]:
    x = evaluator.to_grid(value)
    parts = step.operation(x.tensor, *args, **kwargs)
    return [evaluator.same_grid(part, x.grid) for part in parts]


def _pad(evaluator: Evaluator, step: Step, value: Operand, constant_values: float | None = None) -> Rounded:
    if step.operation.mode != "constant" or constant_values not in (None, 0, 0.0):
        raise ValueError(f"Padding must be by zeros. Received: {step.name!r}. Give it in `skip`.")
    return _rearrange(evaluator, step, value)


def _one_hot(evaluator: Evaluator, step: Step, ids: OperandOrConstant, *args: Tree, **kwargs: Tree) -> Unrounded:
    """Gives ones and zeros, which are exact on a grid from 0 to 1."""
    indices = tensor_of(ids)
    return Unrounded(step.name, lambda: step.operation(indices, *args, **kwargs), fixed=_ZERO_TO_ONE)


def _embedding(evaluator: Evaluator, step: Step, ids: OperandOrConstant) -> Rounded:
    """Gathers rows of the table, which has a grid of its own.

    The device stores the table as weights: beside activations in int16 in int8, and beside those in floating point with
    a scale for each row.
    """
    variable = step.operation.embeddings
    kernel = ops.convert_to_tensor(variable, "float32")
    if evaluator.format is None or evaluator.format.bits == 16:
        channels = (variable.shape[0] if evaluator.format is None else 1, 1)
        kernel, _ = evaluator.quantize_weights(Weights(f"{step.name}/table", kernel, variable, channels))
    table = evaluator.constant(kernel, step.name)
    indices = ops.cast(tensor_of(ids), "int32")
    return evaluator.same_grid(ops.take(table.tensor, indices, axis=0), table.grid)


_REARRANGING = (
    _LAYERS.Flatten, _LAYERS.Reshape, _LAYERS.Permute,
    _LAYERS.Cropping1D, _LAYERS.Cropping2D, _LAYERS.ZeroPadding1D, _LAYERS.ZeroPadding2D,
    _LAYERS.MaxPooling1D, _LAYERS.MaxPooling2D, _LAYERS.RepeatVector,
)  # fmt: skip
_RANDOM = (
    _LAYERS.Dropout, _LAYERS.SpatialDropout1D, _LAYERS.SpatialDropout2D, _LAYERS.SpatialDropout3D,
    _LAYERS.GaussianDropout, _LAYERS.GaussianNoise, _LAYERS.AlphaDropout, _LAYERS.ActivityRegularization,
    _LAYERS.AugMix, _LAYERS.CutMix, _LAYERS.MixUp, _LAYERS.RandAugment, _LAYERS.RandomBrightness,
    _LAYERS.RandomColorDegeneration, _LAYERS.RandomColorJitter, _LAYERS.RandomContrast,
    _LAYERS.RandomElasticTransform, _LAYERS.RandomErasing, _LAYERS.RandomFlip, _LAYERS.RandomGaussianBlur,
    _LAYERS.RandomGrayscale, _LAYERS.RandomHue, _LAYERS.RandomInvert, _LAYERS.RandomPerspective,
    _LAYERS.RandomPosterization, _LAYERS.RandomRotation, _LAYERS.RandomSaturation, _LAYERS.RandomSharpness,
    _LAYERS.RandomShear, _LAYERS.RandomTranslation, _LAYERS.RandomZoom,
)  # fmt: skip

SHAPE_LAYERS: dict[type[keras.Layer], Rule] = {
    **dict.fromkeys(_REARRANGING, _rearrange),
    _LAYERS.AveragePooling1D: _average_pooling,
    _LAYERS.AveragePooling2D: _average_pooling,
    **dict.fromkeys(_RANDOM, _random),
    _LAYERS.Identity: _identity,
    _LAYERS.GlobalAveragePooling1D: _global_average,
    _LAYERS.GlobalAveragePooling2D: _global_average,
    _LAYERS.GlobalMaxPooling1D: _global_max,
    _LAYERS.GlobalMaxPooling2D: _global_max,
    _LAYERS.UpSampling1D: _up_sampling,
    _LAYERS.UpSampling2D: _up_sampling,
    _LAYERS.UpSampling3D: _up_sampling,
    _LAYERS.Concatenate: _concatenate,
    _LAYERS.Maximum: _maximum,
    _LAYERS.Minimum: _minimum,
    _LAYERS.Embedding: _embedding,
}

# Rules by the names of operation classes, which Keras does not export.
_REARRANGING_OPERATIONS = (
    "Reshape", "Transpose", "Squeeze", "ExpandDims", "GetItem", "Ravel", "BroadcastTo", "Swapaxes", "Moveaxis",
    "MaxPool", "Max", "Min", "Repeat", "Tile", "Sort",
)  # fmt: skip
SHAPE_OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(_REARRANGING_OPERATIONS, _rearrange),
    "Concatenate": _concatenate,
    "Stack": _stack,
    "Split": _split,
    "Unstack": _split,
    "Maximum": _maximum,
    "Minimum": _minimum,
    "Where": _where,
    "Pad": _pad,
    "TopK": _top_k,
    "OneHot": _one_hot,
}
