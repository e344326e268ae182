"""Rotary positions: queries and keys are turned, so that their products know how far apart they are.

b batch, h heads, l positions, k width of a head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_notes._shared.checks import check_integer, check_positive, received
from keras_notes.layers._inputs import known_index, known_values
from keras_notes.layers._positional_encoding import frequencies, rows_from

__all__ = ["apply_rotary", "check_rotary_width", "rotary_angles", "rotated", "waves_from"]


def rotary_angles(positions: Any, width: int, base: float = 10000.0) -> Any:
    """The angles by which each pair of elements is turned.

        result[..., i] = p * base^(-2i / width)  modulo 2 pi,  for i < width / 2

    Args:
        positions: Numbers of any shape. Where they can be seen, the angles are computed in float64; in float32, that
            of position 100,000 would be off by 0.004.
        width: Of a head, even and >= 2.
        base: > 0. The larger, the slower the slowest pairs turn.

    Returns:
        Shape (..., width / 2), in radians: a float64 NumPy array, or a float32 tensor where positions cannot be seen.

    Raises:
        ValueError: If `width` or `base` is out of its range.

    Example:
        >>> rotary_angles([0, 1], 4).tolist()
        [[0.0, 0.0], [1.0, 0.01]]

    References:
        Su et al. 2021, RoFormer, section 3.2.2, equation 15 (https://arxiv.org/abs/2104.09864).
    """
    turns = frequencies(check_rotary_width("width", width), check_positive("base", base))
    values = known_values(positions)
    if values is None:
        return ops.expand_dims(ops.cast(positions, "float32"), -1) * turns.astype("float32")
    return values.astype("float64")[..., None] * turns % (2 * np.pi)


def apply_rotary(x_bhlk: Any, angles: Any) -> Any:
    """Turns each pair of elements of queries or keys by an angle.

        result[..., i]         = x[..., i] cos(angle_i) - x[..., i + k/2] sin(angle_i)
        result[..., i + k/2]   = x[..., i + k/2] cos(angle_i) + x[..., i] sin(angle_i)

    The pairs are the halves of a head (the layout of GPT-NeoX and Llama), not neighbours (RoFormer's text, equation
    34): the same up to an order of the elements, which training does not care about, and two slices and a concatenation
    on a device where neighbours would need a gathering.

    Args:
        x_bhlk: Queries or keys of shape (batch, heads, positions, k) with an even k.
        angles: Shape (positions, k / 2), as of `rotary_angles`.

    Returns:
        The shape and dtype of `x_bhlk`. A product of two results depends on the difference of their positions only.

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


def _waves(angles: Any) -> tuple[Any, Any]:
    """Cosines and sines of the angles; a file has them as constants where the angles are known."""
    if isinstance(angles, np.ndarray):
        return np.cos(angles).astype("float32"), np.sin(angles).astype("float32")
    return ops.cos(angles), ops.sin(angles)


def waves_from(start_index: Any, length: Any, max_length: int | None, width: int, base: float) -> tuple[Any, Any]:
    """Cosines and sines for `length` positions from `start_index` on, each of shape (length, width / 2).

    Of a start that cannot be seen they are rows of a table, if `max_length` says how long it is: exact, and without
    sines on the device, which no integers compute.
    """
    start = known_index("start_index", start_index)
    if start is None and max_length is not None:
        cosines, sines = _waves(rotary_angles(np.arange(max_length), width, base))
        return rows_from(cosines, start_index, length), rows_from(sines, start_index, length)
    positions = np.arange(length) if isinstance(length, int) else ops.arange(length, dtype="int32")
    return _waves(rotary_angles(positions + (start_index if start is None else start), width, base))


def rotated(x_bhlk: Any, cosines: Any, sines: Any) -> Any:
    """As `apply_rotary`, with the cosines and sines of the angles, each of shape (positions, k / 2)."""
    half = x_bhlk.shape[-1] // 2
    first, second = x_bhlk[..., :half], x_bhlk[..., half:]
    cosines, sines = (ops.cast(waves, x_bhlk.dtype) for waves in (cosines, sines))
    turned = (
        ops.subtract(ops.multiply(first, cosines), ops.multiply(second, sines)),
        ops.add(ops.multiply(second, cosines), ops.multiply(first, sines)),
    )
    return ops.concatenate(turned, axis=-1)


def check_rotary_width(name: str, width: Any) -> int:
    """Returns the width of a head, which must fall into pairs."""
    width = check_integer(name, width)
    if width < 2 or width % 2:
        raise ValueError(f"`{name}` must be even and >= 2 for rotary positions. {received(**{name: width})}")
    return width
