"""Random nets with hostile weights: vanishing channels, huge biases, dead layers, unlike columns, constant inputs.

A net is a `Net`: plain data that hypothesis draws and shrinks, and that a regression test can spell out. Any list of
layers is a net, because a layer that does not fit the shape before it is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers as L  # noqa: N812

__all__ = ["Net", "build", "nets", "samples"]

SHAPES = {"image": (6, 6, 3), "sequence": (8, 4), "vector": (6,)}
INPUTS = ("normal", "columns", "constant", "zeros", "offset", "small")
WEIGHTS = (
    "plain", "vanishing", "small", "zero", "all zero", "high bias", "low bias", "unlike", "faint", "strong",
)  # fmt: skip
ACTIVATIONS = ("relu", "sigmoid", "tanh", "silu", "gelu", "hard_silu", "hard_sigmoid", "softmax")


@dataclasses.dataclass(frozen=True)
class Net:
    """A net as data.

    Attributes:
        shape: A key of SHAPES.
        inputs: How the samples are distributed, one of INPUTS.
        layers: Layers as (a key of LAYERS, a number that chooses among its forms, one of WEIGHTS).
        nested: Number of first layers that are in a nested model.
    """

    shape: str
    inputs: str
    layers: tuple[tuple[str, int, str], ...]
    nested: int = 0


class _Builder:
    """The tensors of a net while it is built."""

    def __init__(self, prefix: str, x: keras.KerasTensor) -> None:
        self.prefix = prefix
        self.tensors = [x]
        self.weights: list[tuple[keras.Layer, str]] = []
        self._count = 0

    @property
    def last(self) -> keras.KerasTensor:
        return self.tensors[-1]

    @property
    def rank(self) -> int:
        return len(self.last.shape)

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{self.prefix}_{kind}{self._count}"

    def add(self, layer_class: type, *args, weights: str = "plain", on=None, **kwargs) -> keras.KerasTensor:
        layer = layer_class(*args, name=self.name(layer_class.__name__.lower()), **kwargs)
        result = layer(self.last if on is None else on)
        self.weights.append((layer, weights))
        self.tensors.append(result)
        return result

    def branch(self, weights: str) -> keras.KerasTensor:
        """A tensor of the shape of the last one: an earlier one, or a projection of the last."""
        last = self.last
        for tensor in self.tensors[-2::-1]:
            if tensor.shape == last.shape:
                return tensor
        branch = self.add(L.Dense, last.shape[-1], weights=weights, on=last)
        self.tensors[-1] = last
        return branch


def _dense(net: _Builder, choice: int, weights: str) -> None:
    net.add(L.Dense, 3 + choice, weights=weights, activation=(None, "relu")[choice % 2], use_bias=choice != 4)


def _conv(net: _Builder, choice: int, weights: str) -> None:
    options = {"padding": "same", "strides": 1 + (choice == 3), "activation": (None, "relu")[choice % 2]}
    if net.rank == 4:
        net.add(L.Conv2D, 3 + choice, 3, weights=weights, use_bias=choice != 4, **options)
    elif net.rank == 3:
        net.add(L.Conv1D, 3 + choice, 3, weights=weights, **options)
    else:
        _dense(net, choice, weights)


def _depthwise(net: _Builder, choice: int, weights: str) -> None:
    if net.rank == 4:
        net.add(L.DepthwiseConv2D, 3, padding="same", depth_multiplier=1 + choice % 2, weights=weights)
    elif net.rank == 3:
        net.add(L.DepthwiseConv1D, 3, padding="same", weights=weights)


def _separable(net: _Builder, choice: int, weights: str) -> None:
    if net.rank == 4:
        net.add(L.SeparableConv2D, 3 + choice, 3, padding="same", weights=weights)


def _transposed(net: _Builder, choice: int, weights: str) -> None:
    if net.rank == 4 and net.last.shape[1] <= 6:
        net.add(L.Conv2DTranspose, 3 + choice % 3, 3, strides=1 + choice % 2, padding="same", weights=weights)


def _norm(net: _Builder, choice: int, weights: str) -> None:
    net.add(L.BatchNormalization, weights=weights)


def _activation(net: _Builder, choice: int, weights: str) -> None:
    net.add(L.Activation, ACTIVATIONS[choice % len(ACTIVATIONS)])


def _rectifier(net: _Builder, choice: int, weights: str) -> None:
    if choice % 3 == 0:
        net.add(L.LeakyReLU, negative_slope=0.1)
    elif choice % 3 == 1:
        net.add(L.ReLU)
    else:
        net.add(L.PReLU, alpha_initializer="random_normal")


def _pooling(net: _Builder, choice: int, weights: str) -> None:
    if net.rank == 4 and min(net.last.shape[1:3]) >= 2:
        net.add((L.MaxPooling2D, L.AveragePooling2D)[choice % 2], 2)
    elif net.rank == 3 and net.last.shape[1] >= 2:
        net.add((L.MaxPooling1D, L.AveragePooling1D)[choice % 2], 2)


def _global_pooling(net: _Builder, choice: int, weights: str) -> None:
    if net.rank == 4:
        net.add((L.GlobalMaxPooling2D, L.GlobalAveragePooling2D)[choice % 2])
    elif net.rank == 3:
        net.add((L.GlobalMaxPooling1D, L.GlobalAveragePooling1D)[choice % 2])


def _merge(net: _Builder, choice: int, weights: str) -> None:
    merges = (L.Add, L.Multiply, L.Subtract, L.Maximum, L.Minimum, L.Average, L.Concatenate, L.Add)
    net.add(merges[choice % len(merges)], on=[net.last, net.branch(weights)])


def _reshape(net: _Builder, choice: int, weights: str) -> None:
    if net.rank > 2:
        net.add(L.Flatten)
    elif net.last.shape[-1] % 2 == 0:
        net.add(L.Reshape, (2, net.last.shape[-1] // 2))


def _rescaling(net: _Builder, choice: int, weights: str) -> None:
    net.add(L.Rescaling, 10.0 ** (choice - 3), (0.0, 1.0, -1.0)[choice % 3])


LAYERS: dict[str, Callable[[_Builder, int, str], None]] = {
    "dense": _dense,
    "conv": _conv,
    "depthwise": _depthwise,
    "separable": _separable,
    "transposed": _transposed,
    "norm": _norm,
    "activation": _activation,
    "rectifier": _rectifier,
    "pooling": _pooling,
    "global pooling": _global_pooling,
    "merge": _merge,
    "reshape": _reshape,
    "rescaling": _rescaling,
}


def nets() -> st.SearchStrategy[Net]:
    """Nets of one to seven layers."""
    layer = st.tuples(st.sampled_from(list(LAYERS)), st.integers(0, 7), st.sampled_from(WEIGHTS))
    first = st.tuples(st.sampled_from(["dense", "conv", "depthwise"]), st.integers(0, 7), st.sampled_from(WEIGHTS))
    layers = st.tuples(first, st.lists(layer, max_size=6)).map(lambda parts: (parts[0], *parts[1]))
    return st.builds(Net, st.sampled_from(list(SHAPES)), st.sampled_from(INPUTS), layers, st.sampled_from([0, 0, 0, 2]))


def build(side_by_side: Sequence[Net]) -> keras.Model:
    """A model with an input and an output for each net, named "net0" and so on."""
    inputs, outputs = {}, {}
    for number, net in enumerate(side_by_side):
        name = f"net{number}"
        keras.utils.set_random_seed(number)
        x = inputs[name] = keras.Input(SHAPES[net.shape], name=name)
        outputs[name] = _layers_of(net, name, x)
    return keras.Model(inputs, outputs, name="nets")


def samples(side_by_side: Sequence[Net], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for `build`."""
    rng = np.random.default_rng(seed)
    return {f"net{number}": _inputs(net, count, rng) for number, net in enumerate(side_by_side)}


