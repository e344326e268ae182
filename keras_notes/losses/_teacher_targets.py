"""Forms of a teacher's outputs: logits, probabilities, log-probabilities, or its k most probable classes."""

from __future__ import annotations

from keras import ops

from keras_notes._shared.checks import check_integer, check_positive, received
from keras_notes._shared.types import Tensor
from keras_notes.losses._labels import raise_if_labels_out_of_range
from keras_notes.losses._maths.divergences import RULED_OUT

__all__ = ["TEACHER_FORMS", "dense_log_probs", "teacher_logits_from", "top_k_targets", "with_labels"]

TEACHER_FORMS = ("logits", "probs", "log_probs", "top_k")
# The class id of the pair that holds all classes that are not listed.
REST = -1


def top_k_targets(teacher_logits: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """The teacher's k most probable classes and the mass of all others, for `DistillationLoss(teacher="top_k")`.

    Args:
        teacher_logits: Logits of shape (..., classes).
        k: Number of classes to keep, in [1, classes].
        temperature: T, > 0, that of the loss: targets of one temperature do not serve another.

    Returns:
        float32 of shape (..., k + 1, 2): pairs (class id, log-probability at T), the last one with the id -1 for the
        log of the remaining probability (-inf if k = classes). Class ids are exact to 2^24.

    Raises:
        TypeError: If k is not an integer.
        ValueError: If k or the temperature is out of its range.

    Example:
        >>> import numpy as np
        >>> targets = top_k_targets(np.log([[0.1, 0.6, 0.05, 0.25]]), k=2)
        >>> print(np.round(np.asarray(targets), 3))
        [[[ 1.    -0.511]
          [ 3.    -1.386]
          [-1.    -1.897]]]

    References:
        Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, section 2, equation 1, for
        probabilities at a temperature (https://arxiv.org/abs/1503.02531). Anshumann et al. 2025, Sparse Logit Sampling:
        Accelerating Knowledge Distillation in LLMs, on the bias of the k most probable classes alone
        (https://arxiv.org/abs/2503.16870).
    """
    k, temperature = check_integer("k", k), check_positive("temperature", temperature)
    logits = ops.cast(ops.convert_to_tensor(teacher_logits), "float32") / temperature
    classes = logits.shape[-1]
    if not 1 <= k <= classes:
        raise ValueError(f"`k` must be in [1, {classes}], the number of classes. {received(k=k)}")
    values, ids = ops.top_k(logits, k)
    normalizer = ops.logsumexp(logits, axis=-1, keepdims=True)
    # Summed over the other classes: 1 minus the listed probabilities would cancel.
    rest = ops.logsumexp(_replaced(logits, ids, -float("inf")), axis=-1, keepdims=True) - normalizer
    log_probs = ops.concatenate([values - normalizer, rest], axis=-1)
    ids = ops.concatenate([ops.cast(ids, "float32"), ops.full_like(rest, REST)], axis=-1)
    return ops.stack([ids, log_probs], axis=-1)


def with_labels(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The teacher's logits with the class id of each sample appended: (..., classes + 1).

    For losses that need the true class beside the teacher's logits, such as `DecoupledDistillationLoss`.

    Args:
        teacher_logits: Logits of shape (..., classes).
        labels: Class ids in [0, classes), of shape (...,) or (..., 1).

    Returns:
        float32 of shape (..., classes + 1).

    Raises:
        ValueError: If the shapes do not fit together, or labels in a NumPy array are not class ids.

    Example:
        >>> import numpy as np
        >>> np.asarray(with_labels(np.array([[2.0, 0.5]]), np.array([1]))).tolist()
        [[2.0, 0.5, 1.0]]

    References:
        Zhao et al. 2022, Decoupled Knowledge Distillation, section 3.1, whose loss separates the true class from the
        others (https://arxiv.org/abs/2203.08679).
    """
    logits = ops.cast(ops.convert_to_tensor(teacher_logits), "float32")
    ids = ops.cast(ops.convert_to_tensor(labels), "float32")
    if tuple(ids.shape) == tuple(logits.shape[:-1]):
        ids = ops.expand_dims(ids, -1)
    if tuple(ids.shape) != (*logits.shape[:-1], 1):
        raise ValueError(
            f"`labels` must hold one class id a sample. "
            f"Received: labels of shape {tuple(ids.shape)} for logits of shape {tuple(logits.shape)}."
        )
    raise_if_labels_out_of_range(labels, logits, axis=-1, exclusive=True)
    return ops.concatenate([logits, ids], axis=-1)


def teacher_logits_from(values: Tensor, form: str, *, exclusive: bool) -> Tensor:
    """Logits from the dense forms: log p for a softmax, log p - log(1 - p) for a sigmoid; as they are for "logits"."""
    if form == "logits":
        return values
    log_probs = ops.maximum(ops.log(values), RULED_OUT) if form == "probs" else values
    if exclusive:
        return log_probs
    rest = 1.0 - values if form == "probs" else -ops.expm1(values)
    return ops.maximum(log_probs, RULED_OUT) - ops.maximum(ops.log(rest), RULED_OUT)


def dense_log_probs(targets: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """The log p of every class from top-k targets, the rest shared out as the student does.

    Then the ratio of teacher to student is the same for all classes of the rest, and the divergence over the classes
    is the divergence over the k classes and the rest as one more: value and gradient.
    """
    ids = ops.cast(targets[..., :-1, 0], "int32")
    log_probs, log_rest = targets[..., :-1, 1], targets[..., -1:, 1]
    if ids.shape[-1] == student_logits.shape[-1]:
        return _replaced(student_logits, ids, log_probs)
    others = ops.log_softmax(_replaced(student_logits / temperature, ids, RULED_OUT), axis=-1)
    return _replaced(others + ops.maximum(log_rest, RULED_OUT), ids, log_probs)


def _replaced(values: Tensor, ids: Tensor, replacements: Tensor) -> Tensor:
    """`values` of shape (..., classes) with those at `ids` (..., k) replaced."""
    classes, k = values.shape[-1], ids.shape[-1]
    rows = ops.reshape(values, (-1, classes))
    flat_ids = ops.reshape(ids, (-1,))
    row_ids = ops.repeat(ops.arange(ops.shape(rows)[0], dtype="int32"), k)
    flat = ops.reshape(ops.broadcast_to(ops.cast(replacements, values.dtype), ops.shape(ids)), (-1,))
    replaced = ops.scatter_update(rows, ops.stack([row_ids, ops.cast(flat_ids, "int32")], axis=-1), flat)
    return ops.reshape(replaced, ops.shape(values))
