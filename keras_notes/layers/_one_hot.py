"""One-hot encoding of ids."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_choice, received
from keras_notes._shared.types import Config, Tensor, Tree
from keras_notes.layers._inputs import Shape, check_ids, check_integer_dtype

__all__ = ["OneHot", "one_hot"]

_CHOICES = ("error", "zero")
_REMEDY = "Give a larger `num_classes`, or out_of_range='zero' for a row of zeros."


def one_hot(ids: Tensor, num_classes: int, *, out_of_range: str = "error", dtype: str | None = None) -> Tensor:
    """Encodes each id as a vector with a 1 at the index of the id.

        result[..., k] = 1 if ids[...] == k else 0

    Args:
        ids: Integers of any shape, in [0, num_classes).
        num_classes: Number of classes, >= 1.
        out_of_range: What to do with ids out of the range: "error" to raise an error, or "zero" for a row of zeros.
            With "error", ids whose values are unknown (inside a compiled step) give a row of NaN.
        dtype: Type of the result: a float type, or with "zero" any type. Defaults to `keras.backend.floatx()`.

    Returns:
        An array of shape (..., num_classes).

    Raises:
        TypeError: If the ids are not integers.
        ValueError: If an argument is out of its range, or an id whose value is known.

    Example:
        >>> import numpy as np
        >>> np.asarray(one_hot(np.array([2, 0]), 3)).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    num_classes = check_at_least("num_classes", num_classes, 1)
    dtype = _check_dtype(dtype or keras.backend.floatx(), check_choice("out_of_range", out_of_range, _CHOICES))
    ids = ids if hasattr(ids, "dtype") else ops.convert_to_tensor(ids)
    check_integer_dtype(ids)
    if out_of_range == "zero":
        return ops.one_hot(_drop_large_ids(ids, num_classes), num_classes, dtype=dtype)
    check_ids(ids, num_classes, _REMEDY)
    is_class = ops.expand_dims((ids >= 0) & (ids < num_classes), -1)
    rows = ops.one_hot(_drop_large_ids(ids, num_classes), num_classes, dtype=dtype)
    return ops.where(is_class, rows, ops.cast(math.nan, dtype))


@keras.saving.register_keras_serializable(package="keras_notes")
class OneHot(keras.Layer):
    """Encodes ids by `one_hot`: the first layer of a network that reads categories.

    Args:
        num_classes: Number of classes, >= 1.
        out_of_range: What to do with ids out of the range: "error" to raise an error, or "zero" for a row of zeros; see
            `one_hot`.
        **kwargs: Arguments of `keras.layers.Layer`; `dtype` is the type of the result.

    Call arguments:
        ids: Integers of any shape.

    Masking:
        Passes a Keras mask of the ids on.

    LiteRT:
        CAST to int64 and ONE_HOT. On the device, ids out of range give rows of zeros, with "error" too.

    Raises:
        TypeError: If the ids are not integers.
        ValueError: If an argument is out of its range, or an id whose value is known.

    Example:
        >>> import numpy as np
        >>> np.asarray(OneHot(2, out_of_range="zero")(np.array([[1, 7]]))).tolist()
        [[[0.0, 1.0], [0.0, 0.0]]]
    """

    def __init__(self, num_classes: int, *, out_of_range: str = "error", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = check_at_least("num_classes", num_classes, 1)
        self.out_of_range = check_choice("out_of_range", out_of_range, _CHOICES)
        _check_dtype(self.compute_dtype, self.out_of_range)
        self.supports_masking = True

    def __call__(self, ids: Tensor, *args: Tree, **kwargs: Tree) -> Tensor:
        # Keras casts the ids between `__call__` and `call`: only here do they still have their own type.
        if hasattr(ids, "dtype"):
            check_integer_dtype(ids)
        return super().__call__(ids, *args, **kwargs)

    def call(self, ids: Tensor) -> Tensor:
        return one_hot(ids, self.num_classes, out_of_range=self.out_of_range, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.num_classes)

    def get_config(self) -> Config:
        return {**super().get_config(), "num_classes": self.num_classes, "out_of_range": self.out_of_range}


def _check_dtype(dtype: str, out_of_range: str) -> str:
    """Returns the type of the result, which must have a NaN where ids out of the range are errors."""
    if out_of_range == "error" and "float" not in dtype:
        raise ValueError(
            f"`dtype` must be a float type when out_of_range='error', which marks ids by NaN. {received(dtype=dtype)} "
            f"Take out_of_range='zero'."
        )
    return dtype


def _drop_large_ids(ids: Tensor, num_classes: int) -> Tensor:
    """Replaces ids >= num_classes by -1 on PyTorch, whose `ops.one_hot` refuses them; others give rows of zeros."""
    if keras.backend.backend() != "torch":
        return ids
    return ops.where(ops.less(ids, num_classes), ids, -1)
