"""Ids as vectors with a single 1."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_choice, received
from keras_notes.layers._inputs import check_ids, check_integer_dtype

__all__ = ["OneHot", "one_hot"]

_CHOICES = ("error", "zero")
_REMEDY = "Give a larger `num_classes`, or out_of_range='zero' for a row of zeros."


def one_hot(ids: Any, num_classes: int, *, out_of_range: str = "error", dtype: str | None = None) -> Any:
    """Vectors with a 1 at the place of the id.

        result[..., k] = 1 if ids[...] == k else 0

    Args:
        ids: Integers of any shape, in [0, num_classes).
        num_classes: >= 1.
        out_of_range: What ids outside of the range give: "error", or "zero" for a row of zeros. With "error", ids that
            cannot be seen (inside a compiled step) give a row of NaN.
        dtype: Of the result: a float type, or with "zero" any. Defaults to `keras.backend.floatx()`.

    Returns:
        Shape (..., num_classes).

    Raises:
        TypeError: If the ids are no integers.
        ValueError: If an argument is out of its range, or an id that can be seen is.

    Example:
        >>> import numpy as np
        >>> np.asarray(one_hot(np.array([2, 0]), 3)).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    num_classes = check_at_least("num_classes", num_classes, 1)
    dtype = _checked_dtype(dtype or keras.backend.floatx(), check_choice("out_of_range", out_of_range, _CHOICES))
    ids = ids if hasattr(ids, "dtype") else ops.convert_to_tensor(ids)
    check_integer_dtype(ids)
    if out_of_range == "zero":
        return ops.one_hot(_none_too_large(ids, num_classes), num_classes, dtype=dtype)
    check_ids(ids, num_classes, _REMEDY)
    is_class = ops.expand_dims((ids >= 0) & (ids < num_classes), -1)
    rows = ops.one_hot(_none_too_large(ids, num_classes), num_classes, dtype=dtype)
    return ops.where(is_class, rows, ops.cast(math.nan, dtype))


@keras.saving.register_keras_serializable(package="keras_notes")
class OneHot(keras.Layer):
    """`one_hot` as a layer: the first of a network that reads categories.

    Args:
        num_classes: Of the ids, >= 1.
        out_of_range: "error", or "zero" for a row of zeros; see `one_hot`.
        **kwargs: As in `keras.layers.Layer`; `dtype` is that of the result.

    Call arguments:
        ids: Integers of any shape.

    Masking:
        A Keras mask of the ids is handed on.

    LiteRT:
        CAST to int64 and ONE_HOT. On the device ids out of range give rows of zeros, with "error" too.

    Raises:
        TypeError: If the ids are no integers.
        ValueError: If an argument is out of its range, or an id that can be seen is.

    Example:
        >>> import numpy as np
        >>> np.asarray(OneHot(2, out_of_range="zero")(np.array([[1, 7]]))).tolist()
        [[[0.0, 1.0], [0.0, 0.0]]]
    """

    def __init__(self, num_classes: int, *, out_of_range: str = "error", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = check_at_least("num_classes", num_classes, 1)
        self.out_of_range = check_choice("out_of_range", out_of_range, _CHOICES)
        _checked_dtype(self.compute_dtype, self.out_of_range)
        self.supports_masking = True

    def __call__(self, ids: Any, *args: Any, **kwargs: Any) -> Any:
        # Only here are the ids still what the caller gave.
        if hasattr(ids, "dtype"):
            check_integer_dtype(ids)
        return super().__call__(ids, *args, **kwargs)

    def call(self, ids: Any) -> Any:
        return one_hot(ids, self.num_classes, out_of_range=self.out_of_range, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "out_of_range": self.out_of_range}


def _checked_dtype(dtype: str, out_of_range: str) -> str:
    if out_of_range == "error" and "float" not in dtype:
        raise ValueError(
            f"`dtype` must be a float type when out_of_range='error', which marks ids by NaN. {received(dtype=dtype)} "
            f"Take out_of_range='zero'."
        )
    return dtype


def _none_too_large(ids: Any, num_classes: int) -> Any:
    """Ids for `ops.one_hot`, which on PyTorch refuses ids from `num_classes` on, and else gives rows of zeros."""
    if keras.backend.backend() != "torch":
        return ids
    return ops.where(ops.less(ids, num_classes), ids, -1)
