"""Class ids given by the user, checked against the output of a model. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_notes._shared.checks import received
from keras_notes._shared.types import ArrayLike

__all__ = ["check_labels"]


def check_labels(y: ArrayLike, output_shapes: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns class ids of shape (samples,).

    Args:
        y: The class ids.
        output_shapes: The shape of each output of the model, without the batch.

    Raises:
        ValueError: If the model has no classes, or y are not class ids of the model.
    """
    labels = np.asarray(y)
    if len(output_shapes) != 1:
        raise ValueError(f"Accuracy needs a model with one output. Received: {len(output_shapes)} outputs.")
    shape = tuple(output_shapes[0])
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise ValueError(
            f"`y` must hold class ids: integers of shape (samples,). "
            f"Received: dtype {labels.dtype} and shape {labels.shape}."
        )
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"Accuracy needs an output of shape (1, classes). {received(shape=(1, *shape))}")
    wrong = (labels < 0) | (labels >= shape[0])
    if wrong.any():
        raise ValueError(
            f"`y` must hold class ids in [0, {shape[0]}). Received: {labels[wrong][0]} "
            f"({int(wrong.sum())} of {len(labels)} are out of range)."
        )
    return labels
