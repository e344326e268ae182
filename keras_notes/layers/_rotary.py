"""Rotary positions: rotations of queries and keys, whose products then depend on the distance of their positions.

b batch, h heads, l positions, k width of a head.
"""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_notes._shared.checks import check_integer, check_positive, received
from keras_notes._shared.types import ArrayLike, Tensor
from keras_notes.layers._inputs import Index, known_index, known_values
from keras_notes.layers._positional_encoding import frequencies, table_rows

__all__ = ["apply_rotary", "check_rotary_width", "rotary_angles", "rotary_waves", "rotated"]


def rotary_angles(positions: ArrayLike, width: int, base: float = 10000.0) -> Tensor:
    """Computes the angles by which the pairs of elements are rotated.

        result[..., i] = p * base^(-2i / width)  modulo 2 pi,  for i < width / 2

    Args:
        positions: Positions p, numbers of any shape. If their values are known, the angles are computed in float64; in
            float32, the angle of position 100,000 would be off by 0.004.
        width: Width of a head, even and >= 2.
        base: Base of the frequencies, > 0. The larger it is, the slower the slowest pairs rotate.

    Returns:
        Angles of shape (..., width / 2), in radians: a float64 NumPy array, or a float32 tensor if the values of
        `positions` are unknown (inside a compiled step).

    Raises:
        TypeError: If `width` is not an integer, or `base` is not a number.
        ValueError: If `width` or `base` is out of its range.

    Example:
        >>> rotary_angles([0, 1], 4).tolist()
        [[0.0, 0.0], [1.0, 0.01]]

    References:
        Su et al. 2021, RoFormer, section 3.2.2, equation 15 (https://arxiv.org/abs/2104.09864).
    """
    angles_per_position = frequencies(check_rotary_width("width", width), check_positive("base", base))
    values = known_values(positions)
    if values is None:
        return ops.expand_dims(ops.cast(positions, "float32"), -1) * angles_per_position.astype("float32")
    return values.astype("float64")[..., None] * angles_per_position % (2 * np.pi)


def apply_rotary(x_bhlk: Tensor, angles: Tensor) -> Tensor:
    """Rotates each pair of elements of queries or keys by an angle.

        result[..., i]         = x[..., i] cos(angle_i) - x[..., i + k/2] sin(angle_i)
        result[..., i + k/2]   = x[..., i + k/2] cos(angle_i) + x[..., i] sin(angle_i)

    A pair has one element of each half of a head (the layout of GPT-NeoX and Llama), not two neighbours (the layout of
    RoFormer's equation 34). Both are the same up to the order of the elements, which training does not depend on. On a
    device, the halves need two slices and a concatenation, where neighbours would need a gather.

    Args:
        x_bhlk: Queries or keys of shape (batch, heads, positions, k), where k is even.
        angles: Angles of shape (positions, k / 2) in radians, from `rotary_angles`.

    Returns:
        An array with the shape and dtype of `x_bhlk`. The product of two results depends on the difference of their
        positions only.

    Example:
        >>> import numpy as np
        >>> x = np.ones((1, 1, 2, 2), "float32")
        >>> np.asarray(apply_rotary(x, np.array([[0.0], [np.pi / 2]]))).round(3).tolist()
        [[[[1.0, 1.0], [-1.0, 1.0]]]]

    References:
        Su et al. 2021, RoFormer, section 3.2 (https://arxiv.org/abs/2104.09864).
        Black et al. 2022, GPT-NeoX-20B, section 2.1 (https://arxiv.org/abs/2204.06745).
    """
    return rotated(x_bhlk, *_waves(angles))


def _waves(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of the angles; they are constants of the graph if the angles are known."""
    if isinstance(angles, np.ndarray):
        return np.cos(angles).astype("float32"), np.sin(angles).astype("float32")
    return ops.cos(angles), ops.sin(angles)


def rotary_waves(
    start_index: Index, length: Index, max_length: int | None, width: int, base: float
) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines for `length` positions from `start_index` on, each of shape (length, width / 2).

    If the start is unknown and `max_length` is given, they are rows of a table. The table is exact, and the device
    computes no sines, for which there are no integer operators.
    """
    start = known_index("start_index", start_index)
    if start is None and max_length is not None:
        cosines, sines = _waves(rotary_angles(np.arange(max_length), width, base))
        return table_rows(cosines, start_index, length), table_rows(sines, start_index, length)
    positions = np.arange(length) if isinstance(length, int) else ops.arange(length, dtype="int32")
    return _waves(rotary_angles(positions + (start_index if start is None else start), width, base))


def rotated(x_bhlk: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates as `apply_rotary` does, by cosines and sines of the angles, each of shape (positions, k / 2)."""
    half = x_bhlk.shape[-1] // 2
    first, second = x_bhlk[..., :half], x_bhlk[..., half:]
    cosines, sines = (ops.cast(waves, x_bhlk.dtype) for waves in (cosines, sines))
    halves = (
        ops.subtract(ops.multiply(first, cosines), ops.multiply(second, sines)),
        ops.add(ops.multiply(second, cosines), ops.multiply(first, sines)),
    )
    return ops.concatenate(halves, axis=-1)


def check_rotary_width(name: str, width: int) -> int:
    """Returns the width of a head, which must be even."""
    width = check_integer(name, width)
    if width < 2 or width % 2:
        raise ValueError(f"`{name}` must be even and >= 2 for rotary positions. {received(**{name: width})}")
    return width
