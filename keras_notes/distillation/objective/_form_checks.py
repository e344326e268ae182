"""Checks that losses take what the models give: logits, probabilities, finite numbers; and the loss that fits."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard, TypeVar

import keras
import numpy as np

from keras_notes._shared.types import Tree
from keras_notes.distillation.objective._loss_forms import CLASS_IDS, LossLike, form_of_loss
from keras_notes.distillation.objective._output_forms import FORMS, PROBABILITIES
from keras_notes.distillation.objective._weighted_losses import AdaptedLoss, name_of_class
from keras_notes.losses import (
    CorrelationDistillationLoss,
    DecoupledDistillationLoss,
    DistillationLoss,
    JensenShannonDistillationLoss,
    TeacherLoss,
)

__all__ = [
    "Endings",
    "check_finite",
    "check_form",
    "check_forms",
    "check_label_losses",
    "check_values",
    "fitting_loss",
    "states_form",
]

Item = TypeVar("Item")

# How far a row of float16 probabilities may be from 1.
_ROUNDING = 1e-2
_OF_SEVERAL_CLASSES = (
    DistillationLoss,
    DecoupledDistillationLoss,
    CorrelationDistillationLoss,
    JensenShannonDistillationLoss,
)


class Endings(NamedTuple):
    """What the models end in, at one output or feature.

    Attributes:
        teachers: Activation of each teacher that is a model; None where its graph does not tell.
        student: Activation of the student, or None.
        classes: Number of classes, or None.
        teacher_name: Noun of the teacher's side, for messages.
        student_name: Noun of the student's side.
    """

    teachers: tuple[str | None, ...]
    student: str | None
    classes: int | None = None
    teacher_name: str = "teacher"
    student_name: str = "student"


def states_form(loss: TeacherLoss | None) -> TypeGuard[TeacherLoss]:
    """Whether a loss says if it takes logits or probabilities; losses of any numbers do not."""
    if isinstance(loss, AdaptedLoss):
        return loss.form is not None
    return loss is not None and loss.temperature is not None


def check_forms(
    losses: Sequence[TeacherLoss | None],
    teachers: Sequence[Sequence[str | None]],
    student: Sequence[str | None],
    shapes: Sequence[tuple[int | None, ...]],
    names: Sequence[str] | None = None,
) -> None:
    """Raises ValueError if a loss expects logits and a model ends in a softmax or sigmoid, or the reverse.

    Args:
        losses: A loss, or None, for each output.
        teachers: For each teacher that is a model the result of `final_activations`, which may be empty.
        student: The result of `final_activations` for the student.
        shapes: Shape of each output; may be empty.
        names: Names of the outputs, where the models return a dictionary.
    """
    endings = [
        Endings(
            tuple(_item(activations, i) for activations in teachers),
            _item(student, i),
            _count_classes(loss, _item(shapes, i) or ()),
        )
        for i, loss in enumerate(losses)
    ]
    structure = None
    if len(losses) > 1 and all(loss is None or states_form(loss) for loss in losses):
        structure = _fitting_structure(losses, endings, names)
    for loss, ending in zip(losses, endings, strict=True):
        check_form(loss, ending, structure)


def check_form(loss: TeacherLoss | None, endings: Endings, remedy: str | None = None) -> None:
    """Raises ValueError, with the loss that fits, if a loss does not take what the models end in.

    Args:
        loss: The loss, or None.
        endings: What the models end in.
        remedy: Text of the losses that fit, where the model has several outputs; None for the one loss.
    """
    if not states_form(loss):
        return
    mismatch = _mismatch(loss, endings)
    if mismatch is not None:
        raise ValueError(
            f"{mismatch[0].upper()}{mismatch[1:]}. Received: {_describe(endings)}. {_remedy(loss, endings, remedy)}"
        )


def _fitting_structure(
    losses: Sequence[TeacherLoss | None], endings: Sequence[Endings], names: Sequence[str] | None
) -> str:
    """Returns `distillation_losses` for models with several outputs: one loss if it fits all, else one for each."""
    calls = [
        "None" if loss is None else fitting_loss(loss, ending) for loss, ending in zip(losses, endings, strict=True)
    ]
    if len(set(calls)) == 1:
        return calls[0]
    if names is None:
        return f"[[{', '.join(calls)}]]"
    return f"{{{', '.join(f'{json.dumps(name)}: {call}' for name, call in zip(names, calls, strict=True))}}}"


def _mismatch(loss: TeacherLoss, endings: Endings) -> str | None:
    """Returns what must hold and does not, or None."""
    name = name_of_class(loss)
    teacher, student = f"the {endings.teacher_name} must give", f"the {endings.student_name} must give"
    for activation in endings.teachers:
        if loss.teacher == "logits" and activation in PROBABILITIES:
            return f"{teacher} logits to {name}"
        if loss.teacher == "probs" and activation in ("linear", "log_softmax"):
            return f"{teacher} probabilities to {name}"
        if loss.teacher == "log_probs" and activation in PROBABILITIES:
            return f"{teacher} log-probabilities to {name}"
    if loss.from_logits and endings.student in PROBABILITIES:
        return f"{student} logits to {name}"
    if not loss.from_logits and endings.student in ("linear", "log_softmax"):
        return f"{student} probabilities to {name}"
    if loss.teacher == CLASS_IDS:
        return f"{teacher} class ids to {name}"
    compares_classes = isinstance(loss, (*_OF_SEVERAL_CLASSES, AdaptedLoss))
    if loss.exclusive and compares_classes and endings.classes == 1:
        return f"the outputs must have at least two classes for {name}, unless it is told `exclusive=False`"
    return None


def _describe(endings: Endings) -> str:
    sides = [(f"a {endings.teacher_name}", name) for name in dict.fromkeys(endings.teachers)]
    sides.append((f"a {endings.student_name}", endings.student))
    texts = [
        f"{side} that ends in an output {'without an activation' if name == 'linear' else f'behind a {name}'}"
        for side, name in sides
        if name is not None
    ]
    if endings.classes == 1:
        texts.append("one class")
    return ", ".join(texts) or "outputs that are no class ids"


def _remedy(loss: TeacherLoss, endings: Endings, fitting: str | None) -> str:
    forms = {FORMS.get(name or "", "unknown") for name in endings.teachers if name is not None}
    if len(forms) > 1:
        return "Let all teachers end in logits: take the activations off, and use a loss on logits."
    remedy = f"Use `{fitting or fitting_loss(loss, endings)}`"
    ends_in_probs = [
        side
        for side, names in ((endings.teacher_name, endings.teachers), (endings.student_name, (endings.student,)))
        if any(name in PROBABILITIES for name in names)
    ]
    if endings.teacher_name != "teacher":
        return f"{remedy} for logits, `kn.losses.HintLoss()` for other features."
    if loss.teacher != "logits" or not loss.from_logits or not ends_in_probs:
        return f"{remedy}."
    return f"{remedy}; or take the activation off the {' and the '.join(ends_in_probs)}, whose outputs are logits then."


def fitting_loss(loss: TeacherLoss, endings: Endings) -> str:
    """Returns the call of a `DistillationLoss` that takes what the models give, as text of a program.

    Args:
        loss: The loss that does not; its other settings are kept.
        endings: What the models end in. A side that is unknown is taken as `loss` says, or as logits.
    """
    is_own = isinstance(loss, DistillationLoss)
    settings = _settings(loss) if is_own else {}
    if not is_own and loss.temperature is not None:
        settings["temperature"] = loss.temperature
    is_softmax = "softmax" in (*endings.teachers, endings.student)
    exclusive = (
        (loss.exclusive or is_softmax)
        and endings.classes != 1
        and "sigmoid" not in (*endings.teachers, endings.student)
    )
    known = [FORMS[name] for name in endings.teachers if name in FORMS]
    teacher = known[0] if known else loss.teacher if is_own else "logits"
    from_logits = loss.from_logits if is_own or endings.student in PROBABILITIES else True
    if endings.student is not None:
        from_logits = endings.student not in PROBABILITIES
    settings |= {"exclusive": exclusive, "teacher": teacher, "from_logits": from_logits}
    if not exclusive:
        settings.pop("standardize", None)
    if teacher == "logits":
        settings.pop("teacher_temperature", None)
    parameters = inspect.signature(DistillationLoss.__init__).parameters
    texts = [
        f"{name}={_literal(settings[name])}"
        for name, parameter in parameters.items()
        if name in settings and settings[name] != parameter.default
    ]
    return f"kn.losses.DistillationLoss({', '.join(texts)})"


def _literal(value: Tree) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _settings(loss: DistillationLoss) -> dict[str, Tree]:
    """Returns the settings of a loss that decide its value."""
    return {
        "temperature": loss.temperature,
        "standardize": loss.standardize,
        "teacher_temperature": loss.teacher_temperature,
        "axis": loss.axis,
        "reduction": loss.reduction,
        "name": loss.name,
    }


def _item(values: Sequence[Item], index: int) -> Item | None:
    return values[index] if index < len(values) else None


def _count_classes(loss: TeacherLoss | None, shape: Sequence[int | None]) -> int | None:
    """Returns the length of the class axis; None where it is unknown. Keras's losses may have several axes, or none."""
    axis = None if loss is None else loss.axis
    return shape[axis] if isinstance(axis, int) and -len(shape) <= axis < len(shape) else None


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
                f"for an output without an activation. Use a loss object with `from_logits=True`, or end the model "
                f"in a softmax or sigmoid."
            )


