"""`summary`: what the kernels of a model are, layer by layer, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_notes._shared.text_table import align
from keras_notes.compression._compressed_model import CompressedModel
from keras_notes.compression._prunable_kernels import Kernel, kernels_of

__all__ = ["KernelSummary", "Summary", "summary"]


@dataclass(frozen=True)
class KernelSummary:
    """A kernel of a layer.

    Attributes:
        name: Layer and kernel, "block/conv/kernel".
        bits: The size of a weight in the file: 32, or what the model is quantization-aware for.
        sparsity: The share of weights that are 0, in [0, 1].
        unique_values: The number of different weights.
        weight_bytes: What they take in the file, without scales.
        macs: Multiplications and additions for one sample; None where the shape of the layer's output is not known.
    """

    name: str
    bits: int
    sparsity: float
    unique_values: int
    weight_bytes: int
    macs: int | None


@dataclass(frozen=True)
class Summary:
    """The kernels of a model; `print` it for a table."""

    kernels: tuple[KernelSummary, ...]

    @property
    def weight_bytes(self) -> int:
        """What all kernels take."""
        return sum(kernel.weight_bytes for kernel in self.kernels)

    def __str__(self) -> str:
        header = ("kernel", "bits", "sparsity", "values", "bytes", "MACs")
        rows = [
            (
                kernel.name,
                str(kernel.bits),
                f"{kernel.sparsity:.3f}",
                str(kernel.unique_values),
                f"{kernel.weight_bytes:,}",
                "?" if kernel.macs is None else f"{kernel.macs:,}",
            )
            for kernel in self.kernels
        ]
        return "\n".join(align([header, *rows]))


def summary(model: keras.Model) -> Summary:
    """Counts the weights of a model's kernels as the file will hold them: pruned, clustered, with their bits.

    Args:
        model: A built model; one of `prune`, `cluster` and `quantize_aware`, or any other.

    Returns:
        A `Summary`. The different weights of a quantization-aware model are counted before they are rounded: as many
        integers, at most.

    Raises:
        ValueError: If the model has no kernels.

    Example:
        >>> import keras
        >>> from keras_notes.compression import prune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> found = summary(prune(model, 0.75)).kernels[0]
        >>> found.name, found.sparsity, found.weight_bytes, found.macs
        ('head/kernel', 0.75, 128, 32)
    """
    network, values, scheme = model, {}, None
    if isinstance(model, CompressedModel):
        network, values, scheme = model.network, model.weight_values(), model.scheme
    rows = []
    for kernel in kernels_of(network, ()):
        weights = values.get(kernel.number)
        if weights is None:
            weights = ops.convert_to_numpy(kernel.variable)
        bits = 32 if scheme is None or scheme.is_float(kernel.paths[0]) else scheme.bits
        rows.append(
            KernelSummary(
                name=f"{kernel.layer}/{kernel.variable.name}",
                bits=bits,
                sparsity=float(np.mean(weights == 0)),
                unique_values=len(np.unique(weights)),
                weight_bytes=math.ceil(weights.size * bits / 8),
                macs=_macs(network, kernel),
            )
        )
    return Summary(tuple(rows))


def _macs(network: keras.Model, kernel: Kernel) -> int | None:
    layer = next(
        one for one in network._flatten_layers() if any(own is kernel.variable for own in one._trainable_variables)
    )
    try:
        shape = (layer.input if "Transpose" in type(layer).__name__ else layer.output).shape
    except (AttributeError, ValueError):  # of layers in subclassed models and cells, which belong to no graph
        return None
    positions = shape[1:-1]
    return None if None in positions else math.prod(positions) * math.prod(kernel.variable.shape)
