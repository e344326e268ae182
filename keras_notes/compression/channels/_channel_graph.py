"""The channels of a model: which channels are one, and which variables and layer sizes they run through.

Each channel that a layer produces gets a number. Tensors carry the numbers of their channels through the model: a
concatenation joins two lists of numbers, `Flatten` repeats each number, and where tensors are added, the numbers in the
same place become one channel. Channels that reach an operation without a rule stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_notes._shared.models.layer_patterns import Path
from keras_notes._shared.types import Operation

__all__ = ["ChannelGraph", "Channels", "Producer", "Size", "connected_components"]


class Channels(NamedTuple):
    """Channels along one axis of a tensor, a variable, or a shape in a configuration.

    Attributes:
        axis: The axis.
        numbers: The number of each channel along the axis.
    """

    axis: int
    numbers: np.ndarray


class Producer(NamedTuple):
    """A layer that produces channels by filters of its own.

    Attributes:
        layer: The layer.
        path: The names down to it, from the outermost layer.
        numbers: The numbers of its channels.
    """

    layer: keras.Layer
    path: Path
    numbers: np.ndarray


class Size(NamedTuple):
    """An entry of a layer's configuration that counts channels.

    Attributes:
        key: The key of the entry, such as "units" or "batch_shape".
        channels: The channels; their axis is the place in the entry if the entry is a shape.
    """

    key: str
    channels: Channels


class ChannelGraph:
    """The channels of a model, as far as it has been analyzed.

    Attributes:
        producers: The layers that produce channels, in the order of the model.
        paths: The path of each layer that was analyzed, once for each of its calls.
        kept: Numbers of channels that stay, and the reason.
        count: The number of channel numbers.
    """

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.kept: list[tuple[np.ndarray, str]] = []
        self.count = 0
        self._producers: dict[int, Producer] = {}
        self._cuts: dict[int, list[Channels]] = {}
        self._sizes: dict[int, Size] = {}
        self._linear_layers: dict[int, keras.Layer] = {}
        self._normalizations: dict[int, keras.Layer] = {}
        self._pairs: list[np.ndarray] = []

    @property
    def producers(self) -> list[Producer]:
        """The layers that produce channels, in the order of the model."""
        return list(self._producers.values())

    def new_numbers(self, count: int) -> np.ndarray:
        """Returns numbers for channels that were not numbered before."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def add_producer(self, layer: keras.Layer, count: int) -> Producer:
        """Returns the producer of a layer on the last path; a layer that is called again keeps its numbers."""
        if id(layer) not in self._producers:
            self._producers[id(layer)] = Producer(layer, self.paths[-1], self.new_numbers(count))
        return self._producers[id(layer)]

    def add_linear_layer(self, layer: keras.Layer, output: keras.KerasTensor) -> None:
        """Records a producer without an activation, into which a batch normalization right behind it can be folded."""
        self._linear_layers[id(output)] = layer

    def add_normalization(self, normalization: keras.Layer, source: keras.KerasTensor) -> None:
        """Records a batch normalization of a tensor, if the tensor is the output of a linear layer."""
        if (layer := self._linear_layers.get(id(source))) is not None:
            self._normalizations[id(layer)] = normalization

    def normalization_of(self, layer: keras.Layer) -> keras.Layer | None:
        """Returns the batch normalization right behind a linear producer; None if there is none."""
        return self._normalizations.get(id(layer))

    def cut(self, variable: keras.Variable, *channels: Channels) -> None:
        """Lets axes of a variable run over channels; replaces what an earlier call said of this variable."""
        self._cuts[id(variable)] = list(channels)

    def cuts_of(self, variable: keras.Variable) -> list[Channels]:
        """Returns the channels along the axes of a variable."""
        return self._cuts.get(id(variable), [])

    def resize(self, operation: Operation, key: str, channels: Channels) -> None:
        """Lets an entry of a layer's configuration count channels."""
        self._sizes[id(operation)] = Size(key, channels)

    def size_of(self, operation: Operation) -> Size | None:
        """Returns the entry of a layer's configuration that counts channels; None if there is none."""
        return self._sizes.get(id(operation))

    def keep(self, channels: Channels | None, reason: str) -> None:
        """Lets channels stay."""
        if channels is not None:
            self.kept.append((channels.numbers, reason))

    def join(self, operands: Sequence[Channels | None], reason: str) -> None:
        """Makes channels in the same place one channel; all of them stay if the operands do not fit each other.

        Args:
            operands: Channels of each tensor; None for a tensor whose channels have no numbers.
            reason: Reason for which channels stay.
        """
        present = [channels for channels in operands if channels is not None]
        layouts = {(channels.axis, channels.numbers.size) for channels in present}
        if len(present) == len(operands) and len(layouts) == 1:
            first, *others = present
            self._pairs += [np.stack([first.numbers, channels.numbers]) for channels in others]
        else:
            for channels in present:
                self.keep(channels, reason)

    def components(self) -> np.ndarray:
        """Returns for each number the smallest number of the same channel."""
        return connected_components(self.count, self._pairs)


def connected_components(count: int, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """Returns for each node of a graph the smallest node that is connected to it.

    Args:
        count: Number of nodes.
        pairs: Edges, each array of shape (2, edges).
    """
    smallest = np.arange(count)
    a, b = np.concatenate([np.zeros((2, 0), int), *pairs], axis=1)
    while True:
        before = smallest.copy()
        lower = np.minimum(smallest[a], smallest[b])
        np.minimum.at(smallest, a, lower)
        np.minimum.at(smallest, b, lower)
        smallest = smallest[smallest]
        if np.array_equal(smallest, before):
            return smallest
