"""The analysis of the channels of a functional model, node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import layers

from keras_notes._shared.keras_internals import (
    functional_of,
    input_structure_of,
    is_keras_class,
    nodes_in_order,
    operation_of,
)
from keras_notes._shared.models.layer_patterns import Path
from keras_notes._shared.types import Node, Operation
from keras_notes.compression.channels._channel_graph import ChannelGraph, Channels
from keras_notes.compression.channels._layer_rules import RULES_OF_SEVERAL_INPUTS, rule_of

__all__ = ["analyze_channels", "function_of"]


def analyze_channels(function: keras.Function, is_skipped: Callable[[Path], bool]) -> ChannelGraph:
    """Returns the channels of a model.

    Args:
        function: Graph of the model.
        is_skipped: Function of a layer's path that returns whether the layer keeps the channels of its outputs.
    """
    analysis = _Analysis(is_skipped)
    for channels in analysis.follow(function, [None] * len(function.inputs), ()):
        analysis.graph.keep(channels, "the model returns them")
    return analysis.graph


def function_of(model: Operation) -> keras.Function | None:
    """Returns the graph of a functional or sequential model of Keras's own classes; None for anything else."""
    # A custom class can compute anything in its `call`.
    return functional_of(model) if is_keras_class(type(model)) else None


class _Analysis:
    """Follows channels through a model and the models in it, and records them in a graph."""

    def __init__(self, is_skipped: Callable[[Path], bool]) -> None:
        self.graph = ChannelGraph()
        self._is_skipped = is_skipped
        self._first_inputs: dict[int, Sequence[Channels | None]] = {}

    def follow(self, function: keras.Function, inputs: Sequence[Channels | None], path: Path) -> list[Channels | None]:
        """Returns the channels of a model's outputs."""
        known = {id(tensor): channels for tensor, channels in zip(function.inputs, inputs, strict=True)}
        for tensor in function.inputs:
            if (channels := known[id(tensor)]) is not None:
                self.graph.resize(operation_of(tensor)[0], "batch_shape", channels)
        for node in nodes_in_order(function):
            node_inputs = [known[id(tensor)] for tensor in node.input_tensors]
            outputs = self._follow_node(node, node_inputs, (*path, node.operation.name))
            known.update(zip(map(id, node.outputs), outputs, strict=True))
        return [known[id(tensor)] for tensor in function.outputs]

    def _follow_node(self, node: Node, inputs: list[Channels | None], path: Path) -> list[Channels | None]:
        operation, name = node.operation, "/".join(path)
        self.graph.paths.append(path)
        if getattr(operation, "weights", ()) or isinstance(operation, layers.Reshape):
            first_inputs = self._first_inputs.setdefault(id(operation), inputs)
            for first, channels in zip(first_inputs, inputs, strict=True):
                self.graph.join([first, channels], f"{name!r} is called on channels of several kinds")
        if (function := function_of(operation)) is not None and _takes_in_order(function, node):
            outputs = self.follow(function, inputs, path)
        else:
            outputs = [self._apply_rule(node, inputs, name)] * len(node.outputs)
        if self._is_skipped(path):
            for channels in outputs:
                self.graph.keep(channels, f"{name!r} is skipped")
        return outputs

    def _apply_rule(self, node: Node, inputs: list[Channels | None], name: str) -> Channels | None:
        rule = rule_of(node.operation)
        output = rule(self.graph, node, inputs) if rule else None
        if output is None:
            for channels in inputs:
                self.graph.keep(channels, f"they reach {name!r} ({type(node.operation).__name__})")
        elif rule not in RULES_OF_SEVERAL_INPUTS:
            for channels in inputs[1:]:
                self.graph.keep(channels, f"{name!r} takes them beside its input")
        return output


def _takes_in_order(function: keras.Function, node: Node) -> bool:
    """Returns whether a model takes the tensors of a node in the order of its inputs; it takes a dict by name."""
    if len(node.input_tensors) != len(function.inputs):
        return False
    argument = next(iter(node.arguments.args), None)
    return len(function.inputs) == 1 or isinstance(argument, dict) == isinstance(input_structure_of(function), dict)
