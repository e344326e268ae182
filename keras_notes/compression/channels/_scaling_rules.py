"""How layers make channels, move them, and take them, as far as scaling a channel goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_notes.compression.channels._layer_rules import FILTERS, of_ranks

__all__ = ["ChannelWeights", "is_activation", "is_homogeneous", "made_by", "taken_by"]


@dataclass(frozen=True)
class ChannelWeights:
    """Where a variable has channels.

    Attributes:
        variable: The variable.
        axes: The axes that the channels run over, in order.
        mixes: Of weights that take channels, whether their outputs mix them.
    """

    variable: keras.Variable
    axes: tuple[int, ...]
    mixes: bool = True

    def scale(self, factors: np.ndarray) -> None:
        """Multiplies each channel; where channels are repeated, as behind `Flatten`, each of their places."""
        shape = [1] * len(self.variable.shape)
        for axis in self.axes:
            shape[axis] = self.variable.shape[axis]
        repeated = np.resize(factors, int(np.prod(shape))).reshape(shape)
        self.variable.assign(ops.convert_to_numpy(self.variable) * repeated.astype("float32"))

    def largest(self, channels: int) -> np.ndarray:
        """The largest weight of each channel, relative to that of its output channel."""
        values = np.abs(np.asarray(ops.convert_to_numpy(self.variable), "float64"))
        (axis,) = self.axes
        # The outputs are last then, and in front of them what is seen from one place, if there are several.
        values = np.moveaxis(values, axis, 0)
        most = values.max(tuple(range(values.ndim - 1)), keepdims=True)
        values = (values / np.where(most > 0, most, 1.0)).reshape(-1, channels, *values.shape[1:])
        return values.max((0, *range(2, values.ndim)))


def made_by(layer: Any) -> tuple[ChannelWeights, ...]:
    """The weights that each channel of what a layer gives is proportional to, the kernel first."""
    places = _MADE.get(type(layer), {})
    weights = _weights_of(layer)
    if next(iter(places), None) not in weights or not _are_known(layer, weights):
        return ()
    if not _is_piecewise_linear(getattr(layer, "activation", None)) or not _has_channels_last(layer):
        return ()
    return tuple(ChannelWeights(weights[name], axes) for name, axes in places.items() if name in weights)


def taken_by(layer: Any) -> tuple[ChannelWeights, ...] | None:
    """The weights that a layer multiplies its input's channels with."""
    name, axis, mixes = _TAKEN.get(type(layer), ("", 0, False))
    weights = _weights_of(layer)
    if name not in weights or not _are_known(layer, weights):
        return None
    if getattr(layer, "groups", 1) != 1 or not _has_channels_last(layer):
        return None
    return (ChannelWeights(weights[name], (axis,), mixes),)


def _are_known(layer: Any, weights: dict[str, keras.Variable]) -> bool:
    """Whether a layer has no others, as LoRA and integers bring them."""
    taken, *_ = _TAKEN.get(type(layer), ("",))
    return weights.keys() <= {*_MADE[type(layer)], taken, *_STATISTICS}


def _weights_of(layer: Any) -> dict[str, keras.Variable]:
    return {variable.name: variable for variable in getattr(layer, "weights", ())}


def _has_channels_last(layer: Any) -> bool:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return False
    axis = getattr(layer, "axis", -1)
    last = (-1, layer.input_spec.ndim - 1) if isinstance(layer, layers.BatchNormalization) else (-1,)
    return (axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis) in last


def _is_piecewise_linear(function: Any) -> bool:
    return function is None or function in _PIECEWISE_LINEAR


def is_activation(operation: Any) -> bool:
    """Whether it is elementwise with f(s x) = s f(x) for s > 0."""
    if isinstance(operation, layers.ReLU):
        return operation.max_value is None and operation.threshold == 0
    if isinstance(operation, layers.Activation):
        return _is_piecewise_linear(operation.activation)
    return isinstance(operation, (layers.LeakyReLU, layers.PReLU)) or type(operation).__name__ in _OPERATIONS


def is_homogeneous(operation: Any) -> bool:
    """Whether it computes each channel alone, with f(s x) = s f(x) for s > 0."""
    return is_activation(operation) or (type(operation) in _EACH_CHANNEL and _has_channels_last(operation))


_STATISTICS = ("moving_mean", "moving_variance")
_PIECEWISE_LINEAR = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)
_OPERATIONS = ("Relu", "LeakyRelu")
# Not of tables: an embedding's rows lie on a grid that is a constant's.
_SCALED = {kind: axes for kind, axes in FILTERS.items() if kind is not layers.Embedding}
# The axes of channels in what makes them, the kernel first.
_MADE: dict[type, dict[str, tuple[int, ...]]] = {
    **{kind: {name: (out,) for name, (_, out) in axes.items() if out is not None} for kind, axes in _SCALED.items()},
    **{kind: {"kernel": (-2, -1), "bias": (0,)} for kind in of_ranks("DepthwiseConv{}D")},
    **{kind: {"gamma": (0,), "beta": (0,)} for kind in (layers.BatchNormalization, layers.LayerNormalization)},
    layers.RMSNormalization: {"scale": (0,)},
}
# The weights that take channels, the axis of these, and whether they mix them.
_TAKEN: dict[type, tuple[str, int, bool]] = {
    **{
        kind: next((name, taken, out is not None) for name, (taken, out) in axes.items() if taken is not None)
        for kind, axes in _SCALED.items()
    },
    **dict.fromkeys(of_ranks("DepthwiseConv{}D"), ("kernel", -2, False)),
}
_EACH_CHANNEL = (
    *of_ranks("MaxPooling{}D", "AveragePooling{}D", "GlobalMaxPooling{}D", "GlobalAveragePooling{}D",
               "ZeroPadding{}D", "Cropping{}D", "UpSampling{}D", "SpatialDropout{}D"),
    layers.Dropout, layers.Identity, layers.Flatten,
)  # fmt: skip
