"""Several teachers: their shares in the mean of the losses, or the best teacher for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_notes._shared.checks import check_non_negative, received
from keras_notes._shared.types import Tensor
from keras_notes.losses import TeacherLoss

__all__ = ["best_outputs", "teacher_shares"]


def teacher_shares(teacher_weights: Sequence[float] | np.ndarray | str | None, count: int) -> list[float] | str:
    """Returns the share of each teacher in the mean, summing to 1; or "best" as it is.

    Args:
        teacher_weights: One weight for each teacher, "best", or None for equal weights.
        count: Number of teachers.

    Raises:
        TypeError: If the weights are neither a sequence nor "best".
        ValueError: If a weight is negative, all are 0, or there is not one for each teacher.
    """
    if isinstance(teacher_weights, str):
        if teacher_weights != "best":
            raise ValueError(
                f'`teacher_weights` must be a list of numbers or "best". {received(teacher_weights=teacher_weights)}'
            )
        return teacher_weights
    if not isinstance(teacher_weights, (Sequence, np.ndarray, type(None))):
        raise TypeError(
            f'`teacher_weights` must be a list of numbers or "best". {received(teacher_weights=teacher_weights)}'
        )
    weights = [1.0] * count if teacher_weights is None else list(teacher_weights)
    weights = [check_non_negative("teacher_weights", weight) for weight in weights]
    if len(weights) != count or sum(weights) == 0:
        raise ValueError(
            f"`teacher_weights` must hold one weight for each teacher, not all of them 0. "
            f"Received: {weights} for {count} teachers."
        )
    return [weight / sum(weights) for weight in weights]


def best_outputs(
    outputs: Sequence[Sequence[Tensor]],
    losses: Sequence[TeacherLoss | None],
    labels: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
) -> list[Tensor]:
    """Returns, for each sample, the outputs of the teacher that is best on it.

    That is the teacher with the smallest cross-entropy with the sample's labels, summed over the outputs; for a sample
    without a label (an id < 0, or zeros only), the one with the smallest entropy. Positions that a mask of the student
    leaves out do not count.

    Args:
        outputs: For each teacher its outputs.
        losses: For each output its loss, or None.
        labels: For each output its labels, or None.
        masks: For each output the Keras mask of the student's output, or None.
    """
    costs = ops.stack([_cost(leaves, losses, labels, masks) for leaves in outputs])
    best = ops.argmin(costs, axis=0)
    selected = list(outputs[0])
    for teacher, leaves in enumerate(outputs[1:], start=1):
        for i, leaf in enumerate(leaves):
            is_best = ops.reshape(ops.equal(best, teacher), (-1, *[1] * (len(leaf.shape) - 1)))
            selected[i] = ops.where(is_best, leaf, selected[i])
    return selected


def _cost(
    leaves: Sequence[Tensor],
    losses: Sequence[TeacherLoss | None],
    labels: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
) -> Tensor:
    total = 0.0
    for leaf, loss, label, mask in zip(leaves, losses, labels, masks, strict=True):
        logits = ops.cast(leaf, "float32")
        if loss is not None:
            logits = loss.teacher_logits(logits)
        cost = (_class_cost if loss is None or loss.exclusive else _label_cost)(logits, label)
        cost = ops.reshape(cost, (ops.shape(cost)[0], -1))
        weight = ops.ones_like(cost) if mask is None else ops.cast(ops.reshape(mask, ops.shape(cost)), cost.dtype)
        total = total + ops.sum(cost * weight, axis=-1) / ops.maximum(ops.sum(weight, axis=-1), 1.0)
    return total


def _class_cost(logits: Tensor, label: Tensor | None) -> Tensor:
    """The cross-entropy with one class a sample, each of them known or not."""
    log_probs = ops.log_softmax(logits, axis=-1)
    entropy = -ops.sum(ops.where(ops.isfinite(log_probs), ops.exp(log_probs) * log_probs, 0.0), axis=-1)
    if label is None:
        return entropy
    one_hot, known = _one_hot(label, log_probs)
    return ops.where(known, -ops.sum(ops.where(one_hot > 0, one_hot * log_probs, 0.0), axis=-1), entropy)


def _label_cost(logits: Tensor, label: Tensor | None) -> Tensor:
    """The mean cross-entropy over independent labels, each of them known or not (< 0)."""
    probs = ops.sigmoid(logits)
    entropy = ops.softplus(logits) - probs * logits
    if label is None:
        return ops.mean(entropy, axis=-1)
    label = ops.cast(ops.reshape(ops.convert_to_tensor(label), ops.shape(logits)), logits.dtype)
    return ops.mean(ops.where(label >= 0, ops.softplus(logits) - label * logits, entropy), axis=-1)


def _one_hot(label: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Labels as one-hot vectors, and whether each of them is known."""
    label = ops.convert_to_tensor(label)
    if len(label.shape) == len(log_probs.shape) and label.shape[-1] == log_probs.shape[-1]:
        one_hot = ops.cast(label, log_probs.dtype)
        return one_hot, ops.sum(one_hot, axis=-1) > 0
    ids = ops.cast(ops.reshape(label, ops.shape(log_probs)[:-1]), "int32")
    return ops.one_hot(ops.maximum(ids, 0), log_probs.shape[-1], dtype=log_probs.dtype), ids >= 0
