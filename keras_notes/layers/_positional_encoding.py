"""Positions of a sequence, as vectors that are added to it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_at_least, check_positive
from keras_notes.layers._inputs import check_within, known_index

__all__ = ["PositionalEncoding", "frequencies", "rows_from", "sinusoidal"]


def frequencies(width: int, max_wavelength: float) -> np.ndarray:
    """The angles, in radians, that one position adds: max_wavelength^(-2i / width) for i < width / 2, in float64."""
    return max_wavelength ** (-np.arange(0, width, 2) / width)


def sinusoidal(positions: Any, width: int, max_wavelength: float = 10000.0) -> np.ndarray:
    """The positional encoding of sines and cosines.

        result[..., 2i] = sin(p / max_wavelength^(2i / width)),  result[..., 2i + 1] = cos of the same

    It is computed in float64: in float32 the angle of position 100,000 would be off by 0.004.

    Args:
        positions: Numbers of any shape, as a NumPy array or a sequence.
        width: Of the vectors, >= 1. Of an odd width, the last element is a sine.
        max_wavelength: > 0; 2 pi times it is the length of the slowest wave.

    Returns:
        A float32 array of shape (..., width).

    Raises:
        ValueError: If `width` or `max_wavelength` is out of its range.

    Example:
        >>> sinusoidal([0, 1], 4).round(3).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.8410000205039978, 0.5400000214576721, 0.009999999776482582, 1.0]]

    References:
        Vaswani et al. 2017, Attention Is All You Need, section 3.5 (https://arxiv.org/abs/1706.03762).
    """
    width = check_at_least("width", width, 1)
    max_wavelength = check_positive("max_wavelength", max_wavelength)
    angles = np.asarray(positions, "float64")[..., None] * frequencies(width, max_wavelength)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return waves.reshape(*angles.shape[:-1], -1)[..., :width].astype("float32")


def rows_from(table: Any, start_index: Any, length: Any) -> Any:
    """Rows [start_index, start_index + length) of a table; a constant of the graph where both are known."""
    start = known_index("start_index", start_index)
    if start == 0 and isinstance(length, int) and length == table.shape[0]:
        return table  # itself, so that what opens the layer sees a weight and not its values of today
    if start is not None and isinstance(length, int):
        return table[start : start + length]
    return ops.slice(ops.convert_to_tensor(table), (start_index, 0), (length, table.shape[-1]))


@keras.saving.register_keras_serializable(package="keras_notes")
class PositionalEncoding(keras.Layer):
    """Adds to each position of a sequence the vector that stands for it.

        outputs[:, i] = scale * inputs[:, i] + position[start_index + i]

    Args:
        max_length: The number of positions that there are, >= 1.
        learned: Whether the vectors are trained; else they are `sinusoidal`.
        max_wavelength: Of the sines, > 0.
        scale: Factor of the inputs, > 0. The Transformer scales embeddings by sqrt(width).
        embeddings_initializer: Of the learned vectors.
        **kwargs: As in `keras.layers.Layer`.

    Call arguments:
        inputs: Shape (batch, length, width).
        start_index: The position of the first of them: an integer, or a tensor of shape (). Step by step decoding gives
            the number of the step.

    Masking:
        A Keras mask is handed on.

    LiteRT:
        ADD of a constant, and MUL if there is a scale; SLICE and PACK if `start_index` is a tensor.

    Raises:
        ValueError: If an argument is out of its range; or if positions reach past `max_length`, where they can be seen.

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
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_length = check_at_least("max_length", max_length, 1)
        self.learned = bool(learned)
        self.max_wavelength = check_positive("max_wavelength", max_wavelength)
        self.scale = check_positive("scale", scale)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        shape = (self.max_length, input_shape[-1])
        if self.learned:
            self.positions = self.add_weight(shape=shape, initializer=self.embeddings_initializer, name="positions")
        else:
            self.positions = sinusoidal(np.arange(self.max_length), shape[-1], self.max_wavelength)

    def call(self, inputs: Any, start_index: Any = 0) -> Any:
        length = ops.shape(inputs)[1]
        check_within(self.max_length, start_index, length)
        positions = rows_from(self.positions, start_index, length)
        if not isinstance(positions, keras.Variable):
            positions = ops.cast(positions, self.compute_dtype)
        return (inputs if self.scale == 1.0 else inputs * self.scale) + positions

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "learned": self.learned,
            "max_wavelength": self.max_wavelength,
            "scale": self.scale,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
