"""Focal loss for exclusive classes and for independent labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_between, check_integer, check_non_negative, received
from keras_notes._shared.keras_internals import set_mask
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import Loss
from keras_notes.losses._labels import (
    aligned_labels,
    classes_of,
    expand_class_axis,
    is_class_ids,
    raise_if_labels_out_of_range,
    to_logits,
)
from keras_notes.losses._maths.backends import branch
from keras_notes.losses._maths.log_odds import focal_of_ids, focal_of_independent, focal_of_labels, focal_of_one_hot

__all__ = ["FocalLoss"]

Alpha: TypeAlias = float | Sequence[float] | Mapping[int, float] | None


def _along_axis(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """Reshapes a vector of one value per class so that it broadcasts along the class axis of `like`."""
    shape = [1] * len(like.shape)
    shape[axis] = -1
    return ops.reshape(values, shape)


@keras.saving.register_keras_serializable(package="keras_notes")
class FocalLoss(Loss):
    """Focal loss: cross-entropy in which well classified samples count less.

        FL = -alpha_t * (1 - p_t)^gamma * log(p_t)

    With p_t the probability of the true class (`exclusive=True`: softmax, one class a sample), or, for each label on
    its own (`exclusive=False`: sigmoid, any number of labels a sample), the probability of the value of the label; the
    labels' losses are then summed. gamma = 0 is cross-entropy.

    Value and gradient are computed from log-odds and hold to float32 precision at any margin that the input can
    express: logits to float32's range, probabilities down to 1e-36. (A sigmoid rounded to exactly 1.0 has lost its
    margin before the loss sees it: train multi-label models on logits.)

    Args:
        gamma: Focusing exponent, >= 0. At 2 a sample with p_t = 0.9 counts 100 times less than in cross-entropy.
        alpha: Class weight. `exclusive=True`: a number in [0, 1], or one weight >= 0 a class. `exclusive=False`: a
            number in [0, 1], or one a label: the weight of the label when it is set, 1 - alpha when it is not. Or a
            dictionary as `class_weight` of `fit`: {class id: weight}; `exclusive=False`: {0: weight of a label that is
            not set, 1: weight of one that is}.
        exclusive: True for one class a sample, False for independent labels.
        from_logits: Whether predictions are logits. The default fits a model that ends in a softmax or sigmoid.
        label_smoothing: Share in [0, 1) of each label that is moved to the uniform distribution over the classes (over
            the two values of each label when `exclusive=False`).
        ignore_class: Class id that marks samples without a label. They neither count in the loss nor in its mean.
        axis: The class axis of the predictions.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: `exclusive=True`: class ids of shape (...,) or (..., 1), or one label per class (one-hot or soft) of
            the shape of y_pred. `exclusive=False`: labels in [0, 1] of the shape of y_pred.
        y_pred: Logits or probabilities with the classes along `axis`, at least two of them if `exclusive`.

    Raises:
        ValueError: If an argument is out of its range, if the shapes do not fit together, or if labels given as a NumPy
            array are out of range. Where ids cannot be seen (inside a compiled step), a sample with
            an id out of range has the loss NaN.

    Example:
        >>> import numpy as np
        >>> easy_and_hard = np.array([[4.0, 0.0], [0.0, 4.0]], "float32")
        >>> values = FocalLoss(from_logits=True, reduction=None)(np.array([0, 0]), easy_and_hard)
        >>> [f"{value:.2g}" for value in np.asarray(values)]
        ['5.9e-06', '3.9']

    References:
        Lin et al. 2017, Focal Loss for Dense Object Detection, section 3, equations 4 and 5
        (https://arxiv.org/abs/1708.02002).
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Alpha = None,
        *,
        exclusive: bool = True,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        ignore_class: int | None = None,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "focal_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.gamma = check_non_negative("gamma", gamma)
        self.exclusive = bool(exclusive)
        self.alpha = _check_alpha(alpha, self.exclusive)
        self.from_logits = bool(from_logits)
        self.label_smoothing = check_between("label_smoothing", label_smoothing, 0.0, 1.0)
        self.ignore_class = None if ignore_class is None else check_integer("ignore_class", ignore_class)
        self.axis = check_integer("axis", axis)
        if self.label_smoothing == 1.0:
            raise ValueError(f"`label_smoothing` must be < 1. {received(label_smoothing=label_smoothing)}")
        if self.ignore_class is not None and not self.exclusive:
            raise ValueError(
                f"`ignore_class` must be None when `exclusive=False`: independent labels have no class ids. "
                f"{received(ignore_class=ignore_class)} Give such samples a `sample_weight` of 0."
            )

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        # Only here are the labels those of the caller; `call` may get tracers, which hold no values.
        raise_if_labels_out_of_range(y_true, y_pred, self.axis, self.exclusive, self.ignore_class)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        classes = classes_of(y_pred, self.axis)
        self._check_classes(classes)
        if not self.exclusive:
            return self._independent(y_true, y_pred)
        logits = to_logits(y_pred, from_logits=self.from_logits, exclusive=True)
        if is_class_ids(y_true, y_pred, self.axis):
            return self._exclusive_ids(expand_class_axis(y_true, y_pred, self.axis), logits)
        if self.ignore_class is not None:
            raise ValueError(
                f"`ignore_class` must be None unless y_true holds class ids. "
                f"Received: ignore_class={self.ignore_class} and y_true of shape {tuple(y_true.shape)}."
            )
        return self._exclusive_labels(y_true, logits)

    def _exclusive_ids(self, ids: Tensor, logits: Tensor) -> Tensor:
        classes = logits.shape[self.axis]
        is_class = (ids >= 0) & (ids < classes) & ops.equal(ids, ops.floor(ids))
        if self.label_smoothing:
            one_hot = ops.cast(ops.equal(ids, _along_axis(ops.arange(classes), logits, self.axis)), logits.dtype)
            values = self._soft_label_loss(self._smoothed(one_hot, 1.0 / classes), logits)
        else:
            values = focal_of_ids(logits, ids, self.gamma, self.axis)
            if self.alpha is not None:
                values = values * self._alpha_of_ids(ops.squeeze(ids, self.axis))
        values = ops.where(ops.squeeze(is_class, self.axis), values, math.nan)
        if self.ignore_class is None:
            return values
        is_labelled = ops.squeeze(ops.not_equal(ids, self.ignore_class), self.axis)
        values = ops.where(is_labelled, values, 0.0)
        # The reduction counts the entries of the mask; Keras's own sparse cross-entropy does this too.
        set_mask(values, is_labelled)
        return values

    def _exclusive_labels(self, labels: Tensor, logits: Tensor) -> Tensor:
        if self.label_smoothing:
            return self._soft_label_loss(self._smoothed(labels, 1.0 / logits.shape[self.axis]), logits)
        # One-hot labels are by far the most common here, and one class a sample costs a third of all of them.
        is_true = ops.equal(labels, 1.0)
        ones = ops.sum(ops.cast(is_true, "int32"), axis=self.axis)
        is_one_hot = ops.all(is_true | ops.equal(labels, 0.0)) & ops.all(ops.equal(ones, 1))
        return branch(
            is_one_hot, lambda: self._one_hot_loss(labels, logits), lambda: self._soft_label_loss(labels, logits)
        )

    def _one_hot_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        values = focal_of_one_hot(logits, labels, self.gamma, self.axis)
        if self.alpha is None:
            return values
        return values * ops.sum(labels * self._alpha_per_class(logits), axis=self.axis)

    def _soft_label_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        weights = labels if self.alpha is None else labels * self._alpha_per_class(logits)
        return focal_of_labels(logits, weights, self.gamma, self.axis)

    def _independent(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        logits = to_logits(y_pred, from_logits=self.from_logits, exclusive=False)
        labels = self._smoothed(aligned_labels(y_true, y_pred, self.axis), 0.5)
        weights_set, weights_not = labels, 1.0 - labels
        if isinstance(self.alpha, dict):
            weights_set, weights_not = self.alpha[1] * weights_set, self.alpha[0] * weights_not
        elif self.alpha is not None:
            alpha = self._alpha_per_class(logits)
            weights_set, weights_not = alpha * weights_set, (1.0 - alpha) * weights_not
        values = focal_of_independent(logits, weights_set, weights_not, self.gamma, self.gamma)
        return ops.sum(values, axis=self.axis)

    def _smoothed(self, labels: Tensor, uniform: float) -> Tensor:
        if not self.label_smoothing:
            return labels
        return labels * (1.0 - self.label_smoothing) + self.label_smoothing * uniform

    def _alpha_of_ids(self, ids: Tensor) -> Tensor:
        if not isinstance(self.alpha, list):
            return self.alpha
        indices = ops.cast(ops.clip(ids, 0, len(self.alpha) - 1), "int32")
        return ops.take(ops.convert_to_tensor(self.alpha, dtype=ids.dtype), indices)

    def _alpha_per_class(self, logits: Tensor) -> Tensor:
        alpha = ops.convert_to_tensor(self.alpha, dtype=logits.dtype)
        return alpha if isinstance(self.alpha, float) else _along_axis(alpha, logits, self.axis)

    def _check_classes(self, classes: int | None) -> None:
        if classes is None:
            raise ValueError(f"The class axis of y_pred must have a known length. {received(axis=self.axis)}")
        if self.exclusive and classes < 2:
            raise ValueError(
                f"y_pred must have at least two classes when `exclusive=True`. Received: {classes} along axis "
                f"{self.axis}. Use `exclusive=False` for a single sigmoid output."
            )
        if isinstance(self.alpha, list) and len(self.alpha) != classes:
            raise ValueError(
                f"`alpha` must be a number or hold one weight a class. "
                f"Received: {len(self.alpha)} weights for {classes} classes."
            )


def _check_alpha(alpha: Alpha, exclusive: bool) -> float | list[float] | dict[int, float] | None:
    if alpha is None:
        return None
    if isinstance(alpha, Mapping):
        return _weights_by_class(alpha, exclusive)
    if np.ndim(alpha) == 0:
        return _check_share(alpha.item() if isinstance(alpha, np.ndarray) else alpha, exclusive)
    if np.ndim(alpha) != 1:
        raise ValueError(f"`alpha` must be a number or a flat sequence. {received(alpha=alpha)}")
    weights = [float(weight) for weight in np.asarray(alpha).tolist()]
    if exclusive:
        return [check_non_negative("alpha", weight) for weight in weights]
    return [_check_share(weight, exclusive) for weight in weights]


def _weights_by_class(alpha: Mapping[int, float], exclusive: bool) -> list[float] | dict[int, float]:
    """Returns weights by class id as a list for exclusive classes, as a dictionary of 0 and 1 for a sigmoid."""
    # Keys of a saved loss are text.
    ids = [int(key) if str(key).isdecimal() else -1 for key in alpha]
    weights = {i: check_non_negative("alpha", weight) for i, weight in zip(ids, alpha.values(), strict=True)}
    if sorted(weights) != list(range(len(weights) if exclusive else 2)) or not weights:
        keys = "each class id from 0 on" if exclusive else "0 (a label that is not set) and 1 (one that is)"
        raise ValueError(f"`alpha` must have a weight for {keys}. {received(alpha=dict(alpha))}")
    return [weights[key] for key in sorted(weights)] if exclusive else dict(sorted(weights.items()))


def _check_share(alpha: float | Sequence[float], exclusive: bool) -> float:
    try:
        return check_between("alpha", alpha, 0.0, 1.0)
    except ValueError as error:
        remedy = (
            "a list with one weight a class" if exclusive else "{0: weight of a label not set, 1: weight of one set}"
        )
        call = "class_balanced_alpha(counts)"
        raise ValueError(
            f"{error} Weights beyond 1 are given for all classes: {remedy}, such as "
            f"`alpha={call if exclusive else f'dict(enumerate({call}))'}`."
        ) from None
