"""Logits or probabilities: what a model's last layer gives, and whether that is what a loss was told."""

from __future__ import annotations

import keras
import numpy as np

from keras_notes.losses import DistillationLoss
from keras_notes.losses._base import TeacherLoss

__all__ = [
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
# Layers and operations of Keras that give the values that they get.
_VALUE_KEEPING = ("Identity", "Reshape", "Flatten", "Permute", "Dropout", "Cast", "Squeeze", "ExpandDims", "Transpose")
_PROBABILITIES = ("softmax", "sigmoid")
# How far a row of float16 probabilities may be from 1.
_ROUNDING = 1e-2


def outputs_of(model):
    """The outputs of a model with a graph in the structure in which it returns them; None without a graph."""
    if not getattr(model, "outputs", None):
        return None
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output


def final_activations(model) -> list[str | None]:
    """The activation behind each output of a model with a known graph: "softmax", "linear", ..., or None if unknown."""
    return [_activation_of(output) for output in getattr(model, "outputs", None) or []]


def _activation_of(tensor) -> str | None:
    operation, node_index, tensor_index = getattr(tensor, "_keras_history", (None, None, None))
    operation = getattr(operation, "network", operation)  # a compressed model ends as the network in it does
    if isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
        return _activation_of(operation.outputs[tensor_index])
    if operation is not None and _keeps_values(operation):
        return _activation_of(operation._inbound_nodes[node_index].input_tensors[0])
    if isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    activation = getattr(operation, "activation", None)
    if activation is not None:
        return getattr(activation, "__name__", None)
    return "softmax" if type(operation).__name__ == "Softmax" else None


def _keeps_values(operation) -> bool:
    """Whether an operation gives the values that it gets, in another shape or dtype."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return type(operation).__name__ in _VALUE_KEEPING


def forms_of(teacher, student) -> list[tuple[str, bool, bool]]:
    """For each output: the teacher's form ("logits" or "probs"), whether the student gives logits, and softmax classes.

    As far as the graphs of the models tell.
    """
    activations = final_activations(teacher), final_activations(student)
    count = max(map(len, activations)) or 1
    teachers, students = ([*found, *[None] * (count - len(found))] for found in activations)
    return [
        (
            "probs" if first in _PROBABILITIES else "logits",
            second not in _PROBABILITIES,
            "sigmoid" not in (first, second),
        )
        for first, second in zip(teachers, students, strict=True)
    ]


def check_forms(losses: list, activations: list[str | None], *, of_teacher: bool) -> None:
    """Raises ValueError if a loss was told logits and the model ends in a softmax or sigmoid.

    Args:
        losses: A loss, or None, for each output.
        activations: What `final_activations` found; may be empty.
        of_teacher: Whether the activations are the teacher's.
    """
    for loss, activation in zip(losses, activations, strict=False):
        if not takes_logits(loss):
            continue
        told = getattr(loss, "teacher", "logits") == "probs" if of_teacher else not getattr(loss, "from_logits", True)
        if told and activation == "linear":
            which, argument = ("teacher", "teacher='logits'") if of_teacher else ("student", "from_logits=True")
            raise ValueError(
                f"The {which} must give probabilities to this {type(loss).__name__}. Received: an output without an "
                f"activation. Use `{argument}`."
            )
        if activation not in _PROBABILITIES:
            continue
        if of_teacher and getattr(loss, "teacher", "logits") == "logits":
            raise ValueError(
                f"The teacher must give logits to {type(loss).__name__}. Received: an output behind a {activation}. "
                f'Use `DistillationLoss(teacher="probs")`, or take the activation off the teacher.'
            )
        if not of_teacher and getattr(loss, "from_logits", True):
            raise ValueError(
                f"The student must give logits to {type(loss).__name__}. Received: an output behind a {activation}. "
                f"Take the activation off the student and compile with a loss `from_logits=True`, or use "
                f"`DistillationLoss(from_logits=False)`."
            )


def check_label_losses(losses, activations: list[str | None]) -> None:
    """Raises ValueError if the student's loss on labels takes probabilities and the student ends in a linear layer.

    Keras clips logits to probabilities there without a word, and training stands still.
    """
    losses = keras.tree.flatten(losses)
    losses = losses * len(activations) if len(losses) == 1 else losses
    for loss, activation in zip(losses, activations, strict=False):
        if activation == "linear" and _takes_probabilities(loss):
            raise ValueError(
                f"`loss` must take what the student gives. Received: {_name_of(loss)}, which takes probabilities, "
                f"for an output without an activation. Use a loss object with `from_logits=True`."
            )


def _takes_probabilities(loss) -> bool:
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return loss.get_config().get("from_logits") is False if _has_config(loss) else False
    return getattr(loss, "__name__", "") in _CROSS_ENTROPIES


def _has_config(loss) -> bool:
    return type(loss).get_config is not keras.losses.Loss.get_config


def _name_of(loss) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", str(loss)))


def takes_logits(loss) -> bool:
    """Whether a loss is one of this package's on logits."""
    return isinstance(loss, TeacherLoss) and hasattr(loss, "temperature")


def check_finite(values: np.ndarray, where: str) -> None:
    """Raises ValueError if numbers that a teacher gave are NaN or inf; logits of -inf rule a class out."""
    wrong = np.isnan(values) | (values == np.inf)
    if not wrong.any():
        return
    samples = wrong.reshape(len(values), -1).any(axis=1)
    raise ValueError(
        f"The teacher must give finite numbers. Received: NaN or inf {where}for {int(samples.sum())} of {len(samples)} "
        f"samples of a batch, such as sample {int(samples.argmax())}. Check the teacher's weights and that it gets the "
        f"input that it was trained on (`preprocess`)."
    )


def check_values(losses: list, outputs: list[np.ndarray]) -> None:
    """Raises ValueError if what a teacher gives is not finite, or is probabilities where logits were told.

    Logits of -inf rule a class out, and are no error.
    """
    for loss, values in zip(losses, outputs, strict=False):
        values = np.asarray(values, "float32")
        check_finite(values, "")
        if not takes_logits(loss) or getattr(loss, "teacher", "logits") != "logits":
            continue
        sums = values.sum(axis=getattr(loss, "axis", -1))
        # Never all of a batch by chance: logits have no reason to be positive and to sum to one.
        exclusive = not isinstance(loss, DistillationLoss) or loss.exclusive
        if exclusive and values.min() >= 0 and np.abs(sums - 1).max() < _ROUNDING and values.shape[-1] > 1:
            raise ValueError(
                f"The teacher must give logits to {type(loss).__name__}. Received: a first batch whose values are all "
                f'>= 0 and sum to 1, as probabilities do. Use `DistillationLoss(teacher="probs")`.'
            )
