"""What a Distiller and a MutualDistiller share: a loss of two terms, its logs, and data that knows its epoch."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
from keras import ops

# Not public, but the rule by which Keras logs a loss under several replicas.
from keras.src.losses.loss import unscale_loss_for_distribution

from keras_notes._shared.checks import received
from keras_notes.distillation._start_checks import StartOfTraining
from keras_notes.distillation.objective._output_term import own_weight
from keras_notes.distillation.objective._schedules import is_schedule

__all__ = ["TwoTermModel"]


class TwoTermModel(keras.Model):
    """A model with the loss w * student_loss + (1 - w) * distillation_loss + regularization."""

    student_loss_weight: Any
    _is_fitting = False

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")

    def _is_weight(self, value: float) -> bool:
        """Whether w is this constant."""
        return not is_schedule(self.student_loss_weight) and self.student_loss_weight == value

    def _check_loss(self, loss) -> None:
        if loss is None and not self._is_weight(0.0):
            raise ValueError(
                f"`loss` must be given unless `student_loss_weight` is 0. "
                f"{received(loss=loss, student_loss_weight=self.student_loss_weight)}"
            )

    def _check_labels(self, y) -> None:
        if y is None:
            raise ValueError(
                "`y` must be given unless `student_loss_weight` is 0. Received: y=None. "
                "Mark single samples without a label by -1 and a student loss with `ignore_class=-1`."
            )

    def compile_from_config(self, config) -> None:
        """Compiles a reloaded model as it was; Keras leaves that to classes with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=None,
        *args,
        **kwargs,
    ):
        """Trains. See `keras.Model.fit`; there `shuffle` is True, here it is so except for batches by seed.

        What is not finite in the teacher's first answers, or in the losses after the first batch, is an error.
        """
        with contextlib.ExitStack() as at_the_end:
            self._is_fitting = True
            at_the_end.callback(setattr, self, "_is_fitting", False)
            self._check_data(x, validation_data)
            # Keras would draw the order of the batches from the global random state.
            shuffle = not getattr(x, "keeps_order", False) if shuffle is None else shuffle
            if getattr(x, "workers", 1) > 1:
                # Keras would look at the first batch in an epoch that it breaks off; its workers go on with the rest.
                self._symbolic_build(data_batch=(*x[0], None, None)[:3])
            start = StartOfTraining(x)
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.callbacks.insert(0, start)
                at_the_end.callback(callbacks.callbacks.remove, start)
            else:
                callbacks = [start, *([] if callbacks is None else keras.tree.flatten(callbacks))]
            arguments = x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle
            return super().fit(*arguments, *args, **kwargs)

    def _check_data(self, x, validation_data) -> None:
        """Raises an error if data cannot be trained on, as far as a look before the first step tells."""

    def _loss_on_labels(self, y, y_pred, sample_weight):
        """What was compiled as `loss`, with weights of its own to change."""
        predictions, weights = keras.tree.flatten(y_pred), keras.tree.flatten(sample_weight)
        if sample_weight is not None and len(weights) == len(predictions):
            pairs = zip(weights, predictions, strict=True)
            own = [None if w is None else own_weight(_of_samples(w, p), p) for w, p in pairs]
            sample_weight = keras.tree.pack_sequence_as(sample_weight, own)
        return self._compile_loss(y, y_pred, sample_weight)

    def _added_losses(self) -> list:
        """What regularizers and `add_loss` terms add, by the rule of `keras.Model` for replicas."""
        return [self._aggregate_additional_loss(loss) for loss in self.losses]

    def _total_loss(self, weight, student_loss, distillation_loss, added: list, samples):
        """The loss of a step; w is a number or a scalar tensor."""
        # At w = 1 exactly the student's loss: the other term is then the constant 0.
        mixed = weight * student_loss + (1.0 - weight) * distillation_loss
        total_loss = ops.sum([mixed, *(ops.cast(loss, mixed.dtype) for loss in added)]) if added else mixed
        for tracker, loss in (
            (self.student_loss_tracker, student_loss),
            (self.distillation_loss_tracker, distillation_loss),
            (self.total_loss_tracker, total_loss),
        ):
            tracker.update_state(unscale_loss_for_distribution(loss), sample_weight=samples)
        return total_loss


def _of_samples(sample_weight, y_pred):
    """One weight a sample lined up with the first axis; Keras would line it up with the last one of images."""
    sample_weight = ops.convert_to_tensor(sample_weight)
    if len(sample_weight.shape) != 1 or len(y_pred.shape) < 3:
        return sample_weight
    return ops.reshape(sample_weight, (-1, *[1] * (len(y_pred.shape) - 2)))
