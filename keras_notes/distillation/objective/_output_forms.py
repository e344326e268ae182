"""Logits or probabilities: the form of a model's outputs, and checks that the losses expect that form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import keras
import numpy as np

from keras_notes._shared.keras_internals import operation_of, output_index_of
from keras_notes._shared.types import Operation, Tree
from keras_notes.distillation.objective._weighted_losses import AdaptedLoss, LossLike
from keras_notes.losses import TeacherLoss

__all__ = [
    "OutputForm",
    "check_finite",
    "check_forms",
    "check_label_losses",
    "check_values",
    "final_activations",
    "forms_of",
    "outputs_of",
]

# Functions of Keras whose `from_logits` is False.
_CROSS_ENTROPIES = (
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "sparse_categorical_crossentropy",
)
# Layers and operations of Keras that return the values of their input.
_VALUE_KEEPING = ("Identity", "Reshape", "Flatten", "Permute", "Dropout", "Cast", "Squeeze", "ExpandDims", "Transpose")
_PROBABILITIES = ("softmax", "sigmoid")
# How far a row of float16 probabilities may be from 1.
_ROUNDING = 1e-2


class OutputForm(NamedTuple):
    """Form of one output of teacher and student.

    Attributes:
        teacher: Form of the teacher's output: "logits" or "probs".
        from_logits: Whether the student's output holds logits.
        exclusive: True for the classes of a softmax, False for the labels of a sigmoid.
    """

    teacher: str = "logits"
    from_logits: bool = True
    exclusive: bool = True


def outputs_of(model: keras.Model) -> Tree | None:
    """Returns the outputs of a model with a graph in the structure in which it returns them; None without a graph."""
    if not getattr(model, "outputs", None):
        return None
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output


def final_activations(model: keras.Model) -> list[str | None]:
    """Returns the activation behind each output of a model with a known graph: "softmax", "linear", ...

    None stands for an activation that the graph does not tell.
    """
    return [_activation_of(output) for output in getattr(model, "outputs", None) or []]


def _activation_of(tensor: keras.KerasTensor) -> str | None:
    operation, inputs = operation_of(tensor)
    operation = getattr(operation, "network", operation)  # a compressed model ends as the network in it does
    if isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
        return _activation_of(operation.outputs[output_index_of(tensor)])
    if operation is not None and _keeps_values(operation):
        return _activation_of(inputs[0])
    if isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    activation = getattr(operation, "activation", None)
    if activation is not None:
        return getattr(activation, "__name__", None)
    return "softmax" if type(operation).__name__ == "Softmax" else None


def _keeps_values(operation: Operation) -> bool:
    """Whether an operation returns the values of its input, in another shape or dtype."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return type(operation).__name__ in _VALUE_KEEPING


def forms_of(teacher: keras.Model, student: keras.Model) -> list[OutputForm]:
    """Returns the form of each output, as far as the graphs of the models tell."""
    activations = final_activations(teacher), final_activations(student)
    count = max(map(len, activations)) or 1
    teacher_activations, student_activations = ([*names, *[None] * (count - len(names))] for names in activations)
    return [
        OutputForm(
            teacher="probs" if first in _PROBABILITIES else "logits",
            from_logits=second not in _PROBABILITIES,
            exclusive="sigmoid" not in (first, second),
        )
        for first, second in zip(teacher_activations, student_activations, strict=True)
    ]


