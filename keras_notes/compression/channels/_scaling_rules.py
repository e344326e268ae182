"""Rules for scaling channels: which weights of a layer produce, pass on or consume them in proportion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from keras_notes._shared.types import Operation
from keras_notes.compression.channels._layer_rules import FILTERS, classes_of_ranks

__all__ = ["ChannelWeights", "consuming_weights", "is_activation", "is_homogeneous", "producing_weights"]


@dataclass(frozen=True)
class ChannelWeights:
    """The channels of a variable.

    Attributes:
        variable: The variable.
        axes: The axes that the channels run over, in order.
        mixes: For weights that consume channels, whether their outputs mix them.
    """

    variable: keras.Variable
    axes: tuple[int, ...]
    mixes: bool = True

    def scale(self, factors: np.ndarray) -> None:
        """Multiplies each channel; where channels are repeated, as behind `Flatten`, at each of their places."""
        shape = [1] * len(self.variable.shape)
        for axis in self.axes:
            shape[axis] = self.variable.shape[axis]
        repeated = np.resize(factors, int(np.prod(shape))).reshape(shape)
        self.variable.assign(ops.convert_to_numpy(self.variable) * repeated.astype("float32"))

    def largest(self, channels: int) -> np.ndarray:
        """Returns the largest magnitude of each channel, relative to that of its output channel."""
        values = np.abs(np.asarray(ops.convert_to_numpy(self.variable), "float64"))
        (axis,) = self.axes
        # With this axis first, outputs are last; between them are the positions of a channel, if it has several.
        values = np.moveaxis(values, axis, 0)
        maximum = values.max(tuple(range(values.ndim - 1)), keepdims=True)
        values = (values / np.where(maximum > 0, maximum, 1.0)).reshape(-1, channels, *values.shape[1:])
        return values.max((0, *range(2, values.ndim)))


def producing_weights(layer: Operation) -> tuple[ChannelWeights, ...]:
    """Returns the weights to which each output channel of a layer is proportional, the kernel first."""
    axes_by_name = _PRODUCING_AXES.get(type(layer), {})
    weights = _weights_by_name(layer)
    if next(iter(axes_by_name), None) not in weights or not _are_known(layer, weights):
        return ()
    if not _is_piecewise_linear(getattr(layer, "activation", None)) or not _has_channels_last(layer):
        return ()
    return tuple(ChannelWeights(weights[name], axes) for name, axes in axes_by_name.items() if name in weights)


def consuming_weights(layer: Operation) -> tuple[ChannelWeights, ...] | None:
    """Returns the weights with which a layer multiplies its input channels; None if there are none."""
    name, axis, mixes = _CONSUMING_AXES.get(type(layer), ("", 0, False))
    weights = _weights_by_name(layer)
    if name not in weights or not _are_known(layer, weights):
        return None
    if getattr(layer, "groups", 1) != 1 or not _has_channels_last(layer):
        return None
    return (ChannelWeights(weights[name], (axis,), mixes),)


def _are_known(layer: Operation, weights: dict[str, keras.Variable]) -> bool:
    """Returns whether a layer has no other weights, such as those of LoRA or of Keras's own quantization."""
    consuming, *_ = _CONSUMING_AXES.get(type(layer), ("",))
    return weights.keys() <= {*_PRODUCING_AXES[type(layer)], consuming, *_STATISTICS}


def _weights_by_name(layer: Operation) -> dict[str, keras.Variable]:
    return {variable.name: variable for variable in getattr(layer, "weights", ())}


def _has_channels_last(layer: Operation) -> bool:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return False
    axis = getattr(layer, "axis", -1)
    last = (-1, layer.input_spec.ndim - 1) if isinstance(layer, layers.BatchNormalization) else (-1,)
    return (axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis) in last


def _is_piecewise_linear(function: Callable | None) -> bool:
    return function is None or function in _PIECEWISE_LINEAR


def is_activation(operation: Operation) -> bool:
    """Returns whether an operation is elementwise with f(s x) = s f(x) for s > 0."""
    if isinstance(operation, layers.ReLU):
        return operation.max_value is None and operation.threshold == 0
    if isinstance(operation, layers.Activation):
        return _is_piecewise_linear(operation.activation)
    return isinstance(operation, (layers.LeakyReLU, layers.PReLU)) or type(operation).__name__ in _OPERATIONS


def is_homogeneous(operation: Operation) -> bool:
    """Returns whether an operation computes each channel alone, with f(s x) = s f(x) for s > 0."""
    return is_activation(operation) or (type(operation) in _EACH_CHANNEL and _has_channels_last(operation))


_STATISTICS = ("moving_mean", "moving_variance")
_PIECEWISE_LINEAR = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)
_OPERATIONS = ("Relu", "LeakyRelu")
# Without tables: the rows of an embedding lie on the grid of a constant.
_SCALED_FILTERS = {layer_class: axes for layer_class, axes in FILTERS.items() if layer_class is not layers.Embedding}
# The weights that produce channels, each with the axes of the channels; the kernel first.
_PRODUCING_AXES: dict[type, dict[str, tuple[int, ...]]] = {
    **{
        layer_class: {name: (out_axis,) for name, (_, out_axis) in axes.items() if out_axis is not None}
        for layer_class, axes in _SCALED_FILTERS.items()
    },
    **{layer_class: {"kernel": (-2, -1), "bias": (0,)} for layer_class in classes_of_ranks("DepthwiseConv{}D")},
    **{
        layer_class: {"gamma": (0,), "beta": (0,)}
        for layer_class in (layers.BatchNormalization, layers.LayerNormalization)
    },
    layers.RMSNormalization: {"scale": (0,)},
}
# The weights that consume channels, the axis of the channels, and whether the outputs mix them.
_CONSUMING_AXES: dict[type, tuple[str, int, bool]] = {
    **{
        layer_class: next(
            (name, in_axis, out_axis is not None) for name, (in_axis, out_axis) in axes.items() if in_axis is not None
        )
        for layer_class, axes in _SCALED_FILTERS.items()
    },
    **dict.fromkeys(classes_of_ranks("DepthwiseConv{}D"), ("kernel", -2, False)),
}
_EACH_CHANNEL = (
    *classes_of_ranks("MaxPooling{}D", "AveragePooling{}D", "GlobalMaxPooling{}D", "GlobalAveragePooling{}D",
                      "ZeroPadding{}D", "Cropping{}D", "UpSampling{}D", "SpatialDropout{}D"),
    layers.Dropout, layers.Identity, layers.Flatten,
)  # fmt: skip
