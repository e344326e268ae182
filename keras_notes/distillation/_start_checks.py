"""What a training run is checked for at its start: a teacher that fits, and losses that are numbers."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from keras_notes._shared.checks import received
from keras_notes.distillation._seeded_batches import SeededBatches
from keras_notes.distillation.objective._output_forms import check_values
from keras_notes.distillation.recording._teachers import RecordingModel, Teachers

__all__ = ["StartOfTraining", "TeacherProbe"]

_SAMPLES = 32


class TeacherProbe:
    """Asks the teachers about the first samples of arrays, which costs nothing to look at twice.

    Data sets that are read only once, or that shuffle when they are read, are left alone; there the losses of the
    first batch tell.
    """

    def __init__(self, teachers: Teachers) -> None:
        # Made with the Distiller, and so under the same distribution strategy.
        self._model = RecordingModel(lambda inputs: teachers.record(inputs)["outputs"], teachers.models)

    def check(self, x, losses_for: Callable[[int], list[list]]) -> None:
        """Raises ValueError if a teacher gives NaN, or probabilities where a loss was told logits.

        `losses_for` gives, for a number of outputs, lists of losses of that length.
        """
        first = _first_samples(x)
        if first is None or keras.distribution.distribution() is not None:
            return
        for outputs in self._model.predict_on_batch(first):
            for losses in losses_for(len(outputs)):
                check_values(losses, list(outputs))


def _first_samples(x):
    if isinstance(x, SeededBatches):
        x = x.x
    leaves = keras.tree.flatten(x)
    if not leaves or not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return None
    return keras.tree.map_structure(lambda leaf: np.asarray(leaf[:_SAMPLES]), x)


class StartOfTraining(keras.callbacks.Callback):
    """Tells batches in which epoch they are, and looks at the losses of the first batch."""

    def __init__(self, data) -> None:
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
                        "The teacher or the student gives NaN or inf for some of its samples: check the inputs, the "
                        "teacher's weights, and `preprocess`."
                        if name == "distillation_loss"
                        else "Check the inputs, and that the labels are what the student's loss expects."
                    )
                )
