"""The geometry of a batch of features, at any size of their values."""

from __future__ import annotations

from keras import ops

from keras_notes._shared.types import Tensor

__all__ = ["check_same_batch", "flattened", "unit_vectors"]

# Below this, relative to the largest value, a vector has no direction.
_MINIMUM_LENGTH = 1e-12


def check_same_batch(teacher: Tensor, student: Tensor) -> None:
    """Raises ValueError unless both hold the same number of samples; their features may differ in shape."""
    samples = teacher.shape[0], student.shape[0]
    if len(teacher.shape) < 2 or len(student.shape) < 2 or (None not in samples and samples[0] != samples[1]):
        raise ValueError(
            f"The features of teacher and student must have shape (batch, ...) with one batch size. "
            f"Received: shapes {tuple(teacher.shape)} and {tuple(student.shape)}."
        )


def flattened(features: Tensor) -> Tensor:
    """Features (batch, ...) as vectors (batch, values), scaled to at most 1, so that no square leaves the range.

    The scale is that of the whole batch and has no gradient: it serves losses that no scale changes.
    """
    vectors = ops.reshape(features, (ops.shape(features)[0], -1))
    largest = ops.max(ops.abs(vectors))
    return vectors / ops.stop_gradient(ops.where(largest > 0, largest, 1.0))


def unit_vectors(x: Tensor, axis: int = -1) -> Tensor:
    """X / |x| along an axis; zero, with a gradient of zero, where x is zero."""
    largest = ops.max(ops.abs(x), axis=axis, keepdims=True)
    scaled = x / ops.stop_gradient(ops.where(largest > 0, largest, 1.0))
    square = ops.sum(ops.square(scaled), axis=axis, keepdims=True)
    return ops.where(square > 0, scaled / ops.sqrt(ops.maximum(square, _MINIMUM_LENGTH)), 0.0)
