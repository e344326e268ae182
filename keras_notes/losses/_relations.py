"""Distillation of the relations between the samples of a batch.

The features of teacher and student may differ in shape. The loss of a sample is that of its row of relations. A sample
of weight 0 has no row of its own, but is part of the rows of the others.
"""

from __future__ import annotations

import keras
from keras import ops

from keras_notes._shared.checks import check_integer, check_non_negative, received
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import WholeSampleLoss
from keras_notes.losses._maths.divergences import kl_terms
from keras_notes.losses._maths.geometry import check_same_batch, flattened, unit_vectors

__all__ = ["ProbabilisticTransferLoss", "RelationalLoss", "SimilarityPreservingLoss"]

# Affinity of two opposite vectors, in place of 0, whose logarithm is infinite; the authors' number.
_MINIMUM_AFFINITY = 1e-7


@keras.saving.register_keras_serializable(package="keras_notes")
class SimilarityPreservingLoss(WholeSampleLoss):
    """Similarity-preserving distillation: samples that are alike to the teacher are alike to the student.

        G = F F^T with each row divided by its (Euclidean) length
        L = mean over samples i of  sum_j (G_t - G_s)_ij^2 / N

    for a batch of N flattened features F. Rotations and a common scale of the features change nothing. At most 4 / N;
    the authors' weight is 3000.

    Args:
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's features, of shape (batch, ...). Positions that a Keras mask of y_pred leaves out are
            taken as zero.
        y_pred: The student's features, of shape (batch, ...).

    Raises:
        ValueError: If the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0], [2.0]])
        >>> round(float(SimilarityPreservingLoss()(teacher, student)), 4)
        0.2929

    References:
        Tung, Mori 2019, Similarity-Preserving Knowledge Distillation, section 3, equations 1 to 4
        (https://arxiv.org/abs/1907.09682).
    """

    def __init__(
        self,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str = "similarity_preserving_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        check_same_batch(teacher, student)
        teacher, student = (_similarities(flattened(x)) for x in (teacher, student))
        return ops.mean(ops.square(teacher - student), axis=1)


def _similarities(vectors: Tensor) -> Tensor:
    return unit_vectors(ops.matmul(vectors, ops.transpose(vectors)))


@keras.saving.register_keras_serializable(package="keras_notes")
class RelationalLoss(WholeSampleLoss):
    """Relational distillation (RKD): distances between samples, and angles between triplets of them.

        D_ij = |x_i - x_j| / mean distance;   A_jik = cos of the angle at x_i between x_j and x_k
        L = distance_weight * mean_ij huber(D_t - D_s) + angle_weight * mean_ijk huber(A_t - A_s)

    with huber(d) = d^2 / 2 for |d| <= 1, |d| - 1/2 beyond; the mean distance is over pairs that are apart. Shifts,
    rotations and a common scale of the features change nothing.

    Memory grows with batch^2 * (width + angle_partners): pool large features first.

    Args:
        distance_weight: Weight >= 0 of the distances. The authors use 1.
        angle_weight: Weight >= 0 of the angles. The authors use 2; 0 leaves the angles out.
        angle_partners: Number of samples, the first of the batch, that angles at every sample are formed with: all of
            them in batches up to that size.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's features, of shape (batch, ...). Positions that a Keras mask of y_pred leaves out are
            taken as zero.
        y_pred: The student's features, of shape (batch, ...).

    Raises:
        ValueError: If an argument is out of its range, or the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> loss = RelationalLoss()
        >>> round(float(loss(teacher, 2.0 * teacher + 1.0)), 6), round(float(loss(teacher, teacher[::-1])), 4)
        (0.0, 0.1504)

    References:
        Park et al. 2019, Relational Knowledge Distillation, sections 3.2.1 and 3.2.2, equations 3 to 8
        (https://arxiv.org/abs/1904.05068).
    """

    def __init__(
        self,
        distance_weight: float = 1.0,
        angle_weight: float = 2.0,
        *,
        angle_partners: int = 64,
        reduction: str | None = "sum_over_batch_size",
        name: str = "relational_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.distance_weight = check_non_negative("distance_weight", distance_weight)
        self.angle_weight = check_non_negative("angle_weight", angle_weight)
        self.angle_partners = check_integer("angle_partners", angle_partners)
        if self.angle_partners < 2:
            raise ValueError(f"`angle_partners` must be >= 2. {received(angle_partners=angle_partners)}")

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        check_same_batch(teacher, student)
        # Shapes: n samples, m partners, d values. differences_nnd[i, j] = x_j - x_i.
        differences = [x[None] - x[:, None] for x in (flattened(teacher), flattened(student))]
        loss = ops.zeros_like(differences[1][:, 0, 0])
        if self.distance_weight:
            distances = (_relative_distances(x_nnd) for x_nnd in differences)
            loss = loss + self.distance_weight * ops.mean(_huber(*distances), axis=1)
        if self.angle_weight:
            angles = (_cosines(x_nnd[:, : self.angle_partners]) for x_nnd in differences)
            loss = loss + self.angle_weight * ops.mean(_huber(*angles), axis=(1, 2))
        return loss


def _huber(x: Tensor, y: Tensor) -> Tensor:
    difference = ops.abs(x - y)
    quadratic = ops.minimum(difference, 1.0)
    return quadratic * (difference - 0.5 * quadratic)


def _relative_distances(differences_nnd: Tensor) -> Tensor:
    square = ops.sum(ops.square(differences_nnd), axis=-1)
    is_apart = square > 0
    # The square root has an infinite gradient at 0: pairs that are not apart never reach it.
    distances = ops.where(is_apart, ops.sqrt(ops.where(is_apart, square, 1.0)), 0.0)
    pairs = ops.maximum(ops.sum(ops.cast(is_apart, distances.dtype)), 1.0)
    mean = ops.sum(distances) / pairs
    return distances / ops.where(mean > 0, mean, 1.0)


def _cosines(differences_nmd: Tensor) -> Tensor:
    directions_nmd = unit_vectors(differences_nmd)
    return ops.matmul(directions_nmd, ops.transpose(directions_nmd, (0, 2, 1)))


@keras.saving.register_keras_serializable(package="keras_notes")
class ProbabilisticTransferLoss(WholeSampleLoss):
    """Probabilistic knowledge transfer (PKT): how probable each sample is as a neighbour of another.

        K_ij = (cos(x_i, x_j) + 1) / 2,   P_ij = K_ij / sum_j K_ij
        L = mean over i and j of  P_t,ij log(P_t,ij / P_s,ij)

    The lengths of the features and a rotation of them change nothing. The mean over N^2 makes it small; the authors'
    weight is 30000.

    Args:
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's features, of shape (batch, ...). Positions that a Keras mask of y_pred leaves out are
            taken as zero.
        y_pred: The student's features, of shape (batch, ...).

    Raises:
        ValueError: If the batch sizes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0], [2.0]])
        >>> round(float(ProbabilisticTransferLoss()(teacher, student)), 4)
        0.0283

    References:
        Passalis, Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer, section 3, equations
        4 to 8 (https://arxiv.org/abs/1803.10837).
    """

    def __init__(
        self,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str = "probabilistic_transfer_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        check_same_batch(teacher, student)
        p, q = (_neighbour_probs(flattened(x)) for x in (teacher, student))
        change = (q - p) / p
        is_small = ops.abs(change) < 0.5
        log_ratio = ops.where(is_small, ops.log1p(ops.where(is_small, change, 0.0)), ops.log(q / p))
        return ops.mean(kl_terms(p, q, log_ratio), axis=1)


def _neighbour_probs(vectors: Tensor) -> Tensor:
    directions = unit_vectors(vectors)
    affinities = 0.5 * (ops.matmul(directions, ops.transpose(directions)) + 1.0)
    affinities = ops.maximum(affinities, _MINIMUM_AFFINITY)
    return affinities / ops.sum(affinities, axis=1, keepdims=True)
