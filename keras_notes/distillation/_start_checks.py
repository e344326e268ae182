"""Checks at the start of a training run: outputs of the teacher that fit the losses, and losses that are finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np

from keras_notes._shared.checks import received
from keras_notes._shared.types import Tree
from keras_notes.distillation._seeded_batches import SeededBatches
from keras_notes.distillation.objective._output_forms import check_values
from keras_notes.distillation.recording._teachers import RecordingModel, Teachers
from keras_notes.losses import TeacherLoss

__all__ = ["LossesByOutput", "StartOfTraining", "TeacherProbe"]

LossesByOutput: TypeAlias = Callable[[int], list[list[TeacherLoss | None]]]
"""A function of the number of outputs that returns lists of losses of that length."""

_SAMPLES = 32


class TeacherProbe:
    """Checks the teacher's outputs on the first samples of arrays, which can be read twice.

    Data sets that are read only once, or that shuffle when they are read, are not touched; there the losses of the
    first batch are checked.
    """

    def __init__(self, teachers: Teachers) -> None:
        # Constructed with the Distiller, and so under the same distribution strategy.
        self._model = RecordingModel(lambda inputs: teachers.record(inputs)["outputs"], teachers.models)

    def check(self, x: Tree, losses_by_output: LossesByOutput) -> None:
        """Raises ValueError if a teacher returns NaN, or probabilities where a loss expects logits.

        Args:
            x: Inputs of the student.
            losses_by_output: Lists of losses for a number of outputs.
        """
        first = _first_samples(x)
        if first is None or keras.distribution.distribution() is not None:
            return
        for outputs in self._model.predict_on_batch(first):
            for losses in losses_by_output(len(outputs)):
                check_values(losses, list(outputs))


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
