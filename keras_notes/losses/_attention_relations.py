"""Distillation of how the positions of a sequence relate to each other, in Transformers and recurrent networks."""

from __future__ import annotations

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_positive, differ, received
from keras_notes._shared.keras_internals import get_mask
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import TeacherLoss
from keras_notes.losses._maths.divergences import RULED_OUT, kl_divergence

__all__ = ["AttentionRelationLoss"]


@keras.saving.register_keras_serializable(package="keras_notes")
class AttentionRelationLoss(TeacherLoss):
    """MiniLM's self-attention relations: which positions of a sequence resemble each other.

        R_h = softmax over positions of  A_h A_h^T / (sqrt(width of a head) * temperature)
        L = mean over heads h of  KL(R_h,teacher || R_h,student),   for each position

    where the features A (queries, keys or values of a Transformer's layer, or the hidden states of an LSTM) are split
    into `relation_heads` heads. Widths and numbers of attention heads of teacher and student may differ; only the
    number of relation heads is common. Rotating the features of a head changes nothing; no projection is needed.

    The authors' recipe is three of them, on the queries, keys and values of one layer each.

    Padding, by the Keras mask of `y_pred`: masked positions neither count nor are compared with.

    Args:
        relation_heads: Number of relation heads >= 1, which must divide both widths. The authors use more of them (48)
            than attention heads.
        temperature: T, > 0, of both relations. The authors use 1. L is multiplied by T^2.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: The teacher's features, of shape (batch, positions, width).
        y_pred: The student's features, of shape (batch, positions, student's width).

    Raises:
        ValueError: If an argument is out of its range, or the shapes do not fit together.

    Example:
        >>> import numpy as np
        >>> teacher = np.random.default_rng(0).normal(size=(2, 5, 8))
        >>> rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
        >>> abs(round(float(AttentionRelationLoss()(teacher, teacher @ rotation)), 6))
        0.0

    References:
        Wang et al. 2021, MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
        Transformers, section 3.1, equations 5 to 8 (https://arxiv.org/abs/2012.15828).
    """

    temperature: float
    compares_entries = False

    def __init__(
        self,
        relation_heads: int = 1,
        *,
        temperature: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "attention_relation_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.relation_heads = check_at_least("relation_heads", relation_heads, 1)
        self.temperature = check_positive("temperature", temperature)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        # Keras applies the mask to the values of the positions; here it must also reach the positions compared with.
        mask = get_mask(y_pred)
        if mask is not None:
            y_true = (y_true, mask)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        teacher, mask = y_true if isinstance(y_true, tuple) else (y_true, None)
        self._check_shapes(tuple(teacher.shape), tuple(y_pred.shape))
        relations = self._relations(ops.stop_gradient(teacher), mask)
        values_bhl = kl_divergence(relations, self._relations(y_pred, mask), self.temperature)
        return self.temperature**2 * ops.mean(values_bhl, axis=1)

    def _divided_by_temperature(self, teacher: Tensor, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        # Relations are products of two features, so each of them is divided by the root of T.
        root = ops.sqrt(temperature)
        return teacher / root, student / root

    def _relations(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Logits of the relations, of shape (batch, heads, positions, positions)."""
        batch, positions = ops.shape(features)[:2]
        width = features.shape[-1] // self.relation_heads
        heads_blhd = ops.reshape(features, (batch, positions, self.relation_heads, width))
        heads_bhld = ops.transpose(heads_blhd, (0, 2, 1, 3)) * width**-0.25
        logits_bhlm = ops.matmul(heads_bhld, ops.transpose(heads_bhld, (0, 1, 3, 2)))
        if mask is None:
            return logits_bhlm
        return ops.where(ops.cast(mask, "bool")[:, None, None, :], logits_bhlm, RULED_OUT)

    def _check_shapes(self, teacher_shape: tuple[int, ...], student_shape: tuple[int, ...]) -> None:
        is_fitting = len(teacher_shape) == len(student_shape) == 3 and not differ(teacher_shape[:2], student_shape[:2])
        if not is_fitting:
            raise ValueError(
                f"The features of teacher and student must have shape (batch, positions, width) with the same "
                f"positions. Received: shapes {teacher_shape} and {student_shape}."
            )
        for width in (teacher_shape[-1], student_shape[-1]):
            if width % self.relation_heads:
                raise ValueError(
                    f"`relation_heads` must divide the widths of teacher and student. "
                    f"{received(relation_heads=self.relation_heads)} Widths: {teacher_shape[-1]}, {student_shape[-1]}."
                )