def _inputs(net: Net, count: int, rng: np.random.Generator) -> np.ndarray:
    shape = SHAPES[net.shape]
    x = rng.normal(size=(count, *shape))
    match net.inputs:
        case "columns":
            x *= 10.0 ** np.linspace(-3, 4, shape[-1])
        case "constant":
            x[...] = 1.7
        case "zeros":
            x[...] = 0.0
        case "offset":
            x += 1000.0
        case "small":
            x *= 1e-4
    return x.astype("float32")


def _layers_of(net: Net, prefix: str, x: keras.KerasTensor) -> keras.KerasTensor:
    if net.nested:
        inner_inputs = keras.Input(x.shape[1:], name=f"{prefix}_inner_input")
        builder = _grow(f"{prefix}_inner", inner_inputs, net.layers[: net.nested])
        x = keras.Model(inner_inputs, builder.last, name=f"{prefix}_inner")(x)
    return _grow(prefix, x, net.layers[net.nested :]).last


def _grow(prefix: str, x: keras.KerasTensor, layers: Sequence[tuple[str, int, str]]) -> _Builder:
    builder = _Builder(prefix, x)
    for kind, choice, weights in layers:
        LAYERS[kind](builder, choice, weights)
    if builder.last is x:
        _dense(builder, 1, "plain")
    for layer, weights in builder.weights:
        _make_hostile(layer, weights)
    return builder