def check_forms(losses: Sequence[TeacherLoss | None], activations: Sequence[str | None], *, of_teacher: bool) -> None:
    """Raises ValueError if a loss expects logits and the model ends in a softmax or sigmoid, or the reverse.

    Args:
        losses: A loss, or None, for each output.
        activations: The result of `final_activations`; may be empty.
        of_teacher: Whether the activations are the teacher's.
    """
    for loss, activation in zip(losses, activations, strict=False):
        if not takes_logits(loss):
            continue
        expects_probs = loss.teacher == "probs" if of_teacher else not loss.from_logits
        if expects_probs and activation == "linear":
            role, argument = ("teacher", "teacher='logits'") if of_teacher else ("student", "from_logits=True")
            raise ValueError(
                f"The {role} must give probabilities to this {type(loss).__name__}. Received: an output without an "
                f"activation. Use `{argument}`."
            )
        if activation not in _PROBABILITIES:
            continue
        if of_teacher and loss.teacher == "logits":
            raise ValueError(
                f"The teacher must give logits to {type(loss).__name__}. Received: an output behind a {activation}. "
                f'Use `DistillationLoss(teacher="probs")`, or take the activation off the teacher.'
            )
        if not of_teacher and loss.from_logits:
            raise ValueError(
                f"The student must give logits to {type(loss).__name__}. Received: an output behind a {activation}. "
                f"Take the activation off the student and compile with a loss `from_logits=True`, or use "
                f"`DistillationLoss(from_logits=False)`."
            )


def check_label_losses(losses: Tree, activations: Sequence[str | None]) -> None:
    """Raises ValueError if the student's loss on labels takes probabilities and the student ends in a linear layer.

    Keras clips logits to probabilities there without a warning, and training makes no progress.
    """
    identifiers = keras.tree.flatten(losses)
    identifiers = identifiers * len(activations) if len(identifiers) == 1 else identifiers
    for identifier, activation in zip(identifiers, activations, strict=False):
        if activation == "linear" and _takes_probabilities(identifier):
            raise ValueError(
                f"`loss` must take the student's outputs. Received: {_name_of(identifier)}, which takes probabilities, "
                f"for an output without an activation. Use a loss object with `from_logits=True`."
            )


def _takes_probabilities(identifier: LossLike | None) -> bool:
    """Whether a loss object, a function or a name stands for a loss of probabilities."""
    if isinstance(identifier, str):
        identifier = keras.losses.get(identifier)
    if isinstance(identifier, keras.losses.Loss):
        return _has_config(identifier) and identifier.get_config().get("from_logits") is False
    return getattr(identifier, "__name__", "") in _CROSS_ENTROPIES


def _has_config(loss: keras.losses.Loss) -> bool:
    return type(loss).get_config is not keras.losses.Loss.get_config


def _name_of(identifier: LossLike) -> str:
    if isinstance(identifier, str):
        return identifier
    return getattr(identifier, "name", getattr(identifier, "__name__", str(identifier)))


def takes_logits(loss: TeacherLoss | None) -> TypeGuard[TeacherLoss]:
    """Whether a loss is a `TeacherLoss` on logits, and not a Keras loss behind an adapter."""
    return loss is not None and loss.temperature is not None and not isinstance(loss, AdaptedLoss)


def check_finite(values: np.ndarray, where: str) -> None:
    """Raises ValueError if outputs of a teacher are NaN or inf; logits of -inf rule a class out."""
    wrong = np.isnan(values) | (values == np.inf)
    if not wrong.any():
        return
    samples = wrong.reshape(len(values), -1).any(axis=1)
    raise ValueError(
        f"The teacher must give finite numbers. Received: NaN or inf {where}for {int(samples.sum())} of {len(samples)} "
        f"samples of a batch, such as sample {int(samples.argmax())}. Check the teacher's weights and that it gets the "
        f"input that it was trained on (`preprocess`)."
    )


def check_values(losses: Sequence[TeacherLoss | None], outputs: Sequence[np.ndarray]) -> None:
    """Raises ValueError if a teacher's outputs are not finite, or are probabilities where a loss expects logits.

    Logits of -inf rule a class out; they are allowed.
    """
    for loss, values in zip(losses, outputs, strict=False):
        values = np.asarray(values, "float32")
        check_finite(values, "")
        if not takes_logits(loss) or loss.teacher != "logits":
            continue
        sums = values.sum(axis=loss.axis)
        # Never true for a whole batch by chance: logits have no reason to be positive and to sum to one.
        if loss.exclusive and values.min() >= 0 and np.abs(sums - 1).max() < _ROUNDING and values.shape[-1] > 1:
            raise ValueError(
                f"The teacher must give logits to {type(loss).__name__}. Received: a first batch whose values are all "
                f'>= 0 and sum to 1, as probabilities do. Use `DistillationLoss(teacher="probs")`.'
            )
