"""Which weights are pruned and clustered: the kernels of products and convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import keras
from keras import layers

from keras_notes._checks import received

__all__ = ["Kernel", "kernels_of"]

_NAMES = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)

Path = tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """A kernel of a network.

    Attributes:
        number: Its place in `network.variables`.
        variable: The variable.
        input_axis: The axis that runs over the inputs, the last one if there are several; None for a depthwise
            convolution, each of whose channels has weights of its own.
        paths: The names of the layers down to its own; several if one is shared.
    """

    number: int
    variable: keras.Variable
    input_axis: int | None
    paths: tuple[Path, ...]

    @property
    def layer(self) -> str:
        """The path of its layer."""
        return "/".join(self.paths[0])

    def matches(self, pattern: str) -> bool:
        """Whether a pattern is that of its layer or of one around it, by name or path."""
        parts = {
            "/".join(path[start:end])
            for path in self.paths
            for start in range(len(path))
            for end in range(start + 1, len(path) + 1)
        }
        return any(fnmatchcase(part, pattern) for part in parts)


def kernels_of(network: keras.Model, skip: Any, *, only_trainable: bool = False) -> list[Kernel]:
    """The kernels of a network, but for those of layers whose name or path matches a pattern of `skip`.

    Raises:
        ValueError: If a pattern matches no layer with a kernel, or none is left.
        TypeError: If `skip` is no sequence of strings.
    """
    if isinstance(skip, str) or not all(isinstance(pattern, str) for pattern in skip):
        raise TypeError(f"`skip` must be a sequence of patterns of layer names. {received(skip=skip)}")
    found = _all_kernels(network)
    names = ", ".join(dict.fromkeys(kernel.layer for kernel in found))
    if unmatched := [pattern for pattern in skip if not any(kernel.matches(pattern) for kernel in found)]:
        raise ValueError(f"`skip` must name layers with kernels: {names}. {received(skip=unmatched)}")
    left = [kernel for kernel in found if not any(map(kernel.matches, skip))]
    if only_trainable:
        left = [kernel for kernel in left if kernel.variable.trainable]
    if not left:
        kinds = "trainable kernels" if only_trainable else "kernels"
        raise ValueError(
            f"`model` must have {kinds} that are not skipped. Received: {network.name!r} with {names or 'none'}."
        )
    return left


def _all_kernels(network: keras.Model) -> list[Kernel]:
    numbers = {id(variable): number for number, variable in enumerate(network.variables)}
    found: dict[int, Kernel] = {}
    for path, layer in _layers_in(network, (), ()):
        for variable in layer._trainable_variables:
            number = numbers.get(id(variable))
            if variable.name in _NAMES and len(variable.shape) > 1 and number is not None:
                paths = (*found[number].paths, path) if number in found else (path,)
                found[number] = Kernel(number, variable, _input_axis(layer, variable), paths)
    return list(found.values())


def _layers_in(layer: Any, path: Path, around: tuple[Any, ...]) -> Iterator[tuple[Path, Any]]:
    if path:
        yield path, layer
    for inner in layer._layers:
        if inner is not layer and inner not in around:
            yield from _layers_in(inner, (*path, inner.name), (*around, layer))


def _input_axis(layer: Any, variable: keras.Variable) -> int | None:
    if variable.name == "depthwise_kernel" or isinstance(layer, _DEPTHWISE):
        return None
    if isinstance(layer, _TRANSPOSED):
        return len(variable.shape) - 1
    if isinstance(layer, layers.EinsumDense):
        labels, output = layer.equation.replace(" ", "").split(",")[1].split("->")
        return max((axis for axis, label in enumerate(labels) if label not in output), default=None)
    return len(variable.shape) - 2
