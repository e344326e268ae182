"""`summary`: sparsity, number of values, size and cost of each kernel of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_notes._shared.keras_internals import created_weights_of, layers_of
from keras_notes._shared.text_table import align
from keras_notes.compression._compressed_model import CompressedModel
from keras_notes.compression._prunable_kernels import Kernel, kernels_of

__all__ = ["KernelSummary", "Summary", "summary"]


@dataclass(frozen=True)
class KernelSummary:
    """The figures of one kernel.

    Attributes:
        name: Path of the layer and name of the kernel: "block/conv/kernel".
        bits: Bits of a weight in the file: 32, or those of the model's recipe.
        sparsity: Share of weights that are 0, in [0, 1].
        unique_values: Number of different weights.
        weight_bytes: Bytes of the weights in the file, without scales.
        macs: Multiply-accumulate operations for one sample; None where the shape of the layer's output is not known.

    Example:
        >>> import keras
        >>> from keras_notes.compression import quantize_aware, summary
        >>> model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3, name="conv")])
        >>> kernel = summary(quantize_aware(model)).kernels[0]
        >>> kernel.name, kernel.bits, kernel.weight_bytes, kernel.macs
        ('conv/kernel', 8, 72, 48672)
    """

    name: str
    bits: int
    sparsity: float
    unique_values: int
    weight_bytes: int
    macs: int | None


@dataclass(frozen=True)
class Summary:
    """The figures of all kernels of a model; `print` shows them as a table.

    Attributes:
        kernels: The figures of each kernel, in the order of the layers.

    Example:
        >>> import keras
        >>> from keras_notes.compression import prune, summary
        >>> initializer = keras.initializers.GlorotUniform(seed=0)
        >>> layer = keras.layers.Dense(16, kernel_initializer=initializer, name="head")
        >>> figures = summary(prune(keras.Sequential([keras.Input((8,)), layer]), 0.5))
        >>> figures.weight_bytes
        512
        >>> print(figures)
        kernel       bits  sparsity  values  bytes  MACs
        head/kernel    32     0.500      65    512   128
    """

    kernels: tuple[KernelSummary, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all kernels in the file, without scales."""
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
    """Returns the figures of a model's kernels as the file will hold them: pruned, clustered, with their bits.

    Args:
        model: Built model; a result of `prune`, `cluster` or `quantize_aware`, or any other.

    Returns:
        A `Summary`. The different weights of a quantization-aware model are counted before they are rounded, so that
        the file has at most as many different integers.

    Raises:
        ValueError: If the model has no kernels.

    Example:
        >>> import keras
        >>> from keras_notes.compression import prune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> kernel = summary(prune(model, 0.75)).kernels[0]
        >>> kernel.name, kernel.sparsity, kernel.weight_bytes, kernel.macs
        ('head/kernel', 0.75, 128, 32)
    """
    network, values, scheme = model, {}, None
    if isinstance(model, CompressedModel):
        network, values, scheme = model.network, model.weight_values(), model.scheme
    rows = []
    for kernel in kernels_of(network, ()):
        weights = values.get(kernel.variable_index)
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
        layer for layer in layers_of(network) if any(weight is kernel.variable for weight in created_weights_of(layer))
    )
    try:
        shape = (layer.input if "Transpose" in type(layer).__name__ else layer.output).shape
    except (AttributeError, ValueError):  # a layer in a subclassed model, or a cell, is not part of a graph
        return None
    positions = shape[1:-1]
    return None if None in positions else math.prod(positions) * math.prod(kernel.variable.shape)
