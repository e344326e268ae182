"""The weights that are pruned and clustered: the kernels of matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import layers

from keras_notes._shared.keras_internals import created_weights_of
from keras_notes._shared.models.layer_patterns import Path, check_skip, layers_by_path, matches_any, skip_patterns

__all__ = ["Kernel", "kernels_of"]

_NAMES = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


@dataclass(frozen=True)
class Kernel:
    """A kernel of a network.

    Attributes:
        variable_index: Its index in `network.variables`.
        variable: The variable.
        input_axis: The axis that runs over the inputs, the last one if there are several; None for a depthwise
            convolution, each of whose channels has its own weights.
        paths: The paths of names to its layer, from the outermost layer; several if the layer is shared.
    """

    variable_index: int
    variable: keras.Variable
    input_axis: int | None
    paths: tuple[Path, ...]

    @property
    def layer(self) -> str:
        """The path of its layer."""
        return "/".join(self.paths[0])

    def is_skipped(self, patterns: Sequence[str]) -> bool:
        """Returns whether its layer or a layer around it matches a pattern, by name or path."""
        return any(matches_any(patterns, path) for path in self.paths)


def kernels_of(network: keras.Model, skip: Sequence[str], *, only_trainable: bool = False) -> list[Kernel]:
    """Returns the kernels of a network, except those of layers whose name or path matches a pattern of `skip`.

    Raises:
        TypeError: If `skip` is not a sequence of strings.
        ValueError: If a pattern matches no layer with a kernel, or no kernel remains.
    """
    patterns = skip_patterns(skip)
    all_kernels = _find_kernels(network)
    check_skip(patterns, [path for kernel in all_kernels for path in kernel.paths], "layers with kernels")
    kernels = [kernel for kernel in all_kernels if not kernel.is_skipped(patterns)]
    if only_trainable:
        kernels = [kernel for kernel in kernels if kernel.variable.trainable]
    if not kernels:
        required = "trainable kernels" if only_trainable else "kernels"
        names = ", ".join(dict.fromkeys(kernel.layer for kernel in all_kernels))
        raise ValueError(
            f"`model` must have {required} that are not skipped. Received: {network.name!r} with {names or 'none'}."
        )
    return kernels


def _find_kernels(network: keras.Model) -> list[Kernel]:
    indices = {id(variable): index for index, variable in enumerate(network.variables)}
    kernels: dict[int, Kernel] = {}
    for path, layer in layers_by_path(network):
        for variable in created_weights_of(layer):
            index = indices.get(id(variable))
            if variable.name in _NAMES and len(variable.shape) > 1 and index is not None:
                paths = (*kernels[index].paths, path) if index in kernels else (path,)
                kernels[index] = Kernel(index, variable, _input_axis(layer, variable), paths)
    return list(kernels.values())


def _input_axis(layer: keras.Layer, variable: keras.Variable) -> int | None:
    if variable.name == "depthwise_kernel" or isinstance(layer, _DEPTHWISE):
        return None
    if isinstance(layer, _TRANSPOSED):
        return len(variable.shape) - 1
    if isinstance(layer, layers.EinsumDense):
        labels, output = layer.equation.replace(" ", "").split(",")[1].split("->")
        return max((axis for axis, label in enumerate(labels) if label not in output), default=None)
    return len(variable.shape) - 2
