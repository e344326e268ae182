"""What moves values without computing new ones, or takes their largest: the result lies on the grid of the input."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_notes.compression.quantization._evaluator import Arithmetic, Pending, Product, Value, is_result, several
from keras_notes.compression.quantization.rules._activations import subtracted

__all__ = ["SHAPE_LAYERS", "SHAPE_OPERATIONS", "averaged", "check_channels_last", "concatenated"]

_LAYERS = keras.layers


def concatenated(arithmetic: Arithmetic, name: str, values: Sequence[Any], axis: int) -> Value:
    """Values side by side, on one grid; what is still pending is rounded to it at once."""
    return _on_one_grid(arithmetic, name, values, lambda tensors: ops.concatenate(tensors, axis=axis))


def averaged(arithmetic: Arithmetic, name: str, value: Any, axis: Any, keepdims: bool) -> Pending:
    """The mean over some axes."""
    x = arithmetic.quantized(value)
    return Pending(name, lambda: ops.mean(x.tensor, axis=axis, keepdims=keepdims))


def check_channels_last(step: Any) -> None:
    """Raises ValueError if a layer has its channels elsewhere."""
    data_format = getattr(step.operation, "data_format", "channels_last")
    if data_format != "channels_last":
        raise ValueError(
            f"A layer must have its channels last, as the device has. Received: {step.name!r} with "
            f"data_format={data_format!r}. Rebuild it with data_format='channels_last'."
        )


def _on_one_grid(arithmetic: Arithmetic, name: str, values: Sequence[Any], function: Callable) -> Value:
    if arithmetic.format is None:
        return Value(function([arithmetic.settled(value).tensor for value in values]))
    rounded = [
        arithmetic.settled(value, name)
        if isinstance(value, (Pending, Product)) and value.fixed is None and value.after is None
        else arithmetic.on_grid_of(arithmetic.quantized(value), name)
        for value in values
    ]
    return arithmetic.moved(function([value.tensor for value in rounded]), rounded[-1].grid)


def _moving(arithmetic: Arithmetic, step: Any, value: Any, *args: Any, **kwargs: Any) -> Value:
    x = arithmetic.quantized(value)
    return arithmetic.moved(step.operation(x.tensor, *args, **kwargs), x.grid)


def _average_pooling(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    return arithmetic.average(arithmetic.quantized(value), step.operation, half="away")


def _same(arithmetic: Arithmetic, step: Any, value: Any, **kwargs: Any) -> Any:
    return value


def _random(arithmetic: Arithmetic, step: Any, value: Any, **kwargs: Any) -> Any:
    """Layers that do nothing but in training."""
    if not arithmetic.training:
        return value
    x = arithmetic.settled(value)
    return Value(step.operation(x.tensor, training=True), x.grid, x.name or step.name)


def _global_average(arithmetic: Arithmetic, step: Any, value: Any) -> Pending:
    layer = step.operation
    axes = list(range(1, len(_shape(arithmetic, value)) - 1))
    return averaged(arithmetic, step.name, value, axes, layer.keepdims)


def _global_max(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    """By one pooling window: REDUCE_MAX stays in floating point."""
    x = arithmetic.quantized(value)
    size = x.shape[1:-1]
    pooled = ops.max_pool(x.tensor, size, strides=size)
    if not step.operation.keepdims:
        pooled = ops.reshape(pooled, (-1, x.shape[-1]))
    return arithmetic.moved(pooled, x.grid)


def _up_sampling(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    layer = step.operation
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return arithmetic.average(arithmetic.quantized(value), layer, half="up")
    check_channels_last(step)
    x = arithmetic.quantized(value)
    sizes = (layer.size,) if isinstance(layer.size, int) else layer.size
    for axis, size in enumerate(sizes, 1):
        x = _repeated(arithmetic, x, size, axis)
    return x


def _repeat_vector(arithmetic: Arithmetic, step: Any, value: Any) -> Value:
    x = arithmetic.quantized(value)
    return arithmetic.moved(ops.stack([x.tensor] * step.operation.n, axis=1), x.grid)


def _repeated(arithmetic: Arithmetic, x: Value, times: int, axis: int) -> Value:
    """By stacking copies: LiteRT's quantizer leaves TILE in floating point."""
    shape = [-1, *x.shape[1:]]
    rows = arithmetic.moved(
        ops.reshape(x.tensor, (-1, math.prod(shape[1 : axis + 1]), math.prod(shape[axis + 1 :]))), x.grid
    )
    shape[axis] *= times
    stacked = arithmetic.moved(ops.stack([rows.tensor] * times, axis=2), x.grid)
    return arithmetic.moved(ops.reshape(stacked.tensor, shape), x.grid)


def _concatenate(arithmetic: Arithmetic, step: Any, values: Sequence[Any]) -> Value:
    return concatenated(arithmetic, step.name, values, step.operation.axis)


