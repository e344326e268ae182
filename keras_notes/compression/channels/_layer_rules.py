"""What layers do to the channels of the tensors that they take.

A rule takes the graph, a node, and the channels of the tensors that the node takes. It returns those of what the node
gives; or None, and then all that it took stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, tree

__all__ = ["FILTERS", "TAKES_SEVERAL", "Channels", "Producer", "has_rule", "of_ranks", "rule_of"]


class Channels(NamedTuple):
    """The channels along one axis of a tensor, a variable, or a shape in a configuration, by their numbers."""

    axis: int
    numbers: np.ndarray


class Producer(NamedTuple):
    """A layer that makes channels, and its path."""

    layer: keras.Layer
    path: tuple[str, ...]
    numbers: np.ndarray


def has_rule(operation: Any) -> bool:
    """Whether it is known what an operation does to channels."""
    return rule_of(operation) is not None


def rule_of(operation: Any) -> Callable[..., Channels | None] | None:
    if type(operation).__module__.startswith("keras.src.ops."):
        return _OPERATIONS.get(type(operation).__name__)
    return _LAYERS.get(type(operation))


def _filters(graph: Any, node: Any, given: list) -> Channels | None:
    layer, entering = node.operation, given[0]
    weights = {variable.name: variable for variable in layer.weights}
    axes = FILTERS[type(layer)]
    if not weights.keys() <= axes.keys() or getattr(layer, "groups", 1) != 1:  # LoRA and integers have other weights
        return None
    if entering is not None and entering.axis != _channel_axis(layer, node.input_tensors[0]):
        graph.keep(entering, f"they are no channels to {layer.name!r}")
        entering = None
    size = {layers.Dense: "units", layers.Embedding: "output_dim"}.get(type(layer), "filters")
    if id(layer) not in graph.producers:
        graph.producers[id(layer)] = Producer(layer, graph.paths[-1], graph.new(getattr(layer, size)))
    made = Channels(_channel_axis(layer, node.outputs[0]), graph.producers[id(layer)].numbers)
    graph.sizes[id(layer)] = size, Channels(0, made.numbers)
    for name, variable in weights.items():
        in_axis, out_axis = axes[name]
        cuts = graph.cuts[id(variable)] = []
        if in_axis is not None and entering is not None:
            repeats = variable.shape[in_axis] // entering.numbers.size  # more than 1 behind depthwise filters
            cuts.append(Channels(in_axis, np.repeat(entering.numbers, repeats)))
        if out_axis is not None:
            cuts.append(Channels(out_axis, made.numbers))
    activation = getattr(layer, "activation", None)
    if not _is_elementwise(activation):
        graph.keep(made, f"{layer.name!r} has an activation that is not known to be elementwise")
    elif activation in (None, keras.activations.linear):
        graph.linear[id(node.outputs[0])] = layer
    return made


def _depthwise(graph: Any, node: Any, given: list) -> Channels | None:
    layer, entering = node.operation, given[0]
    weights = {variable.name: variable for variable in layer.weights}
    is_known = weights.keys() <= {"kernel", "bias"} and _is_elementwise(layer.activation)
    if entering is None or entering.axis != _channel_axis(layer, node.input_tensors[0]) or not is_known:
        return None
    made = Channels(entering.axis, np.repeat(entering.numbers, layer.depth_multiplier))
    graph.cuts[id(weights["kernel"])] = [Channels(weights["kernel"].ndim - 2, entering.numbers)]
    if "bias" in weights:
        graph.cuts[id(weights["bias"])] = [Channels(0, made.numbers)]
    return made


def _normalized(graph: Any, node: Any, given: list) -> Channels | None:
    layer, channels = node.operation, given[0]
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    rank = len(node.outputs[0].shape)
    if channels is None or [axis % rank for axis in axes] != [channels.axis]:
        return None
    if any(tuple(variable.shape) != channels.numbers.shape for variable in layer.weights):
        return None
    for variable in layer.weights:
        graph.cuts[id(variable)] = [Channels(0, channels.numbers)]
    before = graph.linear.get(id(node.input_tensors[0]))
    if before is not None and isinstance(layer, layers.BatchNormalization):
        graph.normalizations[id(before)] = layer
    return channels


def _prelu(graph: Any, node: Any, given: list) -> Channels | None:
    channels, (alpha,) = given[0], node.operation.weights
    if channels is not None and alpha.shape[channels.axis - 1] == channels.numbers.size:
        graph.cuts[id(alpha)] = [Channels(channels.axis - 1, channels.numbers)]
    return channels


def _elementwise(graph: Any, node: Any, given: list) -> Channels | None:
    layer = node.operation
    noise = getattr(layer, "noise_shape", None)
    if given[0] is None or not _is_elementwise(getattr(layer, "activation", None)):
        return None
    return None if noise is not None and noise[given[0].axis] not in (None, 1) else given[0]


def _rescaled(graph: Any, node: Any, given: list) -> Channels | None:
    return given[0] if np.ndim(node.operation.scale) == np.ndim(node.operation.offset) == 0 else None


def _spatial(graph: Any, node: Any, given: list) -> Channels | None:
    """Of layers that compute each channel alone; global ones may drop the other axes."""
    if given[0] is None or given[0].axis != _channel_axis(node.operation, node.input_tensors[0]):
        return None
    has_space = len(node.outputs[0].shape) == len(node.input_tensors[0].shape)
    return given[0] if has_space else Channels(1, given[0].numbers)


def _repeated(graph: Any, node: Any, given: list) -> Channels | None:
    return given[0] and Channels(2, given[0].numbers)


def _reshaped(graph: Any, node: Any, given: list) -> Channels | None:
    """Channels that lie along one axis of the new shape."""
    shapes = [tensor.shape[1:] for tensor in (node.input_tensors[0], node.outputs[0])]
    if given[0] is None or None in (*shapes[0], *shapes[1]):
        return None
    axis, numbers = given[0]
    placed = np.broadcast_to(numbers.reshape(-1, *[1] * (len(shapes[0]) - axis)), shapes[0])
    if getattr(node.operation, "data_format", None) == "channels_first":  # which `Flatten` moves to the end
        placed = np.moveaxis(placed, 0, -1)
    placed = placed.reshape(shapes[1])
    for place, size in enumerate(shapes[1]):
        rows = np.moveaxis(placed, place, -1).reshape(-1, size)
        if size > 1 and (rows == rows[0]).all():
            if isinstance(node.operation, layers.Reshape):
                graph.sizes[id(node.operation)] = "target_shape", Channels(place, rows[0])
            return Channels(place + 1, rows[0])
    return None


def _merged(graph: Any, node: Any, given: list) -> Channels | None:
    """Of sums, products and the like; a tensor with one channel is taken for all of them."""
    shapes = [tensor.shape for tensor in node.input_tensors]
    axes = {channels.axis for channels in given if channels is not None}
    arguments = tree.flatten((node.arguments.args, node.arguments.kwargs))
    has_arrays = not all(isinstance(one, (keras.KerasTensor, int, float)) for one in arguments)
    if has_arrays or len(axes) != 1 or len({len(shape) for shape in shapes}) != 1:
        return None
    (axis,) = axes
    size = node.outputs[0].shape[axis]
    full = [channels for channels, shape in zip(given, shapes, strict=True) if shape[axis] == size]
    for channels, shape in zip(given, shapes, strict=True):
        if shape[axis] != size:
            graph.keep(channels, f"{node.operation.name!r} takes one for all")
    graph.join(full, f"{node.operation.name!r} merges them with others that stay")
    return None if None in full else full[0]


def _concatenated(graph: Any, node: Any, given: list) -> Channels | None:
    axis = node.operation.axis % len(node.outputs[0].shape)
    if not any(channels is not None and channels.axis == axis for channels in given):
        return _merged(graph, node, given)
    parts = []
    for channels, tensor in zip(given, node.input_tensors, strict=True):
        if channels is None or channels.axis != axis:
            graph.keep(channels, f"{node.operation.name!r} joins them along another axis")
            channels = Channels(axis, graph.new(tensor.shape[axis]))
            graph.keep(channels, "they are not known")
        parts.append(channels.numbers)
    return Channels(axis, np.concatenate(parts))


def _channel_axis(layer: Any, tensor: Any) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else len(tensor.shape) - 1


_FUNCTIONS = tuple(
    getattr(keras.activations, name)
    for name in ("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh",
                 "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
                 "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
                 "tanh_shrink", "threshold")
)  # fmt: skip


def _is_elementwise(function: Any) -> bool:
    return function is None or function in _FUNCTIONS or type(function) in (layers.ReLU, layers.LeakyReLU, layers.ELU)


def of_ranks(*names: str) -> list[type]:
    """Layers by name, for one, two and three dimensions."""
    found = [getattr(layers, name.format(rank), None) for name in names for rank in (1, 2, 3)]
    return [layer for layer in found if layer is not None]


# Weights of layers with filters: their axes of inputs and of outputs.
FILTERS: dict[type, dict[str, tuple[int | None, int | None]]] = {
    **{kind: {"kernel": (-2, -1), "bias": (None, 0)} for kind in of_ranks("Dense", "Conv{}D")},
    **{kind: {"kernel": (-1, -2), "bias": (None, 0)} for kind in of_ranks("Conv{}DTranspose")},
    **{
        kind: {"depthwise_kernel": (-2, None), "pointwise_kernel": (-2, -1), "bias": (None, 0)}
        for kind in of_ranks("SeparableConv{}D")
    },
    layers.Embedding: {"embeddings": (None, -1)},
}
_LAYERS: dict[type, Callable[..., Channels | None]] = {
    **dict.fromkeys(FILTERS, _filters),
    **dict.fromkeys(of_ranks("DepthwiseConv{}D"), _depthwise),
    **dict.fromkeys(of_ranks("BatchNormalization", "LayerNormalization", "RMSNormalization"), _normalized),
    layers.PReLU: _prelu,
    **dict.fromkeys(
        of_ranks("Activation", "ReLU", "LeakyReLU", "ELU", "Identity", "ActivityRegularization", "Dropout",
                  "GaussianDropout", "GaussianNoise", "AlphaDropout"),
        _elementwise,
    ),
    layers.Rescaling: _rescaled,
    **dict.fromkeys(
        of_ranks("MaxPooling{}D", "AveragePooling{}D", "GlobalMaxPooling{}D", "GlobalAveragePooling{}D",
                  "AdaptiveMaxPooling{}D", "AdaptiveAveragePooling{}D", "ZeroPadding{}D", "Cropping{}D",
                  "UpSampling{}D", "SpatialDropout{}D"),
        _spatial,
    ),
    layers.RepeatVector: _repeated,
    **dict.fromkeys((layers.Flatten, layers.Reshape), _reshaped),
    **dict.fromkeys(of_ranks("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _merged),
    layers.Concatenate: _concatenated,
}  # fmt: skip
_OPERATIONS: dict[str, Callable[..., Channels | None]] = {
    **dict.fromkeys(
        ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "Silu", "HardSilu", "Gelu", "Softplus",
         "Tanh", "Absolute", "Negative", "Square", "Sqrt", "Exp"),
        _elementwise,
    ),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum"), _merged),
    "Concatenate": _concatenated,
}  # fmt: skip

# Of those that take channels by all their inputs.
TAKES_SEVERAL = (_merged, _concatenated)
