"""The focal loss as a function of log-odds, exact at any margin, with its gradients written out.

u = log((1 - p) / p) is the log-odds against the true class. In u both ends are exact: -log(p) = softplus(u) and
log(1 - p) = log_sigmoid(u). The power is taken in the log domain, so gamma < 1 has no infinite gradient where 1 - p
vanishes. None of the gradients reaches the labels.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.losses._maths.backends import upstream_gradient
from keras_notes.losses._maths.divergences import RULED_OUT

__all__ = ["focal", "focal_of_ids", "focal_of_independent", "focal_of_labels", "focal_of_one_hot", "power"]

# Takes the place of -inf for a class that is left out: finite, so that a row of nothing else has no 0 / 0.
_LEFT_OUT = -3e38
# exp(-u) overflows float32 below this; softplus(u) / sigmoid(u) has been 1 long before.
_MINIMUM_LOG_ODDS = -80.0


def focal(log_odds: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma * -log(p)."""
    cross_entropy = ops.softplus(log_odds)
    if gamma == 0.0:
        return cross_entropy
    return ops.exp(gamma * ops.log_sigmoid(log_odds)) * cross_entropy


def _focal_slope(log_odds: Tensor, gamma: float) -> Tensor:
    """The derivative of `focal` with respect to u: (1 - p)^gamma * (1 - p - gamma * p * log(p))."""
    rest = ops.sigmoid(log_odds)
    if gamma == 0.0:
        return rest
    factor = ops.exp(gamma * ops.log_sigmoid(log_odds))
    return factor * rest * (1.0 + gamma * ops.sigmoid(-log_odds) * _minus_log_over_rest(log_odds))


def _minus_log_over_rest(log_odds: Tensor) -> Tensor:
    """-log(p) / (1 - p), which is 1 where p is 1."""
    bounded = ops.maximum(log_odds, _MINIMUM_LOG_ODDS)
    return ops.softplus(bounded) / ops.sigmoid(bounded)


