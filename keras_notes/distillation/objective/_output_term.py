"""Terms of the objective on outputs: which loss compares which outputs of teacher and student.

A user passes loss objects, structures of them for models with several outputs, or objects of `keras.distillation`.
`output_term` makes one of two terms of them: `LossTerm`, a loss or None for each output, or `KerasDistillationTerm`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_notes._shared.checks import check_same_shape, received
from keras_notes._shared.types import Tensor, Tree
from keras_notes.distillation.objective._output_forms import OutputForm
from keras_notes.distillation.objective._weighted_losses import (
    ScaledLoss,
    as_loss,
    as_teacher_loss,
    weighted_loss,
    weights_by_output,
)
from keras_notes.losses import DecoupledDistillationLoss, DistillationLoss, TeacherLoss, with_labels

__all__ = ["KerasDistillationTerm", "LossTerm", "OutputTerm", "output_term"]

_CROSS_ENTROPIES = ("kl_divergence", "categorical_crossentropy", "sparse_categorical_crossentropy")
_BINARY_CROSS_ENTROPY = "binary_crossentropy"


class OutputTerm:
    """Compares the outputs of teacher and student.

    Args:
        names: Names of the student's outputs in order, or None where only its outputs tell them.
    """

    def __init__(self, names: list[str] | None) -> None:
        self.names = names

    def for_outputs(self, outputs: Tree) -> list[TeacherLoss | None]:
        """Returns one loss, or None, for each output of a model that returns `outputs`."""
        return [None] * len(keras.tree.flatten(outputs))

    def value(
        self,
        teacher_leaves: Sequence[Tensor],
        student_outputs: Tree,
        y: Tree,
        sample_weight: Tree,
        temperature: Tensor | float | None = None,
    ) -> Tensor:
        """Returns the sum over the outputs, a scalar.

        Args:
            teacher_leaves: Outputs of one teacher, in the order of the student's.
            student_outputs: Outputs of the student in their structure.
            y: Labels, or None.
            sample_weight: Weights of the samples, for all outputs or for each; or None.
            temperature: Temperature in place of the losses' own, or None.
        """
        raise NotImplementedError

    def labels(self, y: Tree, outputs: Tree) -> list[Tensor | None]:
        """Returns the labels of each output, or None for each where there are no labels."""
        count = len(keras.tree.flatten(outputs))
        names = sorted(outputs) if isinstance(outputs, dict) else self.names
        if isinstance(y, dict) and names is not None and len(names) == count and set(y) <= set(names):
            return [y.get(name) for name in names]
        leaves = [] if y is None else keras.tree.flatten(y)
        return leaves if len(leaves) == count else [None] * count


class LossTerm(OutputTerm):
    """Compares each output by a loss.

    Args:
        losses: A loss for every output; or a list, tuple or dict with one loss, or None, for each of them.
        names: Names of the student's outputs in order, or None where only its outputs tell them.

    Raises:
        TypeError: If an entry is not a loss object.
        ValueError: If there is no loss.
    """

    def __init__(self, losses: Tree, names: list[str] | None = None) -> None:
        super().__init__(names)
        _check_losses(losses)
        self.losses: Tree = keras.tree.map_structure(lambda loss: loss and as_teacher_loss(loss), losses)

    @property
    def flat_losses(self) -> list[TeacherLoss]:
        """All losses of the term."""
        return [loss for loss in keras.tree.flatten(self.losses) if loss is not None]

    def for_outputs(self, outputs: Tree) -> list[TeacherLoss | None]:
        """Returns one loss, or None, for each output of a model that returns `outputs`.

        Raises:
            ValueError: If the losses do not have the structure of the outputs.
        """
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
            return [loss for name in sorted(outputs) for loss in _repeat(self.losses.get(name), outputs[name])]
        losses = keras.tree.flatten(self.losses)
        if len(losses) != count or isinstance(self.losses, dict):
            raise ValueError(
                f"`distillation_losses` must hold one loss, or None, for each output, in the structure of the outputs. "
                f"Received: {len(losses)} losses in a {type(self.losses).__name__} for {count} outputs in a "
                f"{type(outputs).__name__}."
            )
        return losses

    def value(
        self,
        teacher_leaves: Sequence[Tensor],
        student_outputs: Tree,
        y: Tree,
        sample_weight: Tree,
        temperature: Tensor | float | None = None,
    ) -> Tensor:
        student_leaves = keras.tree.flatten(student_outputs)
        labels = self.labels(y, student_outputs)
        weights = weights_by_output(sample_weight, len(student_leaves))
        total = ops.zeros((), dtype=keras.backend.floatx())
        losses = self.for_outputs(student_outputs)
        for loss, teacher, student, label, weight in zip(
            losses, teacher_leaves, student_leaves, labels, weights, strict=True
        ):
            if loss is None:
                continue
            if loss.teacher != "top_k":
                check_same_shape(teacher, student, what_true="The teacher's output", what_pred="the student's")
            if isinstance(loss, DecoupledDistillationLoss):
                teacher = _append_labels(teacher, label)
            value = weighted_loss(loss, teacher, student, weight, temperature)
            total = total + ops.cast(value, total.dtype)
        return total


class KerasDistillationTerm(OutputTerm):
    """Compares all outputs at once by an object of a user's subclass of `keras.distillation.DistillationLoss`.

    Args:
        loss: The object.
        names: Names of the student's outputs in order, or None where only its outputs tell them.
    """

    def __init__(self, loss: keras.distillation.DistillationLoss, names: list[str] | None = None) -> None:
        super().__init__(names)
        self.loss = loss

    def value(
        self,
        teacher_leaves: Sequence[Tensor],
        student_outputs: Tree,
        y: Tree,
        sample_weight: Tree,
        temperature: Tensor | float | None = None,
    ) -> Tensor:
        """Returns the value of the object, with the checks of Keras's own Distiller.

        Raises:
            ValueError: If there are sample weights, which it cannot take, or the value is not a scalar.
        """
        if sample_weight is not None:
            raise ValueError(
                f"Sample weights and class weights must be None with {type(self.loss).__name__}, which cannot take "
                f"them. Use `keras_notes.losses.DistillationLoss` instead."
            )
        teacher_outputs = keras.tree.pack_sequence_as(student_outputs, list(teacher_leaves))
        self.loss.validate_outputs(teacher_outputs, student_outputs)
        value = self.loss.compute_loss(teacher_outputs, student_outputs)
        if len(value.shape) > 0:
            raise ValueError(f"{type(self.loss).__name__} must return a scalar. Received: shape {tuple(value.shape)}.")
        return value


def output_term(
    loss: Tree | keras.distillation.DistillationLoss,
    forms: list[OutputForm] | None = None,
    names: list[str] | None = None,
) -> OutputTerm:
    """Returns the term of an entry of `distillation_losses`.

    Args:
        loss: A loss for every output; or a list, tuple or dict with one loss, or None, for each of them; or an object
            of `keras.distillation`.
        forms: Forms of the outputs, for objects of `keras.distillation` on logits.
        names: Names of the student's outputs in order, or None where only its outputs tell them.

    Raises:
        TypeError: If an entry is not a loss object.
        ValueError: If there is no loss.
    """
    if isinstance(loss, keras.distillation.DistillationLoss):
        if type(loss) is keras.distillation.LogitsDistillation:
            loss = _structure_of_logits_losses(loss, forms)
        elif type(loss) is keras.distillation.FeatureDistillation:
            loss = keras.tree.map_structure(lambda item: item and as_loss(item, "loss"), loss.loss)
        else:
            return KerasDistillationTerm(loss, names)
    return LossTerm(loss, names)


def _check_losses(losses: Tree) -> None:
    leaves = [loss for loss in keras.tree.flatten(losses) if loss is not None]
    if not leaves:
        raise ValueError(f"`distillation_losses` must hold a loss. {received(distillation_losses=losses)}")
    for loss in leaves:
        if not isinstance(loss, keras.losses.Loss):
            raise TypeError(
                f"`distillation_losses` must hold loss objects, such as "
                f"`keras_notes.losses.DistillationLoss()`. {received(distillation_losses=loss)}"
            )


def _repeat(losses: Tree, outputs: Tree) -> list[TeacherLoss | None]:
    """Returns one loss, or None, for each leaf of the outputs under one name."""
    count = len(keras.tree.flatten(outputs))
    leaves = keras.tree.flatten(losses)
    return leaves if len(leaves) == count else leaves * count


def _append_labels(teacher_logits: Tensor, labels: Tensor | None) -> Tensor:
    """Returns the teacher's logits with the true class appended; the teacher's own class where no label is known."""
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


def _structure_of_logits_losses(
    logits_distillation: keras.distillation.LogitsDistillation, forms: list[OutputForm] | None
) -> Tree:
    """Returns the losses that a `LogitsDistillation` computes, one for each output.

    Its cross-entropies and divergence (by name or as an object) become T^2 KL of the softened outputs, which differs
    from a cross-entropy by a constant. Other losses are computed as it does, on the outputs over T.
    """
    losses, temperature = logits_distillation.loss, logits_distillation.temperature
    if not keras.tree.is_nested(losses) and forms and len(forms) > 1:
        return [_logits_loss(losses, temperature, form) for form in forms]
    leaves = keras.tree.flatten(losses)
    if not forms or len(forms) != len(leaves):
        forms = (forms or [OutputForm()])[:1] * len(leaves)
    terms = [_logits_loss(loss, temperature, form) for loss, form in zip(leaves, forms, strict=True)]
    return keras.tree.pack_sequence_as(losses, terms) if keras.tree.is_nested(losses) else terms[0]


def _logits_loss(
    item: keras.losses.Loss | Callable | None, temperature: float, form: OutputForm
) -> keras.losses.Loss | None:
    if item is None:
        return None
    name = getattr(item, "name", getattr(item, "__name__", ""))
    if name in _CROSS_ENTROPIES:
        return DistillationLoss(temperature, **form._asdict())
    if name == _BINARY_CROSS_ENTROPY:
        return DistillationLoss(temperature, **form._replace(exclusive=False)._asdict())
    return ScaledLoss(item, temperature)
