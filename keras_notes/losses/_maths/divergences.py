"""Divergences between two softmaxes, exact where teacher and student almost agree and where they are far apart.

Notation: p = softmax(a) of the teacher, q = softmax(b) of the student, r = log(q / p) per class. Every divergence here
is a sum of terms p * (exp(r) - 1 - r) >= 0, so nothing cancels between classes, and r comes from the difference b - a
and never from log q - log p, which would leave only the rounding error of numbers near log(classes) once the
temperature has made the difference small.

The gradients are written out: with respect to b they are differences of probabilities, which cost one pass over the
logits where differentiating the sums would cost many. No gradient reaches the teacher.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.losses._maths.backends import branch, upstream_gradient

__all__ = [
    "RULED_OUT",
    "bernoulli_kl_divergence",
    "jensen_shannon_divergence",
    "kl_divergence",
    "kl_terms",
    "log_sum_exp_difference",
    "reverse_kl_divergence",
    "standardized",
]

# Stands for -inf, so that a class that a model rules out gives 0 * finite and not 0 * inf.
RULED_OUT = -1e30
# Below this |r| a rational function replaces exp(r) - 1 - r, which cancels: at it both are within 4e-6 of the term in
# float32, and within 3e-11 in float64.
_NEAR = {"float32": 0.3, "float64": 0.005}
# The direct sum is taken where it loses less than about 2^-22 / _MINIMUM_SHARE = 1e-5 of its value.
_MINIMUM_SHARE = 0.02
_STANDARD_DEVIATION_EPSILON = 1e-7


def kl_divergence(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    axis: int = -1,
    *,
    teacher_temperature: float = 1.0,
    is_normalized: bool = False,
) -> Tensor:
    """KL(p || q) = sum_j p_j log(p_j / q_j) for a = t * teacher_temperature / T and b = s / T.

    The teacher's logits may be log-probabilities taken at `teacher_temperature`; where that is T they are log p
    already (`is_normalized`) and nothing of the teacher's side is computed again.

    There are two formulas; the rounding error of the first on the batch at hand decides between them. delta - sum_j p_j
    (b_j - a_j), with delta the difference of the two log-sum-exps, needs the fewest passes, and rounds in proportion to
    the numbers that it subtracts. Where that matters in the sum over the batch (or the sum is not a number, as with
    -inf), the sum of positive terms replaces it, and p * expm1(r) replaces q - p in the gradient.
    """

    @ops.custom_gradient
    def divergence(logits, teacher_logits):
        pair = _SoftmaxPair(
            teacher_logits, axis, 1.0 / temperature, teacher_temperature / temperature, is_normalized=is_normalized
        )
        exponentials = pair.exponentials(logits)
        (p_exps, p_total), (q_exps, q_total), delta = exponentials
        mean_difference = pair.mean_difference(logits, p_exps, p_total)
        direct = delta - mean_difference
        is_direct = ops.sum(direct) > _MINIMUM_SHARE * ops.sum(1.0 + ops.abs(delta) + ops.abs(mean_difference))
        value = branch(
            is_direct,
            lambda: direct,
            lambda: _careful_kl(pair.probs_and_log_ratio(logits, exponentials), axis),
        )

        def gradient(*arguments, upstream=None):
            upstream = ops.expand_dims(upstream_gradient(arguments, upstream), axis) / temperature
            # The careful sum of p * expm1(r) is computed a second time: as a second result of the value's branch it
            # made both branches equally slow under XLA.
            difference = branch(
                is_direct,
                lambda: q_exps * (upstream / q_total) - p_exps * (upstream / p_total),
                lambda: _careful_difference(pair.probs_and_log_ratio(logits, exponentials), axis) * upstream,
            )
            return difference, ops.zeros_like(teacher_logits)

        return ops.squeeze(value, axis), gradient

    return divergence(student_logits, teacher_logits)


def reverse_kl_divergence(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0, axis: int = -1
) -> Tensor:
    """KL(q || p) = sum_j q_j log(q_j / p_j) for p = softmax(teacher_logits / T), q = softmax(student_logits / T)."""

    def value_and_slope(p, q, log_ratio):
        return kl_terms(q, p, -log_ratio), log_ratio

    return _divergence(value_and_slope, teacher_logits, student_logits, temperature, axis)


def jensen_shannon_divergence(
    teacher_logits: Tensor, student_logits: Tensor, beta: float, temperature: float = 1.0, axis: int = -1
) -> Tensor:
    """The sum beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, for 0 < beta < 1."""

    def value_and_slope(p, q, log_ratio):
        mixture = beta * p + (1.0 - beta) * q
        # log(m / p) and log(m / q); each from the side on which exp(log_ratio) does not overflow.
        decay = ops.expm1(-ops.abs(log_ratio))
        rise, fall = ops.maximum(log_ratio, 0.0), ops.minimum(log_ratio, 0.0)
        share = ops.where(log_ratio > 0, ops.log1p(beta * decay), ops.log1p((1.0 - beta) * decay))
        to_p, to_q = rise + share, -fall + share
        terms = beta * kl_terms(p, mixture, to_p) + (1.0 - beta) * kl_terms(q, mixture, to_q)
        return terms, -(1.0 - beta) * to_q

    return _divergence(value_and_slope, teacher_logits, student_logits, temperature, axis)


def bernoulli_kl_divergence(teacher_logits: Tensor, student_logits: Tensor, difference: Tensor) -> Tensor:
    """KL(p || q) per label for p = sigmoid(a), q = sigmoid(b) and d = b - a, which is given for its precision.

    The gradient, q - p, goes to d alone, not to a or b.

    For p <= 1/2, to which the other half is turned over, it is log(1 + x) - p d with x = p expm1(d). Where d is small
    that cancels; there it is p (exp(d) - 1 - d) - (exp(y) - 1 - y) with y = log(1 + x), of which the second term is at
    most half of the first, and q - p is (1 - p) x / (1 + x).
    """

    @ops.custom_gradient
    def divergence(difference, teacher_logits, student_logits):
        sign = 1.0 - 2.0 * ops.cast(teacher_logits > 0, difference.dtype)
        d = sign * difference
        softplus_a, p = _softplus_and_sigmoid(-ops.abs(teacher_logits))
        softplus_b, q = _softplus_and_sigmoid(sign * student_logits)
        near = _clipped(d)
        is_near = ops.equal(near, d)
        near_remainder = _exp_minus_tangent(near)
        x = p * (near + near_remainder)

        def gradient(*arguments, upstream=None):
            upstream = upstream_gradient(arguments, upstream)
            slope = ops.where(is_near, (1.0 - p) * x / (1.0 + x), q - p) * (sign * upstream)
            return slope, ops.zeros_like(slope), ops.zeros_like(slope)

        near_value = p * near_remainder - _exp_minus_tangent(ops.log1p(x))
        return ops.where(is_near, near_value, softplus_b - softplus_a - p * d), gradient

    return divergence(difference, teacher_logits, student_logits)


def _softplus_and_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    decay = ops.exp(-ops.abs(x))
    return ops.maximum(x, 0.0) + ops.log1p(decay), ops.where(x > 0, 1.0, decay) / (1.0 + decay)


def log_sum_exp_difference(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0, axis: int = -1
) -> Tensor:
    """log(sum_j exp(b_j) / sum_j exp(a_j)), the class axis kept, in proportion to b - a; its gradient is softmax(b)."""

    @ops.custom_gradient
    def difference(logits, teacher_logits):
        pair = _SoftmaxPair(teacher_logits, axis, 1.0 / temperature, 1.0 / temperature)
        exponentials = pair.exponentials(logits)
        p, q, log_ratio = pair.probs_and_log_ratio(logits, exponentials)
        excess = ops.sum(_excess(p, q, log_ratio), axis=axis, keepdims=True)

        def gradient(*arguments, upstream=None):
            upstream = upstream_gradient(arguments, upstream)
            return q * (upstream / temperature), ops.zeros_like(teacher_logits)

        return exponentials[2] + ops.log1p(excess), gradient

    return difference(student_logits, teacher_logits)


def standardized(logits: Tensor, axis: int = -1) -> Tensor:
    """(z - mean) / standard deviation over the classes, the deviation with classes - 1 as in the reference code."""
    centred = logits - ops.mean(logits, axis=axis, keepdims=True)
    variance = ops.sum(ops.square(centred), axis=axis, keepdims=True) / (logits.shape[axis] - 1)
    return centred / (ops.sqrt(ops.maximum(variance, _STANDARD_DEVIATION_EPSILON**2)) + _STANDARD_DEVIATION_EPSILON)


def _divergence(
    value_and_slope: Callable, teacher_logits: Tensor, student_logits: Tensor, temperature: float, axis: int
) -> Tensor:
    """sum_j v_j(p, q, r), given the terms v and the slopes dv/dq up to a constant over the classes."""

    @ops.custom_gradient
    def divergence(logits, teacher_logits):
        pair = _SoftmaxPair(teacher_logits, axis, 1.0 / temperature, 1.0 / temperature)
        p, q, log_ratio = pair.probs_and_log_ratio(logits, pair.exponentials(logits))
        log_ratio = log_ratio - ops.log1p(ops.sum(_excess(p, q, log_ratio), axis=axis, keepdims=True))
        terms, slope = value_and_slope(p, q, log_ratio)

        def gradient(*arguments, upstream=None):
            upstream = ops.expand_dims(upstream_gradient(arguments, upstream), axis) / temperature
            # Slopes count from that of the most probable class, which would cancel against the mean that it dominates.
            is_top = ops.equal(q, ops.max(q, axis=axis, keepdims=True))
            relative = slope - ops.max(ops.where(is_top, slope, 2.0 * RULED_OUT), axis=axis, keepdims=True)
            difference = q * (relative - ops.sum(q * relative, axis=axis, keepdims=True))
            return difference * upstream, ops.zeros_like(teacher_logits)

        return ops.sum(terms, axis=axis), gradient

    return divergence(student_logits, teacher_logits)


class _SoftmaxPair:
    """Quantities of the two softmaxes: the teacher's logits, and the scales that turn both logits into a and b."""

    def __init__(
        self, teacher_logits: Tensor, axis: int, scale: float, teacher_scale: float, is_normalized: bool = False
    ):
        self.teacher_logits, self.axis = teacher_logits, axis
        self.scale, self.teacher_scale, self.is_normalized = scale, teacher_scale, is_normalized

    def finite_difference(self, logits: Tensor) -> Tensor:
        """The difference b - a with -inf replaced by a large number."""
        return self._difference(ops.maximum(logits, RULED_OUT), ops.maximum(self.teacher_logits, RULED_OUT))

    def _difference(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The difference b - a, rounded once where both have one scale."""
        if self.scale == self.teacher_scale:
            return (logits - teacher_logits) * self.scale
        return logits * self.scale - teacher_logits * self.teacher_scale

    def mean_difference(self, logits: Tensor, exps: Tensor, total: Tensor) -> Tensor:
        """The mean of b - a under p = exps / total, of shape (..., 1, ...); a common scale multiplies the sum alone."""
        if self.scale == self.teacher_scale:
            difference, factor = logits - self.teacher_logits, self.scale
        else:
            difference, factor = self._difference(logits, self.teacher_logits), 1.0
        return ops.sum(exps * difference, axis=self.axis, keepdims=True) * (factor / total)

    def exponentials(self, logits: Tensor) -> tuple[tuple, tuple, Tensor]:
        """exp(a) and exp(b) up to a factor, with their sums; and delta = logsumexp(b) - logsumexp(a), (..., 1, ...)."""
        maximum, exps, total = self._exponentials(logits, self.scale)
        if self.is_normalized:
            return (ops.exp(self.teacher_logits * self.teacher_scale), 1.0), (exps, total), maximum + ops.log(total)
        teacher_maximum, teacher_exps, teacher_total = self._exponentials(self.teacher_logits, self.teacher_scale)
        delta = (maximum - teacher_maximum) + ops.log(total / teacher_total)
        return (teacher_exps, teacher_total), (exps, total), delta

    def probs_and_log_ratio(self, logits: Tensor, exponentials: tuple) -> tuple[Tensor, Tensor, Tensor]:
        """P, q and r = log(q / p) per class, from what `exponentials` returned; r has the rounding error of delta."""
        (p_exps, p_total), (q_exps, q_total), delta = exponentials
        return p_exps / p_total, q_exps / q_total, self.finite_difference(logits) - delta

    def _exponentials(self, logits: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        # Scaled after the maximum is taken: a maximum over scaled logits is another pass on some compilers.
        maximum = ops.maximum(ops.max(logits, axis=self.axis, keepdims=True), RULED_OUT) * scale
        exps = ops.exp(logits * scale - maximum)
        # 0 only where every class is ruled out; there both softmaxes are zero instead of not a number.
        total = ops.sum(exps, axis=self.axis, keepdims=True)
        return maximum, exps, ops.where(total > 0, total, 1.0)


def _clipped(log_ratio: Tensor) -> Tensor:
    limit = _NEAR[keras.backend.standardize_dtype(log_ratio.dtype)]
    return ops.clip(log_ratio, -limit, limit)


def _exp_minus_tangent(x: Tensor) -> Tensor:
    """exp(x) - 1 - x for |x| <= 0.3.

    At half of x by its [2/2] Pade approximant y^2 / (2 - 2y/3 + y^2/18), wrong by y^3 / 540 of itself; then doubled:
    exp(2y) - 1 - 2y = 2 (exp(y) - 1 - y) + (exp(y) - 1)^2, where nothing cancels.
    """
    half = 0.5 * x
    at_half = 18.0 * ops.square(half / (6.0 - half))
    return 2.0 * at_half + ops.square(half + at_half)


def kl_terms(p: Tensor, q: Tensor, log_ratio: Tensor) -> Tensor:
    """The terms p * (exp(r) - 1 - r) per class, for r = log(q / p)."""
    near = _clipped(log_ratio)
    return ops.where(ops.equal(near, log_ratio), p * _exp_minus_tangent(near), q - p - p * log_ratio)


def _excess(p: Tensor, q: Tensor, log_ratio: Tensor) -> Tensor:
    """The terms p * expm1(r) per class, which is q - p without its cancellation."""
    near = _clipped(log_ratio)
    return ops.where(ops.equal(near, log_ratio), p * (near + _exp_minus_tangent(near)), q - p)


def _careful_kl(probs_and_log_ratio: tuple, axis: int) -> Tensor:
    """KL(p || q) as a sum of positive terms, from an r that is off by a constant a row: the rounding error of delta.

    Its effect is known exactly. With e = sum_j p_j expm1(r_j) the true ratios are r - log1p(e), and the divergence is
    the sum of the terms less exp(x) - 1 - x at x = log1p(e), which is e^2 / 2 for so small an e.
    """
    p, q, log_ratio = probs_and_log_ratio
    excess = ops.sum(_excess(p, q, log_ratio), axis=axis, keepdims=True)
    terms = ops.sum(kl_terms(p, q, log_ratio), axis=axis, keepdims=True)
    return ops.maximum(terms - 0.5 * ops.square(excess), 0.0)


def _careful_difference(probs_and_log_ratio: tuple, axis: int) -> Tensor:
    """The difference q - p from such an r: (p exp(r) - p (1 + e)) / (1 + e)."""
    p, q, log_ratio = probs_and_log_ratio
    excess = _excess(p, q, log_ratio)
    total = ops.sum(excess, axis=axis, keepdims=True)
    return (excess - p * total) / (1.0 + total)
