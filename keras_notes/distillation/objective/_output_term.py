"""The terms of the objective: which loss compares which outputs of teacher and student, and with which weights.

A user hands over loss objects, structures of them for models with several outputs, or objects of
`keras.distillation`. Here all of them become one thing: a list of losses, one for each output, or None.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_same_shape, differ, received
from keras_notes.distillation.objective._temperature import at_temperature
from keras_notes.losses import AttentionRelationLoss, DecoupledDistillationLoss, DistillationLoss, with_labels
from keras_notes.losses._base import WholeSampleLoss
from keras_notes.losses._labels import attach_mask, mask_of

__all__ = [
    "OutputTerm",
    "ScaledLoss",
    "as_loss",
    "compares_entries",
    "leaves_of_weights",
    "own_weight",
    "weighted_feature_loss",
    "weighted_loss",
]

_CROSS_ENTROPIES = ("kl_divergence", "categorical_crossentropy", "sparse_categorical_crossentropy")


class ScaledLoss(keras.losses.Loss):
    """A loss function, or a loss, on the outputs divided by a temperature: `keras.distillation` beyond its KL."""

    def __init__(self, loss, temperature: Any = None) -> None:
        super().__init__(name=getattr(loss, "name", getattr(loss, "__name__", "loss")))
        self.loss, self.temperature = loss, temperature

    def call(self, y_true, y_pred):
        function = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        y_true = ops.stop_gradient(y_true)
        if self.temperature is None:
            return function(y_true, y_pred)
        return function(y_true / self.temperature, y_pred / self.temperature)


def as_loss(loss: Any, what: str):
    """A loss object from an object, a function, or the name of one."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return loss
    if callable(loss):
        return ScaledLoss(loss)
    raise TypeError(
        f"`{what}` must hold loss objects, such as `keras_notes.losses.DistillationLoss()`. {received(**{what: loss})}"
    )


class OutputTerm:
    """Compares the outputs of teacher and student.

    Args:
        names: The names of the student's outputs in order, or None where only its answers tell.
        loss: A loss for every output; or a list, tuple or dict with one loss, or None, for each of them; or an object
            of `keras.distillation`.
        forms: For objects of `keras.distillation` on logits: what the teacher gives ("logits" or "probs") and whether
            the student gives logits and exclusive classes, for each output.
    """

    def __init__(
        self, loss: Any, forms: list[tuple[str, bool, bool]] | None = None, names: list[str] | None = None
    ) -> None:
        self.custom = None
        self.names = names
        if isinstance(loss, keras.distillation.DistillationLoss):
            if type(loss) is keras.distillation.LogitsDistillation:
                loss = _structure_of_logits_losses(loss, forms)
            elif type(loss) is keras.distillation.FeatureDistillation:
                loss = keras.tree.map_structure(lambda item: item and as_loss(item, "loss"), loss.loss)
            else:
                self.custom = loss
        self.losses = loss

    def check(self) -> None:
        """Raises TypeError unless there are losses to use."""
        if self.custom is not None:
            return
        losses = [loss for loss in keras.tree.flatten(self.losses) if loss is not None]
        if not losses:
            raise ValueError(f"`distillation_losses` must hold a loss. {received(distillation_losses=self.losses)}")
        for loss in losses:
            if not isinstance(loss, keras.losses.Loss):
                raise TypeError(
                    f"`distillation_losses` must hold loss objects, such as "
                    f"`keras_notes.losses.DistillationLoss()`. {received(distillation_losses=loss)}"
                )

    def for_outputs(self, outputs) -> list:
        """One loss, or None, for each output of a model that returns `outputs`."""
        count = len(keras.tree.flatten(outputs))
        if isinstance(self.losses, keras.losses.Loss):
            return [self.losses] * count
        if isinstance(self.losses, dict) and isinstance(outputs, dict):
            unknown = sorted(set(self.losses) - set(outputs))
            if unknown:
                raise ValueError(
                    f"`distillation_losses` must name outputs of the student. Received: {unknown}; the outputs are "
                    f"{sorted(outputs)}."
                )
            return [loss for name in sorted(outputs) for loss in _spread(self.losses.get(name), outputs[name])]
        losses = keras.tree.flatten(self.losses)
        if len(losses) != count or isinstance(self.losses, dict):
            raise ValueError(
                f"`distillation_losses` must hold one loss, or None, for each output, in the structure of the outputs. "
                f"Received: {len(losses)} losses in a {type(self.losses).__name__} for {count} outputs in a "
                f"{type(outputs).__name__}."
            )
        return losses

    def labels(self, y, outputs) -> list:
        """The labels of each output, or None for each where there are none."""
        count = len(keras.tree.flatten(outputs))
        names = sorted(outputs) if isinstance(outputs, dict) else self.names
        if isinstance(y, dict) and names is not None and len(names) == count and set(y) <= set(names):
            return [y.get(name) for name in names]
        leaves = [] if y is None else keras.tree.flatten(y)
        return leaves if len(leaves) == count else [None] * count

    def __call__(self, teacher_leaves, student_outputs, y, sample_weight, temperature=None):
        """The sum over the outputs, a scalar."""
        student_leaves = keras.tree.flatten(student_outputs)
        if self.custom is not None:
            teacher_outputs = keras.tree.pack_sequence_as(student_outputs, list(teacher_leaves))
            return _custom_value(self.custom, teacher_outputs, student_outputs, sample_weight)
        labels = self.labels(y, student_outputs)
        weights = leaves_of_weights(sample_weight, len(student_leaves))
        total = ops.zeros((), dtype=keras.backend.floatx())
        losses = self.for_outputs(student_outputs)
        for loss, teacher, student, label, weight in zip(
            losses, teacher_leaves, student_leaves, labels, weights, strict=True
        ):
            if loss is None:
                continue
            if getattr(loss, "teacher", None) != "top_k":
                check_same_shape(teacher, student, what_true="The teacher's output", what_pred="the student's")
            if isinstance(loss, DecoupledDistillationLoss):
                teacher = _with_known_labels(teacher, label)
            value = weighted_loss(loss, teacher, student, weight, temperature)
            total = total + ops.cast(value, total.dtype)
        return total


