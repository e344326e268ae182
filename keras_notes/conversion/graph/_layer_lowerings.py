"""Lowerings of layers for the deploy graph: the same values, in operators that LiteRT's converter can quantize.

The trained model is not changed: a layer's `call` is replaced while its graph is traced.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import keras
from keras import ops

from keras_notes._shared.keras_internals import half_precision_attributes
from keras_notes._shared.models.layer_forms import call_time_distributed, up_sample_nearest
from keras_notes._shared.models.layer_patching import patch_call
from keras_notes._shared.types import Tensor
from keras_notes.conversion.graph._recurrent_lowerings import lower_recurrent
from keras_notes.layers import OneHot, one_hot

__all__ = ["lower_layers", "use_full_precision"]


@contextlib.contextmanager
def lower_layers(layers: Iterable[keras.Layer], *, recurrent: Mapping[int, str]) -> Iterator[None]:
    """Lets each layer compute the operators that are converted, while the block runs.

    Args:
        layers: Every layer of a model, nested ones too.
        recurrent: The form of each recurrent layer, by the `id` of the layer: see _recurrent_lowerings.py.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers:
            for layer_class, lowering in _LOWERINGS.items():
                if type(layer) is layer_class:
                    stack.enter_context(patch_call(layer, functools.partial(lowering, layer)))
            if isinstance(layer, keras.layers.RNN):
                stack.enter_context(lower_recurrent(layer, recurrent.get(id(layer))))
        yield


@contextlib.contextmanager
def use_full_precision(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Lets layers in half precision compute in float32, as a file does, while the block runs."""
    attributes = half_precision_attributes(layers)
    before = [getattr(part, name) for part, name, _ in attributes]
    for part, name, value in attributes:
        setattr(part, name, value)
    try:
        yield
    finally:
        for (part, name, _), value in zip(attributes, before, strict=True):
            setattr(part, name, value)


def _layer_normalization(layer: keras.layers.LayerNormalization, inputs: Tensor) -> Tensor:
    """Computes (x - mean) / sqrt(variance + epsilon) * gamma + beta, without the negation that Keras's has.

    NEG has no integer kernel: with it, int8 keeps islands in floating point and int16x8 does not convert.
    """
    x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    deviation = x if layer.rms_scaling else x - ops.mean(x, axis=layer.axis, keepdims=True)
    normalized = deviation * ops.rsqrt(_mean_square(deviation, layer.axis) + layer.epsilon)
    return ops.cast(_scaled(normalized, layer.axis, layer.gamma, layer.beta), layer.compute_dtype)


def _rms_normalization(layer: keras.layers.RMSNormalization, inputs: Tensor) -> Tensor:
    """Computes x / sqrt(mean(x^2) + epsilon) * scale, with x * x for the square, as SQUARE has no integer kernel."""
    x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    axis = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    normalized = x * ops.rsqrt(_mean_square(x, axis) + layer.epsilon)
    return ops.cast(_scaled(normalized, axis, layer.scale, None), layer.compute_dtype)


def _group_normalization(layer: keras.layers.GroupNormalization, inputs: Tensor) -> Tensor:
    """Normalizes like layer normalization, over the positions and channels of each group."""
    axis = layer.axis % len(inputs.shape)
    shape = tuple(inputs.shape)
    groups = (*shape[:axis], layer.groups, shape[axis] // layer.groups, *shape[axis + 1 :])
    x = ops.reshape(ops.cast(inputs, "float32"), (-1, *groups[1:]))
    axes = [a for a in range(1, len(groups)) if a != axis]
    deviation = x - ops.mean(x, axis=axes, keepdims=True)
    normalized = deviation * ops.rsqrt(_mean_square(deviation, axes) + layer.epsilon)
    normalized = ops.reshape(normalized, (-1, *shape[1:]))
    gamma, beta = (layer.gamma if layer.scale else None), (layer.beta if layer.center else None)
    return ops.cast(_scaled(normalized, [axis], gamma, beta), layer.compute_dtype)


def _one_hot(layer: OneHot, ids: Tensor) -> Tensor:
    """Gives zeros for ids out of range: on the device there are no errors, and integers have no NaN."""
    return one_hot(ids, layer.num_classes, out_of_range="zero", dtype=layer.compute_dtype)


def _global_max_pooling(layer: keras.layers.GlobalMaxPooling2D, inputs: Tensor) -> Tensor:
    """Takes the largest value of all positions by one pooling window: REDUCE_MAX stays in floating point."""
    if layer.data_format != "channels_last":
        return type(layer).call(layer, inputs)
    size = inputs.shape[1:-1]
    pooled = ops.max_pool(inputs, size, strides=size, data_format="channels_last")
    return pooled if layer.keepdims else ops.reshape(pooled, (-1, inputs.shape[-1]))


def _up_sampling(layer: keras.layers.Layer, inputs: Tensor) -> Tensor:
    """Repeats positions by RESIZE_NEAREST_NEIGHBOR: Keras stacks copies, which are TILE and RESHAPE."""
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation != "nearest" or getattr(layer, "data_format", "channels_last") != "channels_last":
        return type(layer).call(layer, inputs)
    sizes = (layer.size,) if isinstance(layer.size, int) else tuple(layer.size)
    return up_sample_nearest(inputs, sizes)


def _mean_square(x: Tensor, axis: Sequence[int]) -> Tensor:
    return ops.mean(x * x, axis=axis, keepdims=True)


def _scaled(x: Tensor, axis: Sequence[int], gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """Computes x * gamma + beta, which have the sizes of `axis`; None is left out."""
    kept = {a % len(x.shape) for a in axis}
    shape = [size if position in kept else 1 for position, size in enumerate(x.shape)]
    if gamma is not None:
        x = x * ops.cast(ops.reshape(gamma, shape), x.dtype)
    if beta is not None:
        x = x + ops.cast(ops.reshape(beta, shape), x.dtype)
    return x


_LOWERINGS: dict[type, Callable] = {
    OneHot: _one_hot,
    keras.layers.LayerNormalization: _layer_normalization,
    keras.layers.RMSNormalization: _rms_normalization,
    keras.layers.GroupNormalization: _group_normalization,
    keras.layers.GlobalMaxPooling1D: _global_max_pooling,
    keras.layers.GlobalMaxPooling2D: _global_max_pooling,
    keras.layers.UpSampling1D: _up_sampling,
    keras.layers.UpSampling2D: _up_sampling,
    keras.layers.UpSampling3D: _up_sampling,
    keras.layers.TimeDistributed: call_time_distributed,
}
