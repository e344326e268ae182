"""The arguments of a Distiller: brought into one form, and checked against each other."""

from __future__ import annotations

import keras

from keras_notes._shared.checks import check_non_negative, differ, received
from keras_notes.distillation.cache._teacher_cache import TeacherCache
from keras_notes.distillation.objective._feature_match import FeatureMatch, feature_match_from
from keras_notes.distillation.objective._output_forms import check_forms, final_activations, forms_of, outputs_of
from keras_notes.distillation.objective._output_term import OutputTerm
from keras_notes.distillation.objective._schedules import constant_or_schedule
from keras_notes.distillation.recording._teachers import check_model, models_of
from keras_notes.losses import DistillationLoss

__all__ = ["as_features", "as_losses", "as_teachers", "as_weights", "check_models", "terms_of"]


def as_teachers(teacher) -> list:
    """The models of a teacher argument: one, several, or none where a cache speaks for them."""
    return [] if isinstance(teacher, TeacherCache) else models_of(teacher)


def as_losses(losses, features) -> list:
    """A list of what compares the outputs, possibly empty where features are matched."""
    if losses is None:
        losses = DistillationLoss()
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    if not losses and not features:
        raise ValueError(f"`distillation_losses` must not be empty. {received(distillation_losses=losses)}")
    return losses


def as_weights(weights, count: int) -> list:
    """One weight, or schedule, for each loss."""
    if weights is None:
        return [1.0] * count
    weights = [weights] if isinstance(weights, (int, float)) or callable(weights) else list(weights)
    if len(weights) != count:
        raise ValueError(
            f"`distillation_loss_weights` must hold one weight a distillation loss. "
            f"Received: {len(weights)} weights for {count} losses."
        )
    return [constant_or_schedule("distillation_loss_weights", weight, check_non_negative) for weight in weights]


def as_features(features) -> list[FeatureMatch]:
    """A list of matches."""
    features = list(features) if isinstance(features, (list, tuple)) else [features]
    for match in features:
        if not isinstance(match, FeatureMatch):
            raise TypeError(f"`features` must hold FeatureMatch objects. {received(features=match)}")
    return features


def terms_of(losses: list, weights: list, features: list[FeatureMatch], teachers: list, student) -> list[tuple]:
    """Pairs (term, weight) of all that is compared: OutputTerm for outputs, FeatureMatch for layers."""
    terms: list[tuple] = []
    forms = forms_of(teachers[0], student) if teachers else None
    for loss, weight in zip(losses, weights, strict=True):
        if isinstance(loss, keras.distillation.FeatureDistillation) and (
            loss.teacher_layer_name or loss.student_layer_name
        ):
            terms.append((feature_match_from(loss), weight))
            continue
        term = OutputTerm(loss, forms, getattr(student, "output_names", None))
        term.check()
        terms.append((term, weight))
    return terms + [(match, match.weight) for match in features]


def check_models(teachers: list, student, terms: list[tuple], preprocess) -> None:
    """Raises an error if the models cannot be distilled into one another, as far as their graphs tell."""
    check_model("student", student)
    if preprocess is not None and not callable(preprocess):
        raise TypeError(f"`preprocess` must be a layer or a function. {received(preprocess=preprocess)}")
    for teacher in teachers:
        if teacher is student:
            raise ValueError(f"`teacher` and `student` must be two models. Received: {teacher.name!r} for both.")
        if any(layer is student for layer in teacher._flatten_layers()):
            raise ValueError(
                f"`teacher` must not hold the student, which would be frozen with it. Received: {teacher.name!r} with "
                f"{student.name!r} inside. Use a copy: `keras.models.clone_model`."
            )
        _check_inputs(teacher, student, preprocess)
        outputs = [outputs_of(model) for model in (teacher, student)]
        output_terms = [term for term, _ in terms if isinstance(term, OutputTerm) and term.custom is None]
        if any(found is None for found in outputs) or not output_terms:
            continue
        _check_names(*outputs)
        _check_outputs(*map(keras.tree.flatten, outputs))
        for term in output_terms:
            losses = term.for_outputs(outputs[1])
            check_forms(losses, final_activations(teacher), of_teacher=True)
            check_forms(losses, final_activations(student), of_teacher=False)


def _check_names(teacher, student) -> None:
    """Outputs are matched by name where they have names, and never by the order of names that differ."""
    names = [sorted(outputs) if isinstance(outputs, dict) else None for outputs in (teacher, student)]
    if names[0] != names[1] and len(keras.tree.flatten(student)) > 1:
        kinds = [
            f"{type(outputs).__name__} {found or ''}".strip()
            for outputs, found in zip((teacher, student), names, strict=True)
        ]
        raise ValueError(
            f"`teacher` and `student` must return their outputs under the same names. Received: teacher {kinds[0]}, "
            f"student {kinds[1]}."
        )


def _check_inputs(teacher, student, preprocess) -> None:
    inputs = [getattr(model, "inputs", None) or [] for model in (teacher, student)]
    if preprocess is not None or not all(inputs):
        return
    shapes = [[tuple(tensor.shape[1:]) for tensor in found] for found in inputs]
    if len(shapes[0]) != len(shapes[1]) or any(map(differ, *shapes)):
        raise ValueError(
            f"`teacher` and `student` must take the same inputs. Received: teacher {shapes[0]}, student {shapes[1]}. "
            f"Give `preprocess`, which makes the teacher's inputs from the student's, such as keras.layers.Resizing."
        )


def _check_outputs(teacher, student) -> None:
    if len(teacher) != len(student):
        raise ValueError(
            f"`teacher` and `student` must have as many outputs as each other. "
            f"Received: teacher {len(teacher)}, student {len(student)}."
        )
    for first, second in zip(teacher, student, strict=True):
        # The batch size may differ in what the two models say of it.
        shapes = tuple(first.shape[1:]), tuple(second.shape[1:])
        if differ(*shapes):
            raise ValueError(
                f"`teacher` and `student` must have outputs of the same shape, classes included. "
                f"Received: teacher {shapes[0]}, student {shapes[1]}."
            )