def power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent for x >= 0; products where they do, since compilers make a slow call of the general power."""
    if exponent == 0.0:
        return ops.ones_like(x)
    if exponent in (1.0, 2.0, 4.0):
        for _ in range(int(exponent) // 2):
            x = ops.square(x)
        return x
    return ops.exp(exponent * ops.log(x))


def focal_of_independent(
    logits: Tensor, weights_set: Tensor, weights_not: Tensor, gamma_set: float, gamma_not: float
) -> Tensor:
    """Focal losses of each label being set and not being set, weighted and added; elementwise.

    With s = softplus(z) and n = softplus(-z), -log(p) = n and -log(1 - p) = s, so set costs exp(-gamma s) n and not set
    exp(-gamma n) s.
    """

    @ops.custom_gradient
    def values(logits, weights_set, weights_not):
        decay = ops.exp(-ops.abs(logits))
        log_total = ops.log1p(decay)
        when_not, when_set = ops.maximum(logits, 0.0) + log_total, ops.maximum(-logits, 0.0) + log_total
        factor_set = weights_set * ops.exp(-gamma_set * when_not) if gamma_set else weights_set
        factor_not = weights_not * ops.exp(-gamma_not * when_set) if gamma_not else weights_not

        def gradient(*arguments, upstream=None):
            upstream = upstream_gradient(arguments, upstream)
            larger, smaller = 1.0 / (1.0 + decay), decay / (1.0 + decay)
            p, rest = ops.where(logits > 0, larger, smaller), ops.where(logits > 0, smaller, larger)
            slope = factor_not * (gamma_not * rest * when_not + p) - factor_set * (gamma_set * p * when_set + rest)
            return slope * upstream, ops.zeros_like(weights_set), ops.zeros_like(weights_not)

        return factor_set * when_set + factor_not * when_not, gradient

    return values(logits, weights_set, weights_not)


def focal_of_ids(logits: Tensor, ids: Tensor, gamma: float, axis: int = -1) -> Tensor:
    """Focal loss of the class `ids` (floats, the class axis of length 1), without the class axis.

    u = log sum_{j != t} exp(z_j) - z_t: the sum leaves the true class out, so nothing cancels when p_t is almost 1.
    du/dz_j is the softmax over the other classes, and -1 for the true class.
    """
    classes = logits.shape[axis]
    shape = [1] * len(logits.shape)
    shape[axis] = classes
    class_ids = ops.reshape(ops.arange(classes, dtype=ids.dtype), shape)

    def select(logits, ids):
        indices = ops.cast(ops.clip(ids, 0, classes - 1), "int32")
        return ops.equal(ids, class_ids), ops.take_along_axis(logits, indices, axis=axis)

    return _focal_of_one_class(logits, ids, select, gamma, axis)


def focal_of_one_hot(logits: Tensor, labels: Tensor, gamma: float, axis: int = -1) -> Tensor:
    """The same, for labels that are 1 for one class a sample."""

    def select(logits, labels):
        is_true = ops.equal(labels, 1.0)
        return is_true, ops.sum(ops.where(is_true, logits, 0.0), axis=axis, keepdims=True)

    return _focal_of_one_class(logits, labels, select, gamma, axis)


def _focal_of_one_class(logits: Tensor, target: Tensor, select: Callable, gamma: float, axis: int) -> Tensor:
    # The target is an argument, and a float with a gradient of zero, because JAX takes neither tracers of an outer
    # trace nor integers into a function with a gradient of its own.
    @ops.custom_gradient
    def values(logits, target):
        is_true, true_logit = select(logits, target)
        log_sum, softmax = _log_sum_exp_and_softmax(ops.where(is_true, _LEFT_OUT, logits), axis)
        log_odds = log_sum - true_logit

        def gradient(*arguments, upstream=None):
            upstream = ops.expand_dims(upstream_gradient(arguments, upstream), axis)
            slope = upstream * _focal_slope(log_odds, gamma)
            return ops.where(is_true, -slope, slope * softmax), ops.zeros_like(target)

        return ops.squeeze(focal(log_odds, gamma), axis), gradient

    return values(logits, target)


def focal_of_labels(logits: Tensor, labels: Tensor, gamma: float, axis: int = -1) -> Tensor:
    """sum_c labels_c * (1 - p_c)^gamma * -log(p_c) for soft labels or weights, without the class axis; O(classes).

    A class with p > 3/4, of which there is at most one a sample, gets 1 - p from the sum over the others; for the rest
    1 - p is exact enough. (3/4 and not 1/2: two equal logits may both round to just above 1/2.)

    With w_c = labels_c * (1 - p_c)^gamma * (1 - gamma * p_c * log(p_c) / (1 - p_c)), the gradient is
    p_j * (sum_c w_c - w_j) - w_j * (1 - p_j).
    """

    @ops.custom_gradient
    def values(logits, labels):
        log_sum, p = _log_sum_exp_and_softmax(logits, axis)
        is_dominant = p > 0.75
        log_odds = _log_odds_of_dominant(logits, is_dominant, axis)
        rest = ops.where(is_dominant, ops.sigmoid(log_odds), 1.0 - p)
        # A class that the model rules out by -inf costs nothing where its label is 0, and not 0 * inf.
        cross_entropy = ops.where(is_dominant, ops.softplus(log_odds), log_sum - ops.maximum(logits, RULED_OUT))
        factor = labels * power(rest, gamma)

        def gradient(*arguments, upstream=None):
            upstream = ops.expand_dims(upstream_gradient(arguments, upstream), axis)
            safe_rest = ops.where(is_dominant, 1.0, rest)
            ratio = ops.where(is_dominant, _minus_log_over_rest(log_odds), cross_entropy / safe_rest)
            weights = factor * (1.0 + gamma * p * ratio)
            others = ops.sum(weights, axis=axis, keepdims=True) - weights
            return (p * others - weights * rest) * upstream, ops.zeros_like(labels)

        return ops.sum(factor * cross_entropy, axis=axis), gradient

    return values(logits, labels)


def _log_odds_of_dominant(logits: Tensor, is_dominant: Tensor, axis: int) -> Tensor:
    """log((1 - p) / p) of the dominant class, the class axis kept; any finite number where there is none."""
    dominant_logit = ops.sum(ops.where(is_dominant, logits, 0.0), axis=axis, keepdims=True)
    others = ops.where(is_dominant, _LEFT_OUT, logits)
    maximum = ops.max(others, axis=axis, keepdims=True)
    return maximum + ops.log(ops.sum(ops.exp(others - maximum), axis=axis, keepdims=True)) - dominant_logit


def _log_sum_exp_and_softmax(logits: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The log-sum-exp (class axis kept) from the softmax itself: exp(max - logsumexp) is its largest value."""
    softmax = ops.softmax(logits, axis=axis)
    maximum = ops.max(logits, axis=axis, keepdims=True)
    return maximum - ops.log(ops.max(softmax, axis=axis, keepdims=True)), softmax
