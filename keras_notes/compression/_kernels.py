"""Which weights are pruned and clustered: the kernels of products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import keras

from keras_notes._checks import received

__all__ = ["Kernel", "kernels_of"]

_NAMES = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


@dataclass(frozen=True)
class Kernel:
    """A kernel of a network.

    Attributes:
        number: Its place in `network.variables`.
        variable: The variable.
        layer: The name of its layer.
    """

    number: int
    variable: keras.Variable
    layer: str

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has weights of its own, so that none runs over its inputs."""
        return self.variable.name == "depthwise_kernel" or "depthwise" in self.variable.path


def kernels_of(network: keras.Model, skip: Any) -> list[Kernel]:
    """The kernels of a network, but for those of layers whose name or path matches a pattern of `skip`.

    Raises:
        ValueError: If a pattern matches no layer with a kernel, or none is left.
        TypeError: If `skip` is no sequence of strings.
    """
    if isinstance(skip, str) or not all(isinstance(pattern, str) for pattern in skip):
        raise TypeError(f"`skip` must be a sequence of patterns of layer names. {received(skip=skip)}")
    numbers = {id(variable): number for number, variable in enumerate(network.variables)}
    found = []
    for layer in network._flatten_layers():
        for variable in layer._trainable_variables:
            if variable.name in _NAMES and len(variable.shape) > 1 and id(variable) in numbers:
                found.append(Kernel(numbers[id(variable)], variable, layer.name))
    left = [kernel for kernel in found if not _matches(kernel, skip)]
    names = ", ".join(dict.fromkeys(kernel.layer for kernel in found))
    if unmatched := [pattern for pattern in skip if not any(_matches(kernel, [pattern]) for kernel in found)]:
        raise ValueError(f"`skip` must name layers with kernels: {names}. {received(skip=unmatched)}")
    if not left:
        raise ValueError(
            f"`model` must have kernels that are not skipped. Received: {network.name!r} with {names or 'none'}."
        )
    return left


def _matches(kernel: Kernel, patterns: Sequence[str]) -> bool:
    path = kernel.variable.path.split("/")[:-1]
    paths = {
        kernel.layer,
        *("/".join(path[start:end]) for start in range(len(path)) for end in range(start + 1, len(path) + 1)),
    }
    return any(fnmatchcase(one, pattern) for pattern in patterns for one in paths)
