"""Layers in fewer operations than Keras's own `call`: the same values, for conversion and for quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import Tensor, Tree

__all__ = ["call_time_distributed", "up_sample_nearest"]

# Layers that compute each position of any rank alike, along the last axis.
_POINTWISE = (keras.layers.Dense, keras.layers.Activation, keras.layers.Dropout, keras.layers.Identity)


def up_sample_nearest(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeats positions by resizing to the nearest neighbour, which is a single operator of LiteRT.

    Args:
        x: Tensor of shape (batch, positions..., channels), with one to three axes of positions.
        sizes: Number of repetitions along each of these axes.
    """
    positions, channels = tuple(x.shape[1:-1]), x.shape[-1]
    if len(positions) == 1:
        columns = _resize(ops.reshape(x, (-1, positions[0], 1, channels)), (sizes[0], 1))
        return ops.reshape(columns, (-1, positions[0] * sizes[0], channels))
    if len(positions) == 2:
        return _resize(x, sizes)
    depth, height, width = positions
    slices = _resize(ops.reshape(x, (-1, depth, 1, height * width * channels)), (sizes[0], 1))
    images = _resize(ops.reshape(slices, (-1, height, width, channels)), sizes[1:])
    return ops.reshape(images, (-1, depth * sizes[0], height * sizes[1], width * sizes[2], channels))


def call_time_distributed(
    layer: keras.layers.TimeDistributed, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
) -> Tree:
    """Computes all steps of a TimeDistributed layer at once: Keras computes one after the other.

    A layer such as Dense takes all steps as they are; others take them as samples of a batch.
    """
    inner = layer.layer
    if mask is not None or None in inputs.shape[1:] or _has_steps(inner):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    if type(inner) in _POINTWISE:
        return inner(inputs)
    steps = inputs.shape[1]
    outputs = inner(ops.reshape(inputs, (-1, *inputs.shape[2:])))
    return keras.tree.map_structure(lambda output: ops.reshape(output, (-1, steps, *output.shape[1:])), outputs)


def _resize(x: Tensor, sizes: Sequence[int]) -> Tensor:
    if math.prod(sizes) == 1:
        return x
    size = (x.shape[1] * sizes[0], x.shape[2] * sizes[1])
    return ops.image.resize(x, size, interpolation="nearest", data_format="channels_last")


def _has_steps(layer: keras.Layer) -> bool:
    """Whether a layer is recurrent or has a recurrent layer in it; such a layer takes one sequence on the device."""
    return any(isinstance(inner, keras.layers.RNN) for inner in layers_of(layer))