def _stack(arithmetic: Arithmetic, step: Any, values: Sequence[Any]) -> Value:
    return _on_one_grid(arithmetic, step.name, values, lambda tensors: ops.stack(tensors, axis=step.operation.axis))


def _maximum(arithmetic: Arithmetic, step: Any, *values: Any) -> Value:
    """The largest of several, which LiteRT wants on one grid."""
    given = [one if is_result(one) else arithmetic.constant(one, step.name) for one in several(values)]
    return _on_one_grid(arithmetic, step.name, given, lambda tensors: functools.reduce(ops.maximum, tensors))


def _minimum(arithmetic: Arithmetic, step: Any, *values: Any) -> Any:
    """As a - relu(a - b): LiteRT's quantizer leaves MINIMUM in floating point."""
    given = several(values)
    result = given[0]
    for number, other in enumerate(given[1:], 1):
        name = step.name if number == len(given) - 1 else f"{step.name}/{number}"
        result = _smaller(arithmetic, name, result, other)
    return result


def _smaller(arithmetic: Arithmetic, name: str, a: Any, b: Any) -> Pending:
    x, y = (arithmetic.operand(one, name) for one in (a, b))
    excess = arithmetic.settled(subtracted(arithmetic, f"{name}/excess", x, y).then(f"{name}/excess", ops.relu))
    return subtracted(arithmetic, name, x, excess)


def _where(arithmetic: Arithmetic, step: Any, condition: Any, *values: Any) -> Value:
    mask = condition.tensor if isinstance(condition, Value) else condition
    given = [one if is_result(one) else arithmetic.constant(one, step.name) for one in values]
    return _on_one_grid(arithmetic, step.name, given, lambda tensors: ops.where(mask, *tensors))


def _split(arithmetic: Arithmetic, step: Any, value: Any, *args: Any, **kwargs: Any) -> list[Value]:
    x = arithmetic.quantized(value)
    parts = step.operation(x.tensor, *args, **kwargs)
    return [arithmetic.moved(part, x.grid) for part in parts]


def _pad(arithmetic: Arithmetic, step: Any, value: Any, constant_values: Any = None) -> Value:
    if step.operation.mode != "constant" or constant_values not in (None, 0, 0.0):
        raise ValueError(f"Padding must be by zeros. Received: {step.name!r}. Give it in `skip`.")
    return _moving(arithmetic, step, value)


def _embedding(arithmetic: Arithmetic, step: Any, ids: Any) -> Value:
    """A gathering of rows of the table, which is on a grid of its own."""
    table = arithmetic.constant(step.operation.embeddings, step.name)
    indices = ops.cast(ids.tensor if isinstance(ids, Value) else ids, "int32")
    return arithmetic.moved(ops.take(table.tensor, indices, axis=0), table.grid)


def _shape(arithmetic: Arithmetic, value: Any) -> tuple[int | None, ...]:
    return arithmetic.settled(value).shape


_MOVING = (
    _LAYERS.Flatten, _LAYERS.Reshape, _LAYERS.Permute,
    _LAYERS.Cropping1D, _LAYERS.Cropping2D, _LAYERS.ZeroPadding1D, _LAYERS.ZeroPadding2D,
    _LAYERS.MaxPooling1D, _LAYERS.MaxPooling2D,
)  # fmt: skip
_RANDOM = (
    _LAYERS.Dropout, _LAYERS.SpatialDropout1D, _LAYERS.SpatialDropout2D, _LAYERS.SpatialDropout3D,
    _LAYERS.GaussianDropout, _LAYERS.GaussianNoise, _LAYERS.AlphaDropout, _LAYERS.ActivityRegularization,
)  # fmt: skip

SHAPE_LAYERS: dict[Any, Callable] = {
    **dict.fromkeys(_MOVING, _moving),
    _LAYERS.AveragePooling1D: _average_pooling,
    _LAYERS.AveragePooling2D: _average_pooling,
    **dict.fromkeys(_RANDOM, _random),
    _LAYERS.Identity: _same,
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
    _LAYERS.RepeatVector: _repeat_vector,
    _LAYERS.Embedding: _embedding,
}

# By the names of their classes, which Keras does not export.
_MOVING_OPERATIONS = (
    "Reshape", "Transpose", "Squeeze", "ExpandDims", "GetItem", "Ravel", "BroadcastTo", "Swapaxes", "Moveaxis",
    "MaxPool",
)  # fmt: skip
SHAPE_OPERATIONS: dict[str, Callable] = {
    **dict.fromkeys(_MOVING_OPERATIONS, _moving),
    "Concatenate": _concatenate,
    "Stack": _stack,
    "Split": _split,
    "Unstack": _split,
    "Maximum": _maximum,
    "Minimum": _minimum,
    "Where": _where,
    "Pad": _pad,
}