def own_weight(sample_weight, y_pred):
    """Weights that a loss may change, one for each entry of the mask of `y_pred`, if it has one.

    Keras multiplies the mask into the weights in place where tensors can be changed, as on PyTorch: the next loss
    would see other weights, and weights of one a sequence would not fit.
    """
    mask = mask_of(y_pred)
    if mask is None:
        return ops.copy(ops.convert_to_tensor(sample_weight))
    sample_weight = ops.convert_to_tensor(sample_weight)
    missing = len(mask.shape) - len(sample_weight.shape)
    if missing > 0:
        sample_weight = ops.reshape(sample_weight, (*ops.shape(sample_weight), *[1] * missing))
    return sample_weight * ops.ones_like(mask, dtype=sample_weight.dtype)


def _spread(losses, outputs) -> list:
    """One loss, or None, for each leaf of what stands under one name."""
    count = len(keras.tree.flatten(outputs))
    found = keras.tree.flatten(losses)
    return found if len(found) == count else found * count


def weighted_loss(loss, teacher, student, sample_weight, temperature=None):
    """A loss with the weights of the samples, whatever the rank of its values.

    Keras lines weights up with the last axis of a loss's values; the weight of a sample belongs to its first.
    """
    if sample_weight is not None:
        sample_weight = ops.convert_to_tensor(sample_weight)
        rank = 1 if isinstance(loss, WholeSampleLoss) else max(len(student.shape) - 1, 1)
        while len(sample_weight.shape) > rank and sample_weight.shape[-1] == 1:
            sample_weight = ops.squeeze(sample_weight, axis=-1)
        extra = rank - len(sample_weight.shape)
        # One weight for all positions of an axis is as good as one for each.
        axes = [
            b if i and a == 1 else a for i, (a, b) in enumerate(zip(sample_weight.shape, student.shape, strict=False))
        ]
        if extra < 0 or differ(axes, student.shape[: len(axes)]):
            raise ValueError(
                f"Sample weights must have the first axes of what they weigh. Received: weights of shape "
                f"{tuple(sample_weight.shape)} with {type(loss).__name__} on {tuple(student.shape)}. Give one weight "
                f"a sample."
            )
        sample_weight = own_weight(ops.reshape(sample_weight, (*ops.shape(sample_weight), *[1] * extra)), student)
    if isinstance(loss, ScaledLoss):
        if temperature is not None and loss.temperature is not None:
            loss = ScaledLoss(loss.loss, ops.cast(temperature, loss.dtype))
        return loss(teacher, student, sample_weight=sample_weight)
    if temperature is not None and hasattr(loss, "temperature"):
        return at_temperature(loss, teacher, student, sample_weight, temperature)
    return loss(teacher, student, sample_weight=sample_weight)


