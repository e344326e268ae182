"""Distillation of the features of one layer, or of their spatial attention."""

from __future__ import annotations

import keras
from keras import ops

from keras_notes._shared.checks import check_integer, check_positive, differ, received
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import TeacherLoss, WholeSampleLoss
from keras_notes.losses._labels import check_feature_axis
from keras_notes.losses._maths.geometry import check_same_batch, unit_vectors

__all__ = ["AttentionTransferLoss", "HintLoss"]


@keras.saving.register_keras_serializable(package="keras_notes")
class HintLoss(TeacherLoss):
    """FitNets' hint: the mean squared difference between the features of teacher and student.

        L = mean_c (f_t - f_s)_c^2

    at each position of a sample. The student's features must have the teacher's width; where they have not, a dense
    layer (or a 1x1 convolution) between them belongs to the training, not to the student.

    Args:
        normalize: Whether features are first divided by their length along `axis`, so that only their direction counts
            (2 - 2 cos, over the number of features).
        axis: The feature axis.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's features, of shape (batch, ..., width). Positions that a Keras mask leaves out do not
            count.
        y_pred: The student's features, of the same shape.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]])
        >>> float(HintLoss()(teacher, student))
        2.0

    References:
        Romero et al. 2015, FitNets: Hints for Thin Deep Nets, section 2.2, equation 3
        (https://arxiv.org/abs/1412.6550). `normalize`: Sun et al. 2019, Patient Knowledge Distillation for BERT Model
        Compression, section 3.2, equation 7 (https://arxiv.org/abs/1908.09355).
    """

    def __init__(
        self,
        *,
        normalize: bool = False,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "hint_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.normalize = bool(normalize)
        self.axis = check_integer("axis", axis)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        check_feature_axis(student, self.axis)
        shapes = tuple(teacher.shape), tuple(student.shape)
        if differ(*shapes):
            raise ValueError(
                f"The features of teacher and student must have the same shape. Received: shapes {shapes[0]} and "
                f"{shapes[1]}. Put a dense layer or a 1x1 convolution behind the student's layer."
            )
        if self.normalize:
            teacher, student = unit_vectors(teacher, self.axis), unit_vectors(student, self.axis)
        return ops.mean(ops.square(teacher - student), axis=self.axis)


@keras.saving.register_keras_serializable(package="keras_notes")
class AttentionTransferLoss(WholeSampleLoss):
    """Attention transfer: where in space the features are strong, whatever their channels.

        Q = vec(mean_c |F_c|^power) / length of it;   L = mean over positions of (Q_t - Q_s)^2 = (2 - 2 cos) / positions

    No projection is needed for unequal channels. Where the grids differ by whole factors, the larger features are
    averaged to the smaller grid first. The scale, signs and order of the channels change nothing.

    The value is that of the authors' program, whose weight is about 1000; the paper's formula sums |Q_t - Q_s|.

    Args:
        power: Exponent >= 1. 2 is the authors' choice; larger exponents weight the strongest channels.
        axis: The channel axis of both features: the last one, or 1.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's features, of shape (batch, height, width, channels), or any number of spatial axes.
            Positions that a Keras mask of y_pred leaves out are taken as zero.
        y_pred: The student's features, of the same rank.

    Raises:
        ValueError: If an argument is out of its range, or the grids differ by other than whole factors.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[[0.0], [1.0]]])  # one sample, two positions, one channel
        >>> loss = AttentionTransferLoss()
        >>> float(loss(teacher, 3.0 * teacher)), float(loss(teacher, teacher[:, ::-1]))
        (0.0, 1.0)

    References:
        Zagoruyko, Komodakis 2017, Paying More Attention to Attention, section 3.1, equation 2
        (https://arxiv.org/abs/1612.03928).
    """

    def __init__(
        self,
        power: float = 2.0,
        *,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "attention_transfer_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.power = check_positive("power", power)
        if self.power < 1.0:
            raise ValueError(f"`power` must be >= 1. {received(power=power)}")
        self.axis = check_integer("axis", axis)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        if len(teacher.shape) != len(student.shape) or len(student.shape) < 3:
            raise ValueError(
                f"The features of teacher and student must have shape (batch, positions..., channels). "
                f"Received: shapes {tuple(teacher.shape)} and {tuple(student.shape)}."
            )
        check_same_batch(teacher, student)
        check_feature_axis(student, self.axis)
        teacher, student = (ops.moveaxis(x, self.axis, -1) for x in (teacher, student))
        teacher, student = _average_to_grid(teacher, student), _average_to_grid(student, teacher)
        return ops.mean(ops.square(self._attention(teacher) - self._attention(student)), axis=-1)

    def _attention(self, features: Tensor) -> Tensor:
        axes = tuple(range(1, len(features.shape)))
        # No scale of a sample changes its attention, and no power of values up to 1 leaves the range.
        largest = ops.max(ops.abs(features), axis=axes, keepdims=True)
        scaled = ops.abs(features) / ops.stop_gradient(ops.where(largest > 0, largest, 1.0))
        energy = ops.mean(ops.square(scaled) if self.power == 2.0 else ops.power(scaled, self.power), axis=-1)
        return unit_vectors(ops.reshape(energy, (ops.shape(energy)[0], -1)))


def _average_to_grid(features: Tensor, other: Tensor) -> Tensor:
    """Features (batch, positions..., channels) averaged to the grid of the other, where that is smaller."""
    for axis in range(1, len(features.shape) - 1):
        size, other_size = features.shape[axis], other.shape[axis]
        if size is None or other_size is None or size == other_size:
            continue
        if max(size, other_size) % min(size, other_size):
            raise ValueError(
                f"The grids of teacher and student must be equal or differ by whole factors. "
                f"Received: shapes {tuple(features.shape)} and {tuple(other.shape)}. Resize one of them."
            )
        if size > other_size:
            shape = ops.shape(features)
            split = ops.reshape(features, (*shape[:axis], other_size, size // other_size, *shape[axis + 1 :]))
            features = ops.mean(split, axis=axis + 1)
    return features
