"""Second implementations of the losses, in NumPy float64, straight from the formulas."""

import numpy as np


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(z):
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def sigmoid(z):
    return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def focal_from_log_odds(u, gamma):
    """(1 - p)^gamma * -log p and its derivative, with u = log((1 - p) / p)."""
    minus_log_p, log_rest = np.logaddexp(0, u), -np.logaddexp(0, -u)
    factor = np.exp(gamma * log_rest)
    return factor * minus_log_p, factor * (gamma * sigmoid(-u) * minus_log_p + sigmoid(u))


def exclusive_focal(logits, ids, gamma):
    """Focal loss per sample and its gradient, one class a sample."""
    z = np.asarray(logits, np.float64)
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, ids] = -np.inf
    top = others.max(-1, keepdims=True)
    log_rest = top[:, 0] + np.log(np.exp(others - top).sum(-1))
    value, slope = focal_from_log_odds(log_rest - z[rows, ids], gamma)
    gradient = softmax(others)
    gradient[rows, ids] = -1.0
    return value, slope[:, None] * gradient


def independent_focal(logits, labels, gamma, alpha=None):
    """Focal loss per sample, summed over independent labels, and its gradient."""
    z = np.asarray(logits, np.float64)
    (set_value, set_slope), (not_value, not_slope) = focal_from_log_odds(-z, gamma), focal_from_log_odds(z, gamma)
    weight_set, weight_not = (labels, 1 - labels) if alpha is None else (labels * alpha, (1 - labels) * (1 - alpha))
    return (weight_set * set_value + weight_not * not_value).sum(-1), weight_not * not_slope - weight_set * set_slope


def distillation(teacher, student, temperature):
    """tau^2 KL per sample and its gradient with respect to the student's logits."""
    t, s = np.asarray(teacher, np.float64) / temperature, np.asarray(student, np.float64) / temperature
    p, q = softmax(t), softmax(s)
    return temperature**2 * (p * (log_softmax(t) - log_softmax(s))).sum(-1), temperature * (q - p)


def asymmetric(logits, labels, gamma_positive, gamma_negative, margin):
    """Asymmetric loss per sample, summed over labels, and its gradient; arXiv:2009.14119, equations 4 to 8."""
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    p, not_p = sigmoid(z), sigmoid(-z)
    minus_log_p = np.logaddexp(0, -z)
    set_value = not_p**gamma_positive * minus_log_p
    set_slope = -(not_p**gamma_positive) * (not_p + gamma_positive * p * minus_log_p)
    is_above = p > margin
    shifted = np.where(is_above, p - margin, 0.5)  # 0.5 stands where nothing is counted
    minus_log_rest = np.where(shifted < 0.5, -np.log1p(-np.minimum(shifted, 0.5)), -np.log(not_p + margin))
    not_value = np.where(is_above, shifted**gamma_negative * minus_log_rest, 0.0)
    slope_in_p = shifted**gamma_negative * (1 / (not_p + margin) + gamma_negative * minus_log_rest / shifted)
    not_slope = np.where(is_above, slope_in_p * p * not_p, 0.0)
    return (y * set_value + (1 - y) * not_value).sum(-1), y * set_slope + (1 - y) * not_slope
