"""Which weights are pruned and clustered: the kernels of products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from keras_notes._shared.layer_patterns import Path, layers_by_path
from keras_notes.compression._layer_patterns import check_skip, is_skipped, skip_patterns

__all__ = ["Kernel", "kernels_of"]

_NAMES = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


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

    def is_skipped(self, patterns: Sequence[str]) -> bool:
        """Whether its layer or one around it fits a pattern, by name or path."""
        return any(is_skipped(path, patterns) for path in self.paths)


def kernels_of(network: keras.Model, skip: Any, *, only_trainable: bool = False) -> list[Kernel]:
    """The kernels of a network, but for those of layers whose name or path matches a pattern of `skip`.

    Raises:
        ValueError: If a pattern matches no layer with a kernel, or none is left.
        TypeError: If `skip` is no sequence of strings.
    """
    patterns = skip_patterns(skip)
    found = _all_kernels(network)
    check_skip(patterns, [path for kernel in found for path in kernel.paths], "layers with kernels")
    left = [kernel for kernel in found if not kernel.is_skipped(patterns)]
    if only_trainable:
        left = [kernel for kernel in left if kernel.variable.trainable]
    if not left:
        kinds = "trainable kernels" if only_trainable else "kernels"
        names = ", ".join(dict.fromkeys(kernel.layer for kernel in found))
        raise ValueError(
            f"`model` must have {kinds} that are not skipped. Received: {network.name!r} with {names or 'none'}."
        )
    return left


def _all_kernels(network: keras.Model) -> list[Kernel]:
    numbers = {id(variable): number for number, variable in enumerate(network.variables)}
    found: dict[int, Kernel] = {}
    for path, layer in layers_by_path(network):
        for variable in layer._trainable_variables:
            number = numbers.get(id(variable))
            if variable.name in _NAMES and len(variable.shape) > 1 and number is not None:
                paths = (*found[number].paths, path) if number in found else (path,)
                found[number] = Kernel(number, variable, _input_axis(layer, variable), paths)
    return list(found.values())


def _input_axis(layer: Any, variable: keras.Variable) -> int | None:
    if variable.name == "depthwise_kernel" or isinstance(layer, _DEPTHWISE):
        return None
    if isinstance(layer, _TRANSPOSED):
        return len(variable.shape) - 1
    if isinstance(layer, layers.EinsumDense):
        labels, output = layer.equation.replace(" ", "").split(",")[1].split("->")
        return max((axis for axis, label in enumerate(labels) if label not in output), default=None)
    return len(variable.shape) - 2
