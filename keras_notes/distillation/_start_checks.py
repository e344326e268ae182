"""Checks at the start of a training run: outputs of the teacher that fit the losses, and losses that are finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
import numpy as np

from keras_notes._shared.checks import received
from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import Tree
from keras_notes.distillation._seeded_batches import SeededBatches
from keras_notes.distillation.objective._form_checks import check_values
from keras_notes.distillation.objective._output_forms import final_activations
from keras_notes.distillation.recording._teachers import RecordingModel
from keras_notes.losses import TeacherLoss

__all__ = ["LossesByOutput", "OutputProbe", "StartOfTraining", "check_outputs", "student_probe"]

LossesByOutput: TypeAlias = Callable[[int], list[list[TeacherLoss | None]]]
"""A function of the number of outputs that returns lists of losses of that length."""

_SAMPLES = 32


class OutputProbe:
    """Checks outputs of models on the first samples of arrays, which can be read twice.

    Data sets that are read only once, or that shuffle when they are read, are not touched; there the losses of the
    first batch are checked. It is constructed with the Distiller, and so under the same distribution strategy.

    Args:
        models: The models.
        outputs: A function of a batch of the student's inputs that returns the outputs of each model.
        of_teacher: Whether the models are teachers.
    """

    def __init__(
        self, models: Sequence[keras.Model], outputs: Callable[[Tree], Tree], *, of_teacher: bool = True
    ) -> None:
        self._model = RecordingModel(outputs, models)
        self._of_teacher = of_teacher

    def check(self, x: Tree, losses_by_output: LossesByOutput, others: Sequence[Sequence[str | None]] = ()) -> None:
        """Raises ValueError if a model returns probabilities where a loss expects logits, or the reverse.

        A teacher must not return NaN either.

        Args:
            x: Inputs of the student.
            losses_by_output: Lists of losses for a number of outputs.
            others: For each model of the other side the result of `final_activations`.
        """
        # No teacher runs beside a cache.
        is_joined = hasattr(x, "cache") and not self._of_teacher
        first = _first_samples(getattr(x, "dataset", x) if is_joined else x)
        if first is None or keras.distribution.distribution() is not None:
            return
        for outputs in self._model.predict_on_batch(first):
            check_outputs(list(outputs), losses_by_output, of_teacher=self._of_teacher, others=others)


def check_outputs(
    outputs: Sequence[np.ndarray],
    losses_by_output: LossesByOutput,
    *,
    of_teacher: bool = True,
    others: Sequence[Sequence[str | None]] = (),
) -> None:
    """Checks outputs of one model against every list of losses. See `OutputProbe.check`."""
    for losses in losses_by_output(len(outputs)):
        check_values(losses, outputs, of_teacher=of_teacher, others=others)


def student_probe(student: keras.Model) -> OutputProbe | None:
    """Returns a probe of a student whose graph does not tell what it ends in; None where none is needed, or possible.

    Args:
        student: The student. One with states would keep what it was shown.
    """
    activations = final_activations(student)
    is_known = bool(activations) and all(name is not None for name in activations)
    if is_known or any(getattr(layer, "stateful", False) for layer in layers_of(student)):
        return None
    return OutputProbe(
        [student], lambda inputs: (tuple(keras.tree.flatten(student(inputs, training=False))),), of_teacher=False
    )


def _first_samples(x: Tree) -> Tree | None:
    """Returns the first samples of arrays or `SeededBatches`; None for other data sets."""
    if isinstance(x, SeededBatches):
        x = x.x
    leaves = keras.tree.flatten(x)
    if not leaves or not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return None
    return keras.tree.map_structure(lambda leaf: np.asarray(leaf[:_SAMPLES]), x)


class StartOfTraining(keras.callbacks.Callback):
    """Sets the epoch of batches that depend on it, and checks the losses of the first batch.

    Args:
        data: The data set that is trained on.
    """

    def __init__(self, data: Tree) -> None:
        super().__init__()
        self._data = data
        self._is_first = True

    def on_epoch_begin(self, epoch, logs=None):
        if getattr(self._data, "keeps_order", False) and hasattr(self._data, "epoch"):
            self._data.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not self._is_first:
            return
        self._is_first = False
        for name in ("student_loss", "distillation_loss"):
            value = float((logs or {}).get(name, 0.0))
            if not np.isfinite(value):
                raise ValueError(
                    f"`{name}` must be a number after the first batch. {received(**{name: value})} "
                    + (
                        "The teacher or the student returns NaN or inf for some of its samples: check the inputs, the "
                        "teacher's weights, and `preprocess`."
                        if name == "distillation_loss"
                        else "Check the inputs, and that the labels are what the student's loss expects."
                    )
                )
