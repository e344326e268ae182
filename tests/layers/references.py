"""Second implementations of the formulas, in NumPy and float64."""

import numpy as np


def softmax(logits, mask):
    """Softmax over the unmasked part of the last axis; zeros where all is masked."""
    exponentials = np.where(mask, np.exp(logits - logits.max(-1, keepdims=True)), 0.0)
    total = exponentials.sum(-1, keepdims=True)
    return np.divide(exponentials, total, out=np.zeros_like(exponentials), where=total > 0)


def attention(query, key, value, mask=True):
    """Attention of one head: query (q, k), key (m, k), value (m, v); outputs and scores."""
    scores = softmax(query @ key.T / np.sqrt(query.shape[-1]), np.broadcast_to(mask, (len(query), len(key))))
    return scores @ value, scores


def multi_head_attention(weights, query, value, mask=True, turn=lambda x: x):
    """Attention with the weights of `MultiHeadAttention`, for query (q, d) and value (m, d); outputs and scores."""
    kernels, biases = weights[0::2], weights[1::2]
    queries, keys, values = (
        np.einsum("ld,dhk->hlk", x, kernel) + bias[:, None]
        for x, kernel, bias in zip((query, value, value), kernels, biases, strict=False)
    )
    share = len(queries) // len(keys)
    heads = [attention(turn(q), turn(keys[h // share]), values[h // share], mask) for h, q in enumerate(queries)]
    return sum(head @ kernel for (head, _), kernel in zip(heads, kernels[3], strict=True)) + biases[3], heads


def turned(x):
    """Each pair (i, i + k / 2) of elements of x (positions, k) as a complex number, turned by its position."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * 10000.0 ** (-2 * np.arange(half) / x.shape[-1])
    pairs = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def layer_normalized(x, gamma, beta, epsilon):
    """Layer normalization over the last axis."""
    deviation = x - x.mean(-1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + epsilon) * gamma + beta


def in_float64(layer):
    """Returns the weights of a layer in float64."""
    return [np.asarray(weight, "float64") for weight in layer.get_weights()]
