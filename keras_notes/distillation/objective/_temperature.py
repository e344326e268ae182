"""A distillation loss at a temperature that is a tensor, such as a schedule gives inside a compiled step."""

from __future__ import annotations

from keras import ops

from keras_notes._shared.checks import received
from keras_notes.losses import AttentionRelationLoss, DecoupledDistillationLoss
from keras_notes.losses._divergences import standardized
from keras_notes.losses._labels import attach_mask, mask_of, to_logits
from keras_notes.losses._teacher_targets import teacher_logits_from

__all__ = ["at_temperature"]


def at_temperature(loss, teacher, student, sample_weight, temperature):
    """The value of a loss of the form T^2 * D(t / T, s / T) at another T than its own.

    T^2 times the same loss at temperature 1 on the logits over T, where T may be a traced scalar.

    Raises:
        ValueError: For top-k targets, which were taken at one temperature and serve no other.
    """
    form = getattr(loss, "teacher", "logits")
    if form == "top_k":
        raise ValueError(f"`temperature` must be a constant with `teacher='top_k'`. {received(teacher=form)}")
    mask = mask_of(student)
    teacher = ops.convert_to_tensor(teacher, dtype=loss.dtype)
    student = ops.convert_to_tensor(student, dtype=loss.dtype)
    temperature = ops.cast(temperature, loss.dtype)
    if isinstance(loss, AttentionRelationLoss):
        return _relations_at(loss, teacher, student, sample_weight, temperature, mask)
    labels = None
    if isinstance(loss, DecoupledDistillationLoss) and teacher.shape[-1] != student.shape[-1]:
        teacher, labels = teacher[..., :-1], teacher[..., -1:]
    exclusive = getattr(loss, "exclusive", True)
    student = to_logits(student, from_logits=getattr(loss, "from_logits", True), exclusive=exclusive)
    teacher = teacher_logits_from(teacher, form, exclusive=exclusive) * getattr(loss, "teacher_temperature", 1.0)
    axis = getattr(loss, "axis", -1)
    if getattr(loss, "standardize", False):
        teacher, student = standardized(teacher, axis), standardized(student, axis)
    teacher, student = teacher / temperature, student / temperature
    if labels is not None:
        teacher = ops.concatenate([teacher, labels], axis=-1)
    if mask is not None:
        attach_mask(student, mask)
    return ops.square(temperature) * _at_one(loss)(teacher, student, sample_weight=sample_weight)


def _relations_at(loss, teacher, student, sample_weight, temperature, mask):
    """Relations are products of two features, so each of them takes the root of T."""
    root = ops.sqrt(temperature)
    student = student / root
    if mask is not None:
        attach_mask(student, mask)
    return ops.square(temperature) * _at_one(loss)(teacher / root, student, sample_weight=sample_weight)


def _at_one(loss):
    plain = {"standardize": False, "teacher": "logits", "teacher_temperature": 1.0, "from_logits": True}
    config = loss.get_config()
    return type(loss).from_config({**config, **{k: v for k, v in plain.items() if k in config}, "temperature": 1.0})
