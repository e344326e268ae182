"""Arguments of a Distiller: brought into one form, and checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras

from keras_notes._shared.checks import check_non_negative, differ, received
from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import Tree
from keras_notes.distillation.cache._teacher_cache import TeacherCache
from keras_notes.distillation.objective._feature_match import FeatureMatch, as_feature_match
from keras_notes.distillation.objective._form_checks import Endings, check_form, check_forms
from keras_notes.distillation.objective._objective import Term
from keras_notes.distillation.objective._output_forms import (
    activation_of_layer,
    final_activations,
    forms_of,
    outputs_of,
)
from keras_notes.distillation.objective._output_term import LossTerm, output_term
from keras_notes.distillation.objective._schedules import Number, constant_or_schedule
from keras_notes.distillation.objective._weighted_losses import as_teacher_loss
from keras_notes.distillation.recording._layer_outputs import find_layer
from keras_notes.distillation.recording._teachers import check_model, models_of
from keras_notes.losses import DistillationLoss

__all__ = [
    "DistillationItem",
    "Teacher",
    "as_features",
    "as_losses",
    "as_teachers",
    "as_weights",
    "check_models",
    "terms_of",
]

Teacher: TypeAlias = keras.Model | Sequence[keras.Model] | TeacherCache
"""The teacher of a Distiller: a model, several, or a cache."""

DistillationItem: TypeAlias = Tree | keras.distillation.DistillationLoss
"""An entry of `distillation_losses`: a loss, a structure of losses, or an object of `keras.distillation`."""


def as_teachers(teacher: Teacher) -> list[keras.Model]:
    """Returns the models of a teacher argument: one, several, or none where a cache takes their place."""
    return [] if isinstance(teacher, TeacherCache) else models_of(teacher)


def as_losses(losses: DistillationItem | None, features: list[FeatureMatch]) -> list[DistillationItem]:
    """Returns a list of losses of the outputs; it may be empty where features are matched.

    Raises:
        ValueError: If there is nothing to compare.
    """
    if losses is None:
        losses = DistillationLoss()
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    if not losses and not features:
        raise ValueError(f"`distillation_losses` must not be empty. {received(distillation_losses=losses)}")
    return losses


def as_weights(weights: Sequence[Number] | Number | None, count: int) -> list[Number]:
    """Returns one weight, or schedule, for each loss.

    Raises:
        ValueError: If there are not as many weights as losses, or one is negative.
    """
    if weights is None:
        return [1.0] * count
    weights = [weights] if isinstance(weights, (int, float)) or callable(weights) else list(weights)
    if len(weights) != count:
        raise ValueError(
            f"`distillation_loss_weights` must hold one weight a distillation loss. "
            f"Received: {len(weights)} weights for {count} losses."
        )
    return [constant_or_schedule("distillation_loss_weights", weight, check_non_negative) for weight in weights]


def as_features(features: Sequence[FeatureMatch] | FeatureMatch) -> list[FeatureMatch]:
    """Returns a list of matches.

    Raises:
        TypeError: If it holds something else.
    """
    matches = []
    for match in features if isinstance(features, (list, tuple)) else [features]:
        if not isinstance(match, FeatureMatch):
            raise TypeError(f"`features` must hold FeatureMatch objects. {received(features=match)}")
        matches.append(match)
    return matches


def terms_of(
    losses: list[DistillationItem],
    weights: list[Number],
    features: list[FeatureMatch],
    teachers: list[keras.Model],
    student: keras.Model,
) -> list[tuple[Term, Number]]:
    """Returns pairs (term, weight) of everything that is compared: outputs and layers."""
    terms: list[tuple[Term, Number]] = []
    forms = forms_of(teachers[0], student) if teachers else None
    for loss, weight in zip(losses, weights, strict=True):
        if isinstance(loss, keras.distillation.FeatureDistillation) and (
            loss.teacher_layer_name or loss.student_layer_name
        ):
            terms.append((as_feature_match(loss), weight))
            continue
        terms.append((output_term(loss, forms, getattr(student, "output_names", None)), weight))
    return terms + [(match, match.weight) for match in features]


def check_models(
    teachers: list[keras.Model],
    student: keras.Model,
    terms: list[tuple[Term, Number]],
    preprocess: Callable[[Tree], Tree] | None,
) -> None:
    """Checks that the teachers can be distilled into the student, as far as their graphs tell.

    Raises:
        TypeError: If the student is not a model, or `preprocess` cannot be called.
        ValueError: If inputs, outputs or losses do not fit together.
    """
    check_model("student", student)
    if preprocess is not None and not callable(preprocess):
        raise TypeError(f"`preprocess` must be a layer or a function. {received(preprocess=preprocess)}")
    for teacher in teachers:
        if teacher is student:
            raise ValueError(f"`teacher` and `student` must be two models. Received: {teacher.name!r} for both.")
        if any(layer is student for layer in layers_of(teacher)):
            raise ValueError(
                f"`teacher` must not hold the student, which would be frozen with it. Received: {teacher.name!r} with "
                f"{student.name!r} inside. Use a copy: `keras.models.clone_model`."
            )
        _check_inputs(teacher, student, preprocess)
        outputs = [outputs_of(model) for model in (teacher, student)]
        if any(structure is None for structure in outputs) or not any(isinstance(term, LossTerm) for term, _ in terms):
            continue
        _check_names(*outputs)
        _check_outputs(*map(keras.tree.flatten, outputs))
    _check_output_losses(teachers, student, [term for term, _ in terms if isinstance(term, LossTerm)])
    for match in (term for term, _ in terms if isinstance(term, FeatureMatch)):
        _check_feature_loss(teachers, student, match)


def _check_output_losses(teachers: list[keras.Model], student: keras.Model, terms: list[LossTerm]) -> None:
    """Raises ValueError if a loss does not take what the models end in, as far as their graphs tell."""
    structure = outputs_of(student)
    is_of_student = structure is not None
    for teacher in teachers:
        structure = outputs_of(teacher) if structure is None else structure
    if structure is None:
        return
    activations = [final_activations(teacher) for teacher in teachers]
    leaves = keras.tree.flatten(structure)
    names = sorted(structure) if isinstance(structure, dict) and len(structure) == len(leaves) else None
    for term in terms:
        # Another structure of losses says which outputs the student has; the teacher's may be in another one.
        if is_of_student or isinstance(term.losses, keras.losses.Loss):
            losses, shapes = term.for_outputs(structure), [tuple(leaf.shape) for leaf in leaves]
            check_forms(losses, activations, final_activations(student), shapes, names)


def _check_feature_loss(teachers: list[keras.Model], student: keras.Model, match: FeatureMatch) -> None:
    """Raises ValueError if the loss of a match does not take what its layers end in; unknown layers fail elsewhere."""
    pairs = [(student, match.student_layer, "student")]
    if teachers:
        pairs.append((teachers[match.teacher % len(teachers)], match.teacher_layer, "teacher"))
    layers = [model if path is None else find_layer(model, path, role=role) for model, path, role in pairs]
    student_activation, *teacher_activations = map(activation_of_layer, layers)
    names = [f"{role}'s feature {layer.name!r}" for layer, (_, _, role) in zip(layers, pairs, strict=True)]
    endings = Endings(
        tuple(teacher_activations), student_activation, None, names[-1] if teachers else "teacher", names[0]
    )
    check_form(as_teacher_loss(match.loss), endings)


def _check_names(teacher: Tree, student: Tree) -> None:
    """Outputs are matched by name where they have names, and never by the order of names that differ."""
    names = [sorted(outputs) if isinstance(outputs, dict) else None for outputs in (teacher, student)]
    if names[0] != names[1] and len(keras.tree.flatten(student)) > 1:
        described = [
            f"{type(outputs).__name__} {output_names or ''}".strip()
            for outputs, output_names in zip((teacher, student), names, strict=True)
        ]
        raise ValueError(
            f"`teacher` and `student` must return their outputs under the same names. "
            f"Received: teacher {described[0]}, student {described[1]}."
        )


def _check_inputs(teacher: keras.Model, student: keras.Model, preprocess: Callable[[Tree], Tree] | None) -> None:
    inputs = [getattr(model, "inputs", None) or [] for model in (teacher, student)]
    if preprocess is not None or not all(inputs):
        return
    shapes = [[tuple(tensor.shape[1:]) for tensor in tensors] for tensors in inputs]
    if len(shapes[0]) != len(shapes[1]) or any(map(differ, *shapes)):
        raise ValueError(
            f"`teacher` and `student` must take the same inputs. Received: teacher {shapes[0]}, student {shapes[1]}. "
            f"Give `preprocess`, which makes the teacher's inputs from the student's, such as keras.layers.Resizing."
        )


def _check_outputs(teacher: list[keras.KerasTensor], student: list[keras.KerasTensor]) -> None:
    if len(teacher) != len(student):
        raise ValueError(
            f"`teacher` and `student` must have as many outputs as each other. "
            f"Received: teacher {len(teacher)}, student {len(student)}."
        )
    for first, second in zip(teacher, student, strict=True):
        # The two models may state different batch sizes.
        shapes = tuple(first.shape[1:]), tuple(second.shape[1:])
        if differ(*shapes):
            raise ValueError(
                f"`teacher` and `student` must have outputs of the same shape, classes included. "
                f"Received: teacher {shapes[0]}, student {shapes[1]}."
            )