def _takes_probabilities(identifier: LossLike | None) -> bool:
    """Whether a loss object, a function or a name stands for a loss of probabilities."""
    if identifier is None:
        return False
    form = form_of_loss(identifier)
    if form is not None:
        return not form.from_logits
    return isinstance(identifier, keras.losses.Loss) and _says_probabilities(identifier)


def _says_probabilities(loss: keras.losses.Loss) -> bool:
    has_config = type(loss).get_config is not keras.losses.Loss.get_config
    return has_config and loss.get_config().get("from_logits") is False


def _name_of(identifier: LossLike) -> str:
    if isinstance(identifier, str):
        return identifier
    return getattr(identifier, "name", getattr(identifier, "__name__", str(identifier)))


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


def check_values(
    losses: Sequence[TeacherLoss | None],
    outputs: Sequence[np.ndarray],
    *,
    of_teacher: bool = True,
    others: Sequence[Sequence[str | None]] = (),
) -> None:
    """Raises ValueError if outputs are not finite, or are probabilities where a loss expects logits, or the reverse.

    Logits of -inf rule a class out; they are allowed.

    Args:
        losses: A loss, or None, for each output.
        outputs: First outputs of a teacher, or of the student.
        of_teacher: Whether `outputs` are a teacher's.
        others: For each model of the other side the result of `final_activations`, for the remedy.
    """
    for i, (loss, values) in enumerate(zip(losses, outputs, strict=False)):
        values = np.asarray(values, "float32")
        if of_teacher:
            check_finite(values, "")
        if not states_form(loss) or not np.isfinite(values).any():
            continue
        form = loss.teacher if of_teacher else "logits" if loss.from_logits else "probs"
        activation, description = _form_of_values(loss, values, form)
        if activation is None:
            continue
        role = "teacher" if of_teacher else "student"
        other = tuple(_item(names, i) for names in others)
        teachers, student = ((activation,), _item(other, 0)) if of_teacher else (other, activation)
        endings = Endings(teachers, student, _count_classes(loss, values.shape))
        expected = {"probs": "probabilities", "log_probs": "log-probabilities"}.get(form, form)
        raise ValueError(
            f"The {role} must give {expected} to {name_of_class(loss)}. Received: a first batch whose values "
            f"{description}. Use `{fitting_loss(loss, endings)}`."
        )


def _form_of_values(loss: TeacherLoss, values: np.ndarray, form: str) -> tuple[str | None, str]:
    """Returns the activation that values betray where it is not the form that is expected; else None."""
    minimum, maximum = float(values.min()), float(values.max())
    if form == "logits":
        # Never true for a whole batch by chance: logits have no reason to be positive and to sum to one.
        has_classes = loss.exclusive and (_count_classes(loss, values.shape) or 0) > 1
        if has_classes and minimum >= 0 and np.abs(values.sum(axis=loss.axis) - 1).max() < _ROUNDING:
            return "softmax", "are all >= 0 and sum to 1, as probabilities do"
    elif form == "probs" and (minimum < -_ROUNDING or maximum > 1 + _ROUNDING):
        return "linear", f"lie in [{minimum:.3g}, {maximum:.3g}], outside of [0, 1], as logits do"
    elif form == "log_probs" and maximum > _ROUNDING:
        is_probs = minimum >= 0 and maximum <= 1 + _ROUNDING
        return ("softmax" if is_probs else "linear"), f"lie in [{minimum:.3g}, {maximum:.3g}], and not below 0"
    return None, ""
