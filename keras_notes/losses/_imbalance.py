"""Losses and weights for rare classes: the asymmetric loss, and class weights by effective numbers of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_integer, check_non_negative, received
from keras_notes._shared.types import Tensor
from keras_notes.losses._base import Loss
from keras_notes.losses._labels import aligned_labels, raise_if_labels_out_of_range, to_logits
from keras_notes.losses._maths.backends import upstream_gradient
from keras_notes.losses._maths.log_odds import focal_of_independent, power

__all__ = ["AsymmetricLoss", "class_balanced_alpha"]


def class_balanced_alpha(counts: Sequence[int], beta: float = 0.9999) -> list[float]:
    """Class weights by the effective number of samples: alpha_c proportional to (1 - beta) / (1 - beta^n_c), mean 1.

    beta = 0 weights all classes alike; beta -> 1 weights them by 1 / n_c.

    Args:
        counts: Number n_c >= 1 of training samples of each class, of shape (classes,).
        beta: Parameter in [0, 1). The authors' values are 0.9, 0.99, 0.999 and 0.9999: about (N - 1) / N
            for N distinguishable samples a class.

    Returns:
        One weight a class, for `FocalLoss(alpha=...)`. For one sigmoid, with the counts of the labels 0 and 1:
        `FocalLoss(exclusive=False, alpha=dict(enumerate(weights)))`.

    Raises:
        ValueError: If a class has no sample, or beta is not in [0, 1).

    Example:
        >>> [round(weight, 3) for weight in class_balanced_alpha([5000, 50], beta=0.999)]
        [0.094, 1.906]

    References:
        Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples, section 3.2, equation 2, and
        section 4 (https://arxiv.org/abs/1901.05555).
    """
    beta = check_non_negative("beta", beta)
    if beta >= 1.0:
        raise ValueError(f"`beta` must be < 1. {received(beta=beta)}")
    samples = np.asarray(counts)
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"`counts` must hold one number a class. Received: shape {samples.shape}.")
    if not (samples >= 1).all():
        raise ValueError(
            f"`counts` must be >= 1: a class without samples has no weight. {received(counts=samples.tolist())} "
            f"Leave such classes out of the model, or give them the count 1."
        )
    if beta == 0.0:
        return [1.0] * samples.size
    weights = -1.0 / np.expm1(samples.astype(np.float64) * math.log(beta))
    return (weights / weights.mean()).tolist()


@keras.saving.register_keras_serializable(package="keras_notes")
class AsymmetricLoss(Loss):
    """Asymmetric loss for independent labels, most of which are not set.

        L = sum over labels of  y * (1 - p)^gamma_positive * -log(p)  +  (1 - y) * p_m^gamma_negative * -log(1 - p_m)

    with p = sigmoid(z) and p_m = max(p - margin, 0). Easy negatives are focused away, those below the margin wholly;
    positives keep their weight. With equal gammas and margin 0 it is `FocalLoss(exclusive=False)`, with both gammas 0
    the sum of logistic losses.

    The formula is differentiated in full. (The authors' program holds the focusing factors constant in training.)

    Args:
        gamma_positive: Focusing exponent of labels that are set, >= 0.
        gamma_negative: Focusing exponent of labels that are not, >= 0; not below `gamma_positive` where set labels are
            the rare ones.
        margin: Probability in [0, 1). Negatives with p <= margin have no loss and no gradient.
        from_logits: Whether predictions are logits. The default fits a model that ends in a sigmoid.
        axis: The label axis of the predictions.
        reduction: Reduction of the values, see `keras.losses.Loss`.
        name: Name of the loss.
        dtype: float32 (the default) or float64, the precision of the computation.

    Call arguments:
        y_true: Labels in [0, 1], of the shape of y_pred.
        y_pred: Logits or probabilities with the labels along `axis`.

    Raises:
        ValueError: If an argument is out of its range, if the shapes differ, or if labels given as a NumPy array are
            out of [0, 1].

    Example:
        >>> import numpy as np
        >>> loss = AsymmetricLoss(from_logits=True)
        >>> labels, logits = np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, -4.0, 1.0]], "float32")
        >>> round(float(loss(labels, logits)), 4)
        0.3728

    References:
        Ridnik et al. 2021, Asymmetric Loss For Multi-Label Classification, sections 2.2 and 2.3, equations 4 to 7
        (https://arxiv.org/abs/2009.14119).
    """

    def __init__(
        self,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        *,
        margin: float = 0.05,
        from_logits: bool = False,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "asymmetric_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.gamma_positive = check_non_negative("gamma_positive", gamma_positive)
        self.gamma_negative = check_non_negative("gamma_negative", gamma_negative)
        self.margin = check_non_negative("margin", margin)
        if self.margin >= 1.0:
            raise ValueError(f"`margin` must be < 1. {received(margin=margin)}")
        self.from_logits = bool(from_logits)
        self.axis = check_integer("axis", axis)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        raise_if_labels_out_of_range(y_true, y_pred, self.axis, exclusive=False)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = aligned_labels(y_true, y_pred, self.axis)
        logits = to_logits(y_pred, from_logits=self.from_logits, exclusive=False)
        if self.margin:
            values = _asymmetric(logits, labels, self.gamma_positive, self.gamma_negative, self.margin)
        else:
            values = focal_of_independent(logits, labels, 1.0 - labels, self.gamma_positive, self.gamma_negative)
        return ops.sum(values, axis=self.axis)


def _asymmetric(logits: Tensor, labels: Tensor, gamma_positive: float, gamma_negative: float, margin: float) -> Tensor:
    """The loss of each label, for a margin > 0, with its gradient."""

    @ops.custom_gradient
    def values(logits, labels):
        when_set, p, rest = ops.softplus(-logits), ops.sigmoid(logits), ops.sigmoid(-logits)
        factor_set = labels * power(rest, gamma_positive)
        shifted = _shifted_probability(logits, p, margin)
        is_low = shifted < 0.5
        # 1 - p_m, and its logarithm, from the side on which nothing cancels.
        shifted_rest = ops.where(is_low, 1.0 - shifted, margin + rest)
        when_not = -ops.where(is_low, ops.log1p(-ops.minimum(shifted, 0.5)), ops.log(shifted_rest))
        factor_not = (1.0 - labels) * power(shifted, gamma_negative)

        def gradient(*arguments, upstream=None):
            upstream = upstream_gradient(arguments, upstream)
            is_above = shifted > 0
            ratio = when_not / ops.where(is_above, shifted, 1.0)
            slope_not = factor_not * (gamma_negative * ratio + 1.0 / shifted_rest) * p * rest
            slope_set = -factor_set * (gamma_positive * p * when_set + rest)
            return (ops.where(is_above, slope_not, 0.0) + slope_set) * upstream, ops.zeros_like(labels)

        return factor_set * when_set + factor_not * when_not, gradient

    return values(logits, labels)


def _shifted_probability(logits: Tensor, p: Tensor, margin: float) -> Tensor:
    """max(p - margin, 0) for p = sigmoid(z).

    Near the margin the difference cancels; with z0 = log(margin / (1 - margin)) it is -(1 - margin) p expm1(z0 - z).
    What float32 leaves of z0 enters as a factor and a term: compilers fold two subtracted constants into one.
    """
    threshold = math.log(margin) - math.log1p(-margin)
    coarse = float(np.float32(threshold))
    fine = threshold - coarse
    # Not below -1, where the result is clipped anyway and the exponential could overflow.
    above = ops.maximum(logits - coarse, -1.0)
    decay = ops.expm1(-above) * math.exp(fine) + math.expm1(fine)
    return ops.maximum((margin - 1.0) * p * decay, 0.0)
