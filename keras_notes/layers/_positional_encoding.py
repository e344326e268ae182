"""Positional encodings: vectors that are added to the positions of a sequence."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_at_least, check_integer, check_positive
from keras_notes._shared.types import ArrayLike, Config, Tensor
from keras_notes.layers._initializers import Initializer
from keras_notes.layers._inputs import Index, Shape, check_within, known_index

__all__ = ["PositionalEncoding", "frequencies", "sinusoidal", "table_rows"]


def frequencies(width: int, max_wavelength: float) -> np.ndarray:
    """Returns the angles in radians of position 1: max_wavelength^(-2i / width) for i < width / 2, in float64."""
    return max_wavelength ** (-np.arange(0, width, 2) / width)


def sinusoidal(positions: ArrayLike, width: int, max_wavelength: float = 10000.0) -> np.ndarray:
    """Computes the positional encoding of sines and cosines.

        result[..., 2i] = sin(p / max_wavelength^(2i / width)),  result[..., 2i + 1] = cos of the same

    The angles are computed in float64: in float32 the angle of position 100,000 would be off by 0.004.

    Args:
        positions: Positions p, numbers of any shape, as a NumPy array or a sequence.
        width: Width of the vectors, >= 1. If it is odd, the last element is a sine.
        max_wavelength: Length of the slowest wave in positions, divided by 2 pi; > 0.

    Returns:
        A float32 array of shape (..., width).

    Raises:
        TypeError: If `width` is not an integer, or `max_wavelength` is not a number.
        ValueError: If `width` or `max_wavelength` is out of its range.

    Example:
        >>> import numpy as np
        >>> with np.printoptions(precision=3, suppress=True):
        ...     print(sinusoidal([0, 1], 4))
        [[0.    1.    0.    1.   ]
         [0.841 0.54  0.01  1.   ]]

    References:
        Vaswani et al. 2017, Attention Is All You Need, section 3.5 (https://arxiv.org/abs/1706.03762).
    """
    width = check_at_least("width", width, 1)
    max_wavelength = check_positive("max_wavelength", max_wavelength)
    angles = np.asarray(positions, "float64")[..., None] * frequencies(width, max_wavelength)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return waves.reshape(*angles.shape[:-1], -1)[..., :width].astype("float32")


def table_rows(table: Tensor, start_index: Index, length: Index) -> Tensor:
    """Returns the rows [start_index, start_index + length) of a table; a constant of the graph if both are known."""
    start = known_index("start_index", start_index)
    if start == 0 and isinstance(length, int) and length == table.shape[0]:
        return table  # itself: a tracer then sees the weight, and not its current values
    if start is not None and isinstance(length, int):
        return table[start : start + length]
    return ops.slice(ops.convert_to_tensor(table), (start_index, 0), (length, table.shape[-1]))


@keras.saving.register_keras_serializable(package="keras_notes")
class PositionalEncoding(keras.Layer):
    """Adds a vector to each position of a sequence, which encodes the position.

        outputs[:, i] = scale * inputs[:, i] + position[start_index + i]

    Args:
        max_length: Number of positions, >= 1.
        learned: Whether the vectors are trained; else they are those of `sinusoidal`.
        max_wavelength: Length of the slowest sine wave in positions, divided by 2 pi; > 0.
        scale: Factor of the inputs, > 0. The Transformer scales embeddings by sqrt(width).
        embeddings_initializer: Initializer of the learned vectors.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequence of shape (batch, length, width).
        start_index: Position of the first input: an integer, or a tensor of shape (). In step-by-step decoding, it is
            the number of the step.

    Masking:
        Passes a Keras mask on.

    LiteRT:
        ADD of a constant, and MUL if `scale` is not 1; SLICE and PACK if `start_index` is a tensor.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If an argument is out of its range, or if known positions reach past `max_length`.

    Example:
        >>> import numpy as np
        >>> whole = np.zeros((1, 5, 4), "float32")
        >>> encoding = PositionalEncoding(5)
        >>> bool((np.asarray(encoding(whole))[:, 3:] == np.asarray(encoding(whole[:, 3:], start_index=3))).all())
        True

    References:
        Vaswani et al. 2017, Attention Is All You Need, section 3.5 (https://arxiv.org/abs/1706.03762).
    """

    def __init__(
        self,
        max_length: int,
        *,
        learned: bool = False,
        max_wavelength: float = 10000.0,
        scale: float = 1.0,
        embeddings_initializer: Initializer = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_length = check_at_least("max_length", max_length, 1)
        self.learned = bool(learned)
        self.max_wavelength = check_positive("max_wavelength", max_wavelength)
        self.scale = check_positive("scale", scale)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        shape = (self.max_length, input_shape[-1])
        if self.learned:
            self.positions = self.add_weight(shape=shape, initializer=self.embeddings_initializer, name="positions")
        else:
            width = check_integer("width", shape[-1])
            self.positions = sinusoidal(np.arange(self.max_length), width, self.max_wavelength)

    def call(self, inputs: Tensor, start_index: Index = 0) -> Tensor:
        length = ops.shape(inputs)[1]
        check_within(self.max_length, start_index, length)
        positions = table_rows(self.positions, start_index, length)
        if not isinstance(positions, keras.Variable):
            positions = ops.cast(positions, self.compute_dtype)
        return (inputs if self.scale == 1.0 else inputs * self.scale) + positions

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "learned": self.learned,
            "max_wavelength": self.max_wavelength,
            "scale": self.scale,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
