"""Logits or probabilities: the form of a model's outputs, as its graph tells it."""

from __future__ import annotations

from typing import NamedTuple

import keras

from keras_notes._shared.keras_internals import is_keras_class, operation_of, output_index_of
from keras_notes._shared.types import Operation, Tree

__all__ = [
    "FORMS",
    "PROBABILITIES",
    "OutputForm",
    "activation_of_layer",
    "final_activations",
    "forms_of",
    "outputs_of",
]

# Layers and operations of Keras that return the values of their input, or means of some of them.
_VALUE_KEEPING = ("Identity", "Reshape", "Flatten", "Permute", "Dropout", "Cast", "Squeeze", "ExpandDims", "Transpose")
_AVERAGING = ("AveragePooling", "GlobalAveragePooling", "UpSampling", "Cropping")
# Layers of Keras that return numbers of either sign, whatever they take.
_LINEAR = ("BatchNormalization", "LayerNormalization", "GroupNormalization", "Normalization")
PROBABILITIES = ("softmax", "sigmoid")
"""Names of the activations that give probabilities."""
FORMS = {"softmax": "probs", "sigmoid": "probs", "log_softmax": "log_probs", "linear": "logits"}
"""The form of outputs behind an activation."""


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
    return None if operation is None else _activation_of_operation(operation)


def _activation_of_operation(operation: Operation) -> str | None:
    if isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    class_name = type(operation).__name__
    if class_name in ("Softmax", "Sigmoid", "LogSoftmax"):  # operations of `keras.ops`
        return {"LogSoftmax": "log_softmax"}.get(class_name, class_name.lower())
    if class_name in _LINEAR and is_keras_class(type(operation)):
        return "linear"
    activation = getattr(operation, "activation", None)
    return None if activation is None else getattr(activation, "__name__", None)


def activation_of_layer(layer: keras.Layer) -> str | None:
    """Returns the activation behind the output of a layer or model; None where it cannot be told.

    Args:
        layer: A layer of a model, built or not.
    """
    if getattr(layer, "outputs", None):
        activations = final_activations(layer)
        return activations[0] if len(activations) == 1 else None
    try:
        return _activation_of(layer.output)
    except (AttributeError, ValueError):  # called more than once, or never in a graph
        return None if _keeps_values(layer) else _activation_of_operation(layer)


def _keeps_values(operation: Operation) -> bool:
    """Whether an operation returns the values of its input, or their means, in another shape or dtype."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    class_name = type(operation).__name__
    return class_name in _VALUE_KEEPING or class_name.rstrip("123D") in _AVERAGING


def forms_of(teacher: keras.Model, student: keras.Model) -> list[OutputForm]:
    """Returns the form of each output, as far as the graphs of the models tell."""
    activations = final_activations(teacher), final_activations(student)
    count = max(map(len, activations)) or 1
    teacher_activations, student_activations = ([*names, *[None] * (count - len(names))] for names in activations)
    return [
        OutputForm(
            teacher="probs" if first in PROBABILITIES else "logits",
            from_logits=second not in PROBABILITIES,
            exclusive="sigmoid" not in (first, second),
        )
        for first, second in zip(teacher_activations, student_activations, strict=True)
    ]
