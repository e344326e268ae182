"""Which channels of a model are one, and what is cut with them.

Each channel that a layer makes gets a number. Tensors carry the numbers of their channels through the model: a
concatenation joins two lists, `Flatten` repeats one, and where tensors are added up, numbers in the same place become
one channel. What no rule describes keeps the channels that reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_notes.compression.channels._layer_rules import TAKES_SEVERAL, Channels, Producer, rule_of

__all__ = ["ChannelGraph", "Channels", "Producer", "equivalence", "function_of"]


class ChannelGraph:
    """The channels of a model.

    Args:
        function: The graph of the model.
        is_skipped: Whether the layer with this path, from the outermost name, keeps the channels that it gives.

    Attributes:
        producers: The layers that make channels, by their identity.
        linear: Those without an activation, by the identity of their output.
        normalizations: The batch normalization right behind some of them, by the identity of the producer.
        cuts: What runs over channels, by the identity of the variable.
        sizes: The entry of a configuration that counts channels, by the identity of the layer.
        kept: Numbers that stay, and why.
        paths: Of all layers, from the outermost name.
        count: How many numbers there are.
    """

    def __init__(self, function: keras.Function, is_skipped: Callable[[tuple[str, ...]], bool]) -> None:
        self.producers: dict[int, Producer] = {}
        self.linear: dict[int, keras.Layer] = {}
        self.normalizations: dict[int, keras.Layer] = {}
        self.cuts: dict[int, list[Channels]] = {}
        self.sizes: dict[int, tuple[str, Channels]] = {}
        self.kept: list[tuple[np.ndarray, str]] = []
        self.paths: list[tuple[str, ...]] = []
        self.count = 0
        self._is_skipped = is_skipped
        self._pairs: list[np.ndarray] = []
        self._first_inputs: dict[int, list[Channels | None]] = {}
        for channels in self._walk(function, [None] * len(function.inputs), ()):
            self.keep(channels, "the model returns them")

    def classes(self) -> np.ndarray:
        """For each number the least of those that are one channel with it."""
        return equivalence(self.count, self._pairs)

    def new(self, count: int) -> np.ndarray:
        """New numbers."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def keep(self, channels: Channels | None, reason: str) -> None:
        """Lets channels stay."""
        if channels is not None:
            self.kept.append((channels.numbers, reason))

    def join(self, several: Sequence[Channels | None], reason: str) -> None:
        """Makes those in the same place one channel; all stay if some are in other places, or have no number."""
        present = [channels for channels in several if channels is not None]
        if len(present) == len(several) and len({(one.axis, one.numbers.size) for one in present}) == 1:
            self._pairs += [np.stack([present[0].numbers, one.numbers]) for one in present[1:]]
        else:
            for channels in present:
                self.keep(channels, reason)

    def _walk(
        self, function: keras.Function, given: Sequence[Channels | None], path: tuple[str, ...]
    ) -> list[Channels | None]:
        known = {id(tensor): channels for tensor, channels in zip(function.inputs, given, strict=True)}
        for tensor in function.inputs:
            if (channels := known[id(tensor)]) is not None:
                self.sizes[id(tensor._keras_history.operation)] = "batch_shape", channels
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if not node.is_input:
                    inputs = [known[id(tensor)] for tensor in node.input_tensors]
                    outputs = self._follow(node, inputs, (*path, node.operation.name))
                    known.update(zip(map(id, node.outputs), outputs, strict=True))
        return [known[id(tensor)] for tensor in function.outputs]

    def _follow(self, node: Any, given: list[Channels | None], path: tuple[str, ...]) -> list[Channels | None]:
        operation, name = node.operation, "/".join(path)
        self.paths.append(path)
        if getattr(operation, "weights", ()) or isinstance(operation, layers.Reshape):
            first = self._first_inputs.setdefault(id(operation), given)
            for one, other in zip(first, given, strict=True):
                self.join([one, other], f"{name!r} is called on channels of several kinds")
        if (function := function_of(operation)) is not None and _takes_in_order(function, node):
            outputs = self._walk(function, given, path)
        else:
            outputs = [self._apply(node, given, name)] * len(node.outputs)
        if self._is_skipped(path):
            for channels in outputs:
                self.keep(channels, f"{name!r} is skipped")
        return outputs

    def _apply(self, node: Any, given: list[Channels | None], name: str) -> Channels | None:
        rule = rule_of(node.operation)
        found = rule(self, node, given) if rule else None
        if found is None:
            for channels in given:
                self.keep(channels, f"they reach {name!r} ({type(node.operation).__name__})")
        elif rule not in TAKES_SEVERAL:
            for channels in given[1:]:
                self.keep(channels, f"{name!r} takes them beside its input")
        return found


def function_of(model: Any) -> keras.Function | None:
    """The graph of a functional or sequential model; None for anything else."""
    inner = getattr(model, "_functional", model)
    # A class of its own may compute anything in its `call`.
    return inner if isinstance(inner, keras.Function) and type(model).__module__.startswith("keras.") else None


def _takes_in_order(function: keras.Function, node: Any) -> bool:
    """Whether a model takes the tensors of a node as it lists its inputs; from a dict it takes them by name."""
    if len(node.input_tensors) != len(function.inputs):
        return False
    given = next(iter(node.arguments.args), None)
    return len(function.inputs) == 1 or isinstance(given, dict) == isinstance(function._inputs_struct, dict)


def equivalence(count: int, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """For each of `count` numbers the least that is equal to it, where the two rows of each pair are equal."""
    least = np.arange(count)
    a, b = np.concatenate([np.zeros((2, 0), int), *pairs], axis=1)
    while True:
        before = least.copy()
        lower = np.minimum(least[a], least[b])
        np.minimum.at(least, a, lower)
        np.minimum.at(least, b, lower)
        least = least[least]
        if np.array_equal(least, before):
            return least
