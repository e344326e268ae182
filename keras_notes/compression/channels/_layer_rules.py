"""Rules for the channels of each layer: which channels its outputs have, and which of its weights run over them.

A rule takes the graph, a node, and the channels of the tensors that the node takes. It returns the channels of the
node's outputs; or None, which means that all channels that the node took stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
import numpy as np
from keras import layers, tree

from keras_notes._shared.keras_internals import is_keras_operation
from keras_notes._shared.types import Node, Operation
from keras_notes.compression.channels._channel_graph import ChannelGraph, Channels

__all__ = ["FILTERS", "RULES_OF_SEVERAL_INPUTS", "Rule", "classes_of_ranks", "has_rule", "rule_of"]

_Inputs: TypeAlias = Sequence[Channels | None]
Rule: TypeAlias = Callable[[ChannelGraph, Node, _Inputs], Channels | None]


def has_rule(operation: Operation) -> bool:
    """Returns whether the channels of an operation are known."""
    return rule_of(operation) is not None


def rule_of(operation: Operation) -> Rule | None:
    """Returns the rule of a layer or an operation of `keras.ops`; None if there is none."""
    if is_keras_operation(operation):
        return _OPERATIONS.get(type(operation).__name__)
    return _LAYERS.get(type(operation))


def _filters(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    layer, entering = node.operation, inputs[0]
    weights = {variable.name: variable for variable in layer.weights}
    axes = FILTERS[type(layer)]
    if not weights.keys() <= axes.keys() or getattr(layer, "groups", 1) != 1:  # LoRA and integers have other weights
        return None
    if entering is not None and entering.axis != _channel_axis(layer, node.input_tensors[0]):
        graph.keep(entering, f"they are no channels to {layer.name!r}")
        entering = None
    key = {layers.Dense: "units", layers.Embedding: "output_dim"}.get(type(layer), "filters")
    producer = graph.add_producer(layer, getattr(layer, key))
    output = Channels(_channel_axis(layer, node.outputs[0]), producer.numbers)
    graph.resize(layer, key, Channels(0, output.numbers))
    for name, variable in weights.items():
        in_axis, out_axis = axes[name]
        cuts = []
        if in_axis is not None and entering is not None:
            repeats = variable.shape[in_axis] // entering.numbers.size  # more than 1 behind depthwise filters
            cuts.append(Channels(in_axis, np.repeat(entering.numbers, repeats)))
        if out_axis is not None:
            cuts.append(Channels(out_axis, output.numbers))
        graph.cut(variable, *cuts)
    activation = getattr(layer, "activation", None)
    if not _is_elementwise(activation):
        graph.keep(output, f"{layer.name!r} has an activation that is not known to be elementwise")
    elif activation in (None, keras.activations.linear):
        graph.add_linear_layer(layer, node.outputs[0])
    return output


def _depthwise(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    layer, entering = node.operation, inputs[0]
    weights = {variable.name: variable for variable in layer.weights}
    is_known = weights.keys() <= {"kernel", "bias"} and _is_elementwise(layer.activation)
    if entering is None or entering.axis != _channel_axis(layer, node.input_tensors[0]) or not is_known:
        return None
    output = Channels(entering.axis, np.repeat(entering.numbers, layer.depth_multiplier))
    graph.cut(weights["kernel"], Channels(weights["kernel"].ndim - 2, entering.numbers))
    if "bias" in weights:
        graph.cut(weights["bias"], Channels(0, output.numbers))
    return output


def _normalization(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    layer, channels = node.operation, inputs[0]
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    rank = len(node.outputs[0].shape)
    if channels is None or [axis % rank for axis in axes] != [channels.axis]:
        return None
    if any(tuple(variable.shape) != channels.numbers.shape for variable in layer.weights):
        return None
    for variable in layer.weights:
        graph.cut(variable, Channels(0, channels.numbers))
    if isinstance(layer, layers.BatchNormalization):
        graph.add_normalization(layer, node.input_tensors[0])
    return channels


def _prelu(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    channels, (alpha,) = inputs[0], node.operation.weights
    if channels is not None and alpha.shape[channels.axis - 1] == channels.numbers.size:
        graph.cut(alpha, Channels(channels.axis - 1, channels.numbers))
    return channels


def _elementwise(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    layer, channels = node.operation, inputs[0]
    noise = getattr(layer, "noise_shape", None)
    if channels is None or not _is_elementwise(getattr(layer, "activation", None)):
        return None
    return None if noise is not None and noise[channels.axis] not in (None, 1) else channels


def _rescaling(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    return inputs[0] if np.ndim(node.operation.scale) == np.ndim(node.operation.offset) == 0 else None


def _spatial(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    """Layers that compute each channel alone; global ones can drop the other axes."""
    channels = inputs[0]
    if channels is None or channels.axis != _channel_axis(node.operation, node.input_tensors[0]):
        return None
    has_space = len(node.outputs[0].shape) == len(node.input_tensors[0].shape)
    return channels if has_space else Channels(1, channels.numbers)


def _repeat_vector(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    return inputs[0] and Channels(2, inputs[0].numbers)


def _reshape(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    """Layers behind which the channels must lie along one axis of the new shape."""
    shapes = [tensor.shape[1:] for tensor in (node.input_tensors[0], node.outputs[0])]
    if inputs[0] is None or None in (*shapes[0], *shapes[1]):
        return None
    axis, numbers = inputs[0]
    placed = np.broadcast_to(numbers.reshape(-1, *[1] * (len(shapes[0]) - axis)), shapes[0])
    if getattr(node.operation, "data_format", None) == "channels_first":  # which `Flatten` moves to the end
        placed = np.moveaxis(placed, 0, -1)
    placed = placed.reshape(shapes[1])
    for new_axis, size in enumerate(shapes[1]):
        rows = np.moveaxis(placed, new_axis, -1).reshape(-1, size)
        if size > 1 and (rows == rows[0]).all():
            if isinstance(node.operation, layers.Reshape):
                graph.resize(node.operation, "target_shape", Channels(new_axis, rows[0]))
            return Channels(new_axis + 1, rows[0])
    return None


def _merge(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    """Sums, products and the like; a tensor with one channel is broadcast to all of them."""
    shapes = [tensor.shape for tensor in node.input_tensors]
    axes = {channels.axis for channels in inputs if channels is not None}
    arguments = tree.flatten((node.arguments.args, node.arguments.kwargs))
    has_arrays = not all(isinstance(argument, (keras.KerasTensor, int, float)) for argument in arguments)
    if has_arrays or len(axes) != 1 or len({len(shape) for shape in shapes}) != 1:
        return None
    (axis,) = axes
    size = node.outputs[0].shape[axis]
    full = [channels for channels, shape in zip(inputs, shapes, strict=True) if shape[axis] == size]
    for channels, shape in zip(inputs, shapes, strict=True):
        if shape[axis] != size:
            graph.keep(channels, f"{node.operation.name!r} takes one for all")
    graph.join(full, f"{node.operation.name!r} merges them with others that stay")
    return None if None in full else full[0]


def _concatenation(graph: ChannelGraph, node: Node, inputs: _Inputs) -> Channels | None:
    axis = node.operation.axis % len(node.outputs[0].shape)
    if not any(channels is not None and channels.axis == axis for channels in inputs):
        return _merge(graph, node, inputs)
    parts = []
    for channels, tensor in zip(inputs, node.input_tensors, strict=True):
        if channels is None or channels.axis != axis:
            graph.keep(channels, f"{node.operation.name!r} joins them along another axis")
            channels = Channels(axis, graph.new_numbers(tensor.shape[axis]))
            graph.keep(channels, "they are not known")
        parts.append(channels.numbers)
    return Channels(axis, np.concatenate(parts))


def _channel_axis(layer: keras.Layer, tensor: keras.KerasTensor) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else len(tensor.shape) - 1


_FUNCTIONS = tuple(
    getattr(keras.activations, name)
    for name in ("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh",
                 "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
                 "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
                 "tanh_shrink", "threshold")
)  # fmt: skip


def _is_elementwise(function: Callable | None) -> bool:
    return function is None or function in _FUNCTIONS or type(function) in (layers.ReLU, layers.LeakyReLU, layers.ELU)


def classes_of_ranks(*names: str) -> list[type]:
    """Returns layer classes by name; "{}" in a name stands for one, two and three dimensions."""
    classes = [getattr(layers, name.format(rank), None) for name in names for rank in (1, 2, 3)]
    return [layer_class for layer_class in classes if layer_class is not None]


# Weights of layers with filters, each with its axes of input channels and of output channels.
FILTERS: dict[type, dict[str, tuple[int | None, int | None]]] = {
    **{layer_class: {"kernel": (-2, -1), "bias": (None, 0)} for layer_class in classes_of_ranks("Dense", "Conv{}D")},
    **{layer_class: {"kernel": (-1, -2), "bias": (None, 0)} for layer_class in classes_of_ranks("Conv{}DTranspose")},
    **{
        layer_class: {"depthwise_kernel": (-2, None), "pointwise_kernel": (-2, -1), "bias": (None, 0)}
        for layer_class in classes_of_ranks("SeparableConv{}D")
    },
    layers.Embedding: {"embeddings": (None, -1)},
}
_LAYERS: dict[type, Rule] = {
    **dict.fromkeys(FILTERS, _filters),
    **dict.fromkeys(classes_of_ranks("DepthwiseConv{}D"), _depthwise),
    **dict.fromkeys(classes_of_ranks("BatchNormalization", "LayerNormalization", "RMSNormalization"), _normalization),
    layers.PReLU: _prelu,
    **dict.fromkeys(
        classes_of_ranks("Activation", "ReLU", "LeakyReLU", "ELU", "Identity", "ActivityRegularization", "Dropout",
                         "GaussianDropout", "GaussianNoise", "AlphaDropout"),
        _elementwise,
    ),
    layers.Rescaling: _rescaling,
    **dict.fromkeys(
        classes_of_ranks("MaxPooling{}D", "AveragePooling{}D", "GlobalMaxPooling{}D", "GlobalAveragePooling{}D",
                         "AdaptiveMaxPooling{}D", "AdaptiveAveragePooling{}D", "ZeroPadding{}D", "Cropping{}D",
                         "UpSampling{}D", "SpatialDropout{}D"),
        _spatial,
    ),
    layers.RepeatVector: _repeat_vector,
    **dict.fromkeys((layers.Flatten, layers.Reshape), _reshape),
    **dict.fromkeys(classes_of_ranks("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _merge),
    layers.Concatenate: _concatenation,
}  # fmt: skip
_OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(
        ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "Silu", "HardSilu", "Gelu", "Softplus",
         "Tanh", "Absolute", "Negative", "Square", "Sqrt", "Exp"),
        _elementwise,
    ),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum"), _merge),
    "Concatenate": _concatenation,
}  # fmt: skip

# Rules that follow the channels of all inputs; every other rule follows those of the first.
RULES_OF_SEVERAL_INPUTS = (_merge, _concatenation)