def _make_hostile(layer: keras.Layer, weights: str) -> None:
    if isinstance(layer, L.BatchNormalization):
        _make_norm_hostile(layer, weights)
        return
    kernel, bias = getattr(layer, "kernel", None), getattr(layer, "bias", None)
    if kernel is None:
        return
    values = keras.ops.convert_to_numpy(kernel).copy()
    transposed = isinstance(layer, L.Conv2DTranspose)
    by_channel = np.moveaxis(values, -2, -1) if transposed else values
    channels = by_channel.shape[-1]
    biases = np.linspace(-0.3, 1.0, bias.shape[0]) if bias is not None else np.zeros(0)
    match weights:
        case "vanishing":
            by_channel[..., 0] *= 1e-10
        case "small":
            by_channel[..., : channels // 2] *= 1e-5
        case "zero":
            by_channel[..., 0] = 0.0
        case "all zero":
            by_channel[...] = 0.0
        case "high bias":
            biases[:1] = 1e3
        case "low bias":
            biases[:2] = -1e3
        case "unlike":
            by_channel *= 10.0 ** np.linspace(-4, 2, channels)
        case "faint":
            by_channel *= 1e-6
        case "strong":
            by_channel *= 1e3
    kernel.assign(values)
    if bias is not None:
        bias.assign(biases)


def _make_norm_hostile(layer: L.BatchNormalization, weights: str) -> None:
    size = layer.gamma.shape[0]
    gamma, beta = np.linspace(0.5, 1.5, size), np.linspace(-0.5, 0.5, size)
    mean, variance = np.linspace(-0.2, 0.2, size), np.linspace(0.5, 2.0, size)
    match weights:
        case "vanishing":
            gamma[0] = 1e-10
        case "small":
            gamma[: size // 2] = 1e-5
        case "zero":
            gamma[0] = 0.0
        case "all zero":
            gamma[:] = 0.0
        case "high bias":
            beta[0] = 1e3
        case "low bias":
            beta[:2] = -1e3
        case "unlike":
            variance *= 10.0 ** np.linspace(-3, 5, size)
        case "faint":
            variance[0] = 0.0
        case "strong":
            gamma *= 1e3
    for variable, values in zip(
        (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance), (gamma, beta, mean, variance), strict=True
    ):
        variable.assign(values)
