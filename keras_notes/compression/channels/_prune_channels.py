"""`prune_channels`: a smaller network, without the filters that matter least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_notes._shared.checks import check_choice, one_line, received
from keras_notes.compression._copies import check_built, finalize
from keras_notes.compression._layer_patterns import check_skip, is_skipped, skip_patterns
from keras_notes.compression.channels._channel_graph import ChannelGraph, equivalence, function_of
from keras_notes.compression.channels._layer_rules import has_rule

__all__ = ["prune_channels"]


def prune_channels(
    model: keras.Model, sparsity: float, *, scope: str = "layer", skip: Sequence[str] = ()
) -> keras.Model:
    """Returns a smaller model, without the channels whose filters have the least norms.

    Filters of convolutions, units of dense layers and columns of embeddings go, and with them what computes of them:
    their batch normalizations, depthwise filters, and the inputs of the next layers, through pooling, `Flatten` and
    concatenations. Channels that are added or multiplied elementwise are one, and go together. The model is a plain
    one: fine-tune it, and then `prune`, `quantize_aware` or `convert` it as any other.

        importance of a channel = sqrt(sum of w^2), over all filters w that make it, each times
                                  gamma / sqrt(variance + epsilon) of a batch normalization right behind it

    These stay: inputs and outputs of the model; channels that reach a layer that mixes or orders them in ways of its
    own, such as softmax, attention, recurrent layers, grouped convolutions, `Permute`, or a class of your own; and one
    channel of each layer at least. Layer normalization goes on with the statistics of the channels that are left.

    Args:
        model: A built functional or sequential model, models in it included. It stays as it is.
        sparsity: The share of channels that go, in [0, 1), of those that can.
        scope: "layer": each group of layers whose channels are one loses that share. "global": all of them together do,
            by one ranking of importances, each divided by the mean of its group.
        skip: Patterns of names or paths ("block/*") of layers that keep the channels that they give.

    Returns:
        A model of the same class, with the same names, not compiled.

    Raises:
        ValueError: If the model is subclassed or not built, an argument is out of its range, a pattern matches no
            layer, or no channel can go; says why.

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
    share = _checked_sparsity(sparsity)
    check_choice("scope", scope, ("layer", "global"))
    patterns = skip_patterns(skip)
    graph = ChannelGraph(_checked_function(model), lambda path: is_skipped(path, patterns))
    check_skip(patterns, graph.paths)
    classes = graph.classes()
    makers = _makers(graph, classes)
    groups = _groups(graph, classes, makers)
    if not groups:
        raise ValueError(_why_none(model, graph, classes))
    gone = np.zeros(graph.count, bool)
    gone[_chosen(groups, makers, _importances(graph, classes), share, scope)] = True
    if share and not gone.any():
        raise ValueError(
            f"`sparsity` must be high enough for one channel to go. {received(sparsity=sparsity)} Of the channels that "
            f"can, groups of layers have {', '.join(map(str, sorted(map(len, groups))))}."
        )
    return _rebuilt(model, graph, lambda numbers: np.flatnonzero(~gone[classes[numbers]]))


def _makers(graph: ChannelGraph, classes: np.ndarray) -> dict[int, list[int]]:
    """For each channel the layers that make it, counted in the order of the graph."""
    makers: dict[int, list[int]] = {}
    for maker, producer in enumerate(graph.producers.values()):
        for channel in np.unique(classes[producer.numbers]).tolist():
            makers.setdefault(channel, []).append(maker)
    return makers


def _groups(graph: ChannelGraph, classes: np.ndarray, makers: dict[int, list[int]]) -> list[list[int]]:
    """The channels that can go, those of layers that share some together."""
    shared = [np.array([[several[0]] * len(several), several]) for several in makers.values()]
    group_of = equivalence(len(graph.producers), shared)
    kept = {channel for numbers, _ in graph.kept for channel in classes[numbers].tolist()}
    groups: dict[int, list[int]] = {}
    for channel, several in makers.items():
        if channel not in kept:
            groups.setdefault(int(group_of[several[0]]), []).append(channel)
    return list(groups.values())


def _chosen(
    groups: list[list[int]], makers: dict[int, list[int]], importance: np.ndarray, share: float, scope: str
) -> list[int]:
    """The channels that go: of least importance, but never the last one of a layer."""
    if scope == "global":
        for channels in groups:
            importance[channels] /= max(importance[channels].mean(), np.finfo(float).tiny)
        groups = [[channel for channels in groups for channel in channels]]
    left = Counter(maker for several in makers.values() for maker in several)
    chosen: list[int] = []
    for channels in groups:
        wanted = len(chosen) + round(share * len(channels))
        for channel in sorted(channels, key=importance.__getitem__):
            if len(chosen) < wanted and all(left[maker] > 1 for maker in makers[channel]):
                chosen.append(channel)
                left.subtract(makers[channel])
    return chosen