def weighted_feature_loss(loss, teacher, student, sample_weight):
    """A loss of features; where each output has weights of its own, features have their mean."""
    leaves = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(sample_weight) if leaf is not None]
    weight = sum(leaves[1:], leaves[0]) / len(leaves) if leaves else None
    if isinstance(loss, AttentionRelationLoss):
        teacher, student = _heads_joined(teacher), _heads_joined(student)
    elif compares_entries(loss):
        check_same_shape(teacher, student, what_true="The teacher's feature", what_pred="the student's")
    return weighted_loss(loss, teacher, student, weight)


def compares_entries(loss) -> bool:
    """Whether a loss takes the features entry by entry, so that both must have one shape."""
    return not isinstance(loss, (WholeSampleLoss, AttentionRelationLoss))


def _heads_joined(feature):
    """Queries, keys or values of Keras's attention, (batch, positions, heads, width), as (batch, positions, width)."""
    if len(feature.shape) != 4:
        return feature
    joined = ops.reshape(feature, (*ops.shape(feature)[:2], feature.shape[2] * feature.shape[3]))
    mask = mask_of(feature)
    return joined if mask is None else attach_mask(joined, mask)


def leaves_of_weights(sample_weight, count: int) -> list:
    """The sample weights of each output: given for each of them, or the same for all."""
    leaves = keras.tree.flatten(sample_weight)
    if len(leaves) == 1:
        return leaves * count
    if len(leaves) != count:
        raise ValueError(
            f"Sample weights must be one array, or one for each output. Received: {len(leaves)} for {count} outputs."
        )
    return leaves


def _with_known_labels(teacher_logits, labels):
    """The teacher's logits with the true class appended; where no label is known the teacher's own class stands in."""
    if labels is None:
        return teacher_logits
    labels = ops.convert_to_tensor(labels)
    guess = ops.argmax(teacher_logits, axis=-1)
    if tuple(labels.shape) == tuple(teacher_logits.shape):
        known, ids = ops.sum(labels, axis=-1) > 0, ops.argmax(labels, axis=-1)
    else:
        ids = ops.squeeze(labels, -1) if len(labels.shape) == len(teacher_logits.shape) else labels
        known = ids >= 0
    return with_labels(teacher_logits, ops.where(known, ops.cast(ids, guess.dtype), guess))


def _structure_of_logits_losses(theirs, forms):
    """What `LogitsDistillation` means to compute, for each output.

    Its losses of probabilities (by name or as an object) become tau^2 KL of the softened outputs, which differs from
    a cross-entropy by a constant. Other losses are computed as it does, on the outputs over tau.
    """
    if not keras.tree.is_nested(theirs.loss) and forms and len(forms) > 1:
        return [_logits_loss(theirs.loss, theirs.temperature, *form) for form in forms]
    leaves = keras.tree.flatten(theirs.loss)
    forms = forms if forms and len(forms) == len(leaves) else (forms or [("logits", True, True)])[:1] * len(leaves)
    ours = [_logits_loss(loss, theirs.temperature, *form) for loss, form in zip(leaves, forms, strict=True)]
    return keras.tree.pack_sequence_as(theirs.loss, ours) if keras.tree.is_nested(theirs.loss) else ours[0]


def _logits_loss(loss, temperature, teacher, from_logits, exclusive):
    if loss is None:
        return None
    name = getattr(loss, "name", getattr(loss, "__name__", ""))
    if name in _CROSS_ENTROPIES:
        return DistillationLoss(temperature, teacher=teacher, from_logits=from_logits, exclusive=exclusive)
    return ScaledLoss(loss, temperature)


def _custom_value(loss, teacher_outputs, student_outputs, sample_weight):
    """The value of a subclass of `keras.distillation.DistillationLoss`, with the checks of Keras's own Distiller."""
    if sample_weight is not None:
        raise ValueError(
            f"Sample weights and class weights must be None with {type(loss).__name__}, which has no place for them. "
            f"Use `keras_notes.losses.DistillationLoss` instead."
        )
    loss.validate_outputs(teacher_outputs, student_outputs)
    value = loss.compute_loss(teacher_outputs, student_outputs)
    if len(value.shape) > 0:
        raise ValueError(f"{type(loss).__name__} must return a scalar. Received: shape {tuple(value.shape)}.")
    return value
