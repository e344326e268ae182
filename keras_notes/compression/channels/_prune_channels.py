"""`prune_channels`: a smaller network, without its least important filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
import numpy as np

from keras_notes._shared.checks import check_choice, one_line, received
from keras_notes._shared.keras_internals import custom_classes_of, layers_of
from keras_notes._shared.models.layer_patterns import check_skip, matches_any, skip_patterns
from keras_notes._shared.types import Config
from keras_notes.compression._copies import check_built, finalize_layers
from keras_notes.compression.channels._analysis import analyze_channels, function_of
from keras_notes.compression.channels._channel_graph import ChannelGraph, connected_components
from keras_notes.compression.channels._layer_rules import has_rule

__all__ = ["prune_channels"]

# Takes the numbers of channels along an axis, and returns the indices of those that remain.
_Remaining: TypeAlias = Callable[[np.ndarray], np.ndarray]


def prune_channels(
    model: keras.Model, sparsity: float, *, scope: str = "layer", skip: Sequence[str] = ()
) -> keras.Model:
    """Returns a smaller model, without the channels whose filters have the smallest norms.

    Filters of convolutions, units of dense layers and columns of embeddings are removed, and everything that runs over
    these channels: their batch normalizations, depthwise filters, and the inputs of the next layers, through pooling,
    `Flatten` and concatenations. Channels that are added or multiplied elementwise are one channel, and are removed
    together. The result is a plain model: fine-tune it, then `prune`, `quantize_aware` or `convert` it as any other.

        importance of a channel = sqrt(sum of w^2), over the weights w of all filters that produce it, each times
                                  gamma / sqrt(variance + epsilon) of a batch normalization right behind it

    These channels stay: inputs and outputs of the model; channels that reach a layer that mixes or orders them in its
    own way, such as softmax, attention, recurrent layers, grouped convolutions, `Permute`, or a custom class; and at
    least one channel of each layer. Layer normalization uses the statistics of the channels that remain.

    Args:
        model: Built functional or sequential model, which may contain others. It is not changed.
        sparsity: Share of channels that are removed, in [0, 1), of those that can be.
        scope: "layer": each group of layers whose channels are one loses that share. "global": all groups together lose
            it, by one ranking of importances, each divided by the mean of its group.
        skip: Patterns of the names or paths ("block/*") of layers that keep the channels of their outputs.

    Returns:
        A model of the same class, with the same names, not compiled.

    Raises:
        TypeError: If `model` is not a Keras model, or `skip` is not a sequence of strings.
        ValueError: If the model is subclassed or not built, an argument is out of its range, a pattern matches no
            layer, or no channel can be removed; gives the reason.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)])
        >>> pruned = prune_channels(model, 0.75)
        >>> [layer.units for layer in pruned.layers], model.count_params(), pruned.count_params()
        ([4, 4], 212, 56)

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1, for norms. Fang et al.,
        "DepGraph: Towards Any Structural Pruning", CVPR 2023, section 3, for groups.
    """
    share = _check_sparsity(sparsity)
    check_choice("scope", scope, ("layer", "global"))
    patterns = skip_patterns(skip)
    graph = analyze_channels(_check_function(model), lambda path: matches_any(patterns, path))
    check_skip(patterns, graph.paths)
    channels = graph.components()
    producers = _producers_by_channel(graph, channels)
    groups = _group_channels(graph, channels, producers)
    if not groups:
        raise ValueError(_explain_no_channels(model, graph, channels))
    is_removed = np.zeros(graph.count, bool)
    is_removed[_choose_channels(groups, producers, _importances(graph, channels), share, scope)] = True
    if share and not is_removed.any():
        raise ValueError(
            f"`sparsity` must be high enough to remove one channel. {received(sparsity=sparsity)} Of the channels that "
            f"can be removed, groups of layers have {', '.join(map(str, sorted(map(len, groups))))}."
        )
    return _rebuild(model, graph, lambda numbers: np.flatnonzero(~is_removed[channels[numbers]]))


def _producers_by_channel(graph: ChannelGraph, channels: np.ndarray) -> dict[int, list[int]]:
    """Returns for each channel the indices of the producers that make it."""
    producers: dict[int, list[int]] = {}
    for index, producer in enumerate(graph.producers):
        for channel in np.unique(channels[producer.numbers]).tolist():
            producers.setdefault(channel, []).append(index)
    return producers


def _group_channels(graph: ChannelGraph, channels: np.ndarray, producers: dict[int, list[int]]) -> list[list[int]]:
    """Returns the channels that can be removed, grouped by the producers that share some of them."""
    edges = [np.array([[indices[0]] * len(indices), indices]) for indices in producers.values()]
    group_of = connected_components(len(graph.producers), edges)
    kept = {channel for numbers, _ in graph.kept for channel in channels[numbers].tolist()}
    groups: dict[int, list[int]] = {}
    for channel, indices in producers.items():
        if channel not in kept:
            groups.setdefault(int(group_of[indices[0]]), []).append(channel)
    return list(groups.values())


def _choose_channels(
    groups: list[list[int]], producers: dict[int, list[int]], importance: np.ndarray, share: float, scope: str
) -> list[int]:
    """Returns the least important channels, but never the last channel of a producer."""
    if scope == "global":
        for group in groups:
            importance[group] /= max(importance[group].mean(), np.finfo(float).tiny)
        groups = [[channel for group in groups for channel in group]]
    remaining = Counter(index for indices in producers.values() for index in indices)
    removed: list[int] = []
    for group in groups:
        target = len(removed) + round(share * len(group))
        for channel in sorted(group, key=importance.__getitem__):
            if len(removed) < target and all(remaining[index] > 1 for index in producers[channel]):
                removed.append(channel)
                remaining.subtract(producers[channel])
    return removed


def _importances(graph: ChannelGraph, channels: np.ndarray) -> np.ndarray:
    """Returns the norm of the filters of each channel, with batch normalization folded in."""
    squares = np.zeros(graph.count)
    for producer in graph.producers:
        factors = _folded_factors(graph.normalization_of(producer.layer), producer.numbers.size)
        for variable in producer.layer.weights:
            for axis, numbers in graph.cuts_of(variable):
                if numbers is producer.numbers and variable.ndim > 1:
                    weights = np.asarray(keras.ops.convert_to_numpy(variable), "float64")
                    norms = np.square(np.moveaxis(weights, axis, -1)).reshape(-1, numbers.size).sum(0)
                    np.add.at(squares, channels[numbers], norms * factors**2)
    return np.sqrt(squares)


def _folded_factors(normalization: keras.Layer | None, size: int) -> np.ndarray:
    if normalization is None:
        return np.ones(size)
    values = {
        variable.name: np.asarray(keras.ops.convert_to_numpy(variable), "float64") for variable in normalization.weights
    }
    return values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + normalization.epsilon)


def _explain_no_channels(model: keras.Model, graph: ChannelGraph, channels: np.ndarray) -> str:
    reasons = {channel: reason for numbers, reason in graph.kept for channel in channels[numbers].tolist()}
    explanations = [
        f"those of {'/'.join(producer.path)!r}, because {reasons[int(channels[producer.numbers[0]])]}"
        for producer in graph.producers
    ]
    return (
        f"`model` must have channels that can be removed. Received: {model.name!r}, where all stay: "
        f"{'; '.join(explanations) or 'no layer makes channels by filters of its own'}."
    )


def _rebuild(model: keras.Model, graph: ChannelGraph, remaining: _Remaining) -> keras.Model:
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        _resize_layers(config["config"], _check_function(model), graph, remaining)
        # Not in safe mode: the configuration never left this process.
        pruned = keras.saving.deserialize_keras_object(config, custom_objects=custom_classes_of(model), safe_mode=False)
        _copy_weights(model, pruned, graph, remaining)
    except Exception as error:  # a layer without a `get_config`, or an initializer of one shape, can raise anything
        raise ValueError(
            f"`model` must be made of layers whose `get_config` allows other numbers of channels. Received: "
            f"{model.name!r}: {one_line(str(error), 200)}"
        ) from error
    return pruned


def _resize_layers(config: Config, function: keras.Function, graph: ChannelGraph, remaining: _Remaining) -> None:
    """Writes the new numbers of channels into the configuration of a model."""
    operations = {operation.name: operation for operation in function.operations}
    for part in config["layers"]:
        operation = operations[part["config"]["name"]]
        inner_function = function_of(operation)
        part.pop("compile_config", None)
        if has_rule(operation) or inner_function is not None:
            part.pop("build_config", None)  # it holds the old shapes
        if (size := graph.size_of(operation)) is not None:
            axis, numbers = size.channels
            count, entry = len(remaining(numbers)), getattr(operation, size.key)
            part["config"][size.key] = count if isinstance(entry, int) else [*entry[:axis], count, *entry[axis + 1 :]]
        if inner_function is not None:
            _resize_layers(part["config"], inner_function, graph, remaining)


def _copy_weights(model: keras.Model, pruned: keras.Model, graph: ChannelGraph, remaining: _Remaining) -> None:
    """Gives the new model the remaining weights, and freezes what was frozen."""
    for layer, new_layer in zip(layers_of(model), layers_of(pruned), strict=True):
        if new_layer.trainable != layer.trainable:  # outer ones first, because they set the inner ones
            new_layer.trainable = layer.trainable
    for variable, new_variable in zip(model.variables, pruned.variables, strict=True):
        value = keras.ops.convert_to_numpy(variable)
        for axis, numbers in graph.cuts_of(variable):
            value = np.take(value, remaining(numbers), axis)
        new_variable.assign(value)
        if new_variable.trainable != variable.trainable:
            new_variable.trainable = variable.trainable
    finalize_layers(pruned)


def _check_function(model: keras.Model) -> keras.Function:
    check_built(model)
    if (function := function_of(model)) is None:
        raise ValueError(
            f"`model` must be functional or sequential, so that it can be made again with fewer channels. Received: "
            f"{model.name!r}, a {type(model).__name__}. Build it as `keras.Model(inputs, outputs)`. `strip` a result "
            f"of `prune`, `cluster` or `quantize_aware` first, or prune channels before these."
        )
    return function


def _check_sparsity(sparsity: float) -> float:
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise ValueError(
            f"`sparsity` must be a number in [0, 1): the share of channels to remove. {received(sparsity=sparsity)}"
        )
    return float(sparsity)