def _importances(graph: ChannelGraph, classes: np.ndarray) -> np.ndarray:
    """Norms of the filters of each channel, batch normalization folded in."""
    squares = np.zeros(graph.count)
    for key, producer in graph.producers.items():
        factors = _folded(graph.normalizations.get(key), producer.numbers.size)
        for variable in producer.layer.weights:
            for axis, numbers in graph.cuts[id(variable)]:
                if numbers is producer.numbers and variable.ndim > 1:
                    weights = np.asarray(keras.ops.convert_to_numpy(variable), "float64")
                    norms = np.square(np.moveaxis(weights, axis, -1)).reshape(-1, numbers.size).sum(0)
                    np.add.at(squares, classes[numbers], norms * factors**2)
    return np.sqrt(squares)


def _folded(normalization: Any, size: int) -> np.ndarray:
    if normalization is None:
        return np.ones(size)
    values = {one.name: np.asarray(keras.ops.convert_to_numpy(one), "float64") for one in normalization.weights}
    return values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + normalization.epsilon)


def _why_none(model: keras.Model, graph: ChannelGraph, classes: np.ndarray) -> str:
    reasons = {channel: reason for numbers, reason in graph.kept for channel in classes[numbers].tolist()}
    each = [
        f"those of {'/'.join(producer.path)!r}, because {reasons[int(classes[producer.numbers[0]])]}"
        for producer in graph.producers.values()
    ]
    return (
        f"`model` must have channels that can go. Received: {model.name!r}, where all stay: "
        f"{'; '.join(each) or 'no layer makes channels by filters of its own'}."
    )


def _rebuilt(model: keras.Model, graph: ChannelGraph, left: Callable[[np.ndarray], np.ndarray]) -> keras.Model:
    kinds = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    own = {name: kind for name, kind in kinds.items() if not kind.__module__.startswith("keras.")}
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        _resize(config["config"], model, graph, left)
        # Not in safe mode: it never left this process.
        pruned = keras.saving.deserialize_keras_object(config, custom_objects=own, safe_mode=False)
        _fill(model, pruned, graph, left)
    except Exception as error:  # whatever a layer raises that has no `get_config`, or an initializer of one shape
        raise ValueError(
            f"`model` must be made of layers that can be built anew from their `get_config`, for other numbers of "
            f"channels. Received: {model.name!r}: {one_line(str(error), 200)}"
        ) from error
    return pruned


def _resize(config: dict[str, Any], model: Any, graph: ChannelGraph, left: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes the new numbers of channels into the configuration of a model."""
    function = function_of(model)
    assert function is not None
    operations = {operation.name: operation for operation in function.operations}
    for part in config["layers"]:
        operation = operations[part["config"]["name"]]
        part.pop("compile_config", None)
        if has_rule(operation) or function_of(operation) is not None:
            part.pop("build_config", None)  # which holds the shapes of before
        if id(operation) in graph.sizes:
            entry, (axis, numbers) = graph.sizes[id(operation)]
            size: Any = getattr(operation, entry)
            count = len(left(numbers))
            part["config"][entry] = count if isinstance(size, int) else [*size[:axis], count, *size[axis + 1 :]]
        if function_of(operation) is not None:
            _resize(part["config"], operation, graph, left)


def _fill(
    model: keras.Model, pruned: keras.Model, graph: ChannelGraph, left: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Gives the new model the weights that are left, and what is frozen."""
    for old, new in zip(model._flatten_layers(), pruned._flatten_layers(), strict=True):
        if new.trainable != old.trainable:  # outer ones first, because they set the inner ones
            new.trainable = old.trainable
    for old, new in zip(model.variables, pruned.variables, strict=True):
        value = keras.ops.convert_to_numpy(old)
        for axis, numbers in graph.cuts.get(id(old), ()):
            value = np.take(value, left(numbers), axis)
        new.assign(value)
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    finalize(pruned)


def _checked_function(model: Any) -> keras.Function:
    check_built(model)
    if (function := function_of(model)) is None:
        raise ValueError(
            f"`model` must be functional or sequential, so that it can be built anew with fewer channels. Received: "
            f"{model.name!r}, a {type(model).__name__}. Build it as `keras.Model(inputs, outputs)`. What `prune`, "
            f"`cluster` or `quantize_aware` made, `strip` before, or prune channels first."
        )
    return function


def _checked_sparsity(sparsity: Any) -> float:
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise ValueError(
            f"`sparsity` must be a number in [0, 1): the share of channels that go. {received(sparsity=sparsity)}"
        )
    return float(sparsity)
