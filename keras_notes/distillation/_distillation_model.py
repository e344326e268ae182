"""Common base of Distiller and MutualDistiller: a loss of two terms, its logs, and data that depends on the epoch."""

from __future__ import annotations

import contextlib

import keras
from keras import ops

from keras_notes._shared.checks import received
from keras_notes._shared.keras_internals import unscale_loss_for_distribution
from keras_notes._shared.types import Config, Tensor, Tree
from keras_notes.distillation._start_checks import StartOfTraining
from keras_notes.distillation.objective._schedules import Number, is_schedule
from keras_notes.distillation.objective._weighted_losses import copy_weight

__all__ = ["TwoTermModel"]


class TwoTermModel(keras.Model):
    """A model with the loss w * student_loss + (1 - w) * distillation_loss + regularization.

    Attributes:
        student_loss_weight: w, a number in [0, 1] or a schedule.
    """

    student_loss_weight: Number
    _is_fitting = False

    def __init__(self, name: str, **kwargs: Tree) -> None:
        super().__init__(name=name, **kwargs)
        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")

    @property
    def _uses_labels(self) -> bool:
        """Whether labels have a part in the loss: w is not the constant 0."""
        return is_schedule(self.student_loss_weight) or self.student_loss_weight != 0.0

    @property
    def _uses_teacher(self) -> bool:
        """Whether a teacher, or other students, have a part in the loss: w is not the constant 1."""
        return is_schedule(self.student_loss_weight) or self.student_loss_weight != 1.0

    def _check_loss(self, loss: Tree) -> None:
        if loss is None and self._uses_labels:
            raise ValueError(
                f"`loss` must be given unless `student_loss_weight` is 0. "
                f"{received(loss=loss, student_loss_weight=self.student_loss_weight)}"
            )

    def _check_labels(self, y: Tree) -> None:
        if y is None:
            raise ValueError(
                "`y` must be given unless `student_loss_weight` is 0. Received: y=None. "
                "Mark single samples without a label by -1 and a student loss with `ignore_class=-1`."
            )

    def compile_from_config(self, config: Config) -> None:
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

        Raises:
            ValueError: If outputs of the teacher for the first samples, or losses of the first batch, are not finite.
        """
        with contextlib.ExitStack() as at_exit:
            self._is_fitting = True
            at_exit.callback(setattr, self, "_is_fitting", False)
            self._check_data(x, validation_data)
            # Keras would draw the order of the batches from the global random state.
            shuffle = not getattr(x, "keeps_order", False) if shuffle is None else shuffle
            if getattr(x, "workers", 1) > 1:
                # Keras would read the first batch in an epoch that it breaks off; its workers go on with the rest.
                self._symbolic_build(data_batch=(*x[0], None, None)[:3])
            start = StartOfTraining(x)
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.callbacks.insert(0, start)
                at_exit.callback(callbacks.callbacks.remove, start)
            else:
                callbacks = [start, *([] if callbacks is None else keras.tree.flatten(callbacks))]
            arguments = x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle
            return super().fit(*arguments, *args, **kwargs)

    def _check_data(self, x: Tree, validation_data: Tree) -> None:
        """Raises ValueError if data cannot be trained on, as far as can be checked before the first step."""

    def _loss_on_labels(self, y: Tree, y_pred: Tree, sample_weight: Tree) -> Tensor:
        """Returns the loss that was passed to `compile`, with copies of the weights, which Keras may change."""
        predictions, weights = keras.tree.flatten(y_pred), keras.tree.flatten(sample_weight)
        if sample_weight is not None and len(weights) == len(predictions):
            pairs = zip(weights, predictions, strict=True)
            copies = [None if w is None else copy_weight(_align_samples(w, p), p) for w, p in pairs]
            sample_weight = keras.tree.pack_sequence_as(sample_weight, copies)
        return self._compile_loss(y, y_pred, sample_weight)

    def _added_losses(self) -> list[Tensor]:
        """Returns the losses of regularizers and `add_loss`, by the rule of `keras.Model` for replicas."""
        return [self._aggregate_additional_loss(loss) for loss in self.losses]

    def _total_loss(
        self,
        weight: Tensor | float,
        student_loss: Tensor,
        distillation_loss: Tensor,
        added: list[Tensor],
        samples: Tensor | int,
    ) -> Tensor:
        """Returns the loss of a step; w is a number or a scalar tensor."""
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


def _align_samples(sample_weight: Tensor, y_pred: Tensor) -> Tensor:
    """Returns one weight a sample, lined up with the first axis; Keras would line it up with the last one of images."""
    sample_weight = ops.convert_to_tensor(sample_weight)
    if len(sample_weight.shape) != 1 or len(y_pred.shape) < 3:
        return sample_weight
    return ops.reshape(sample_weight, (-1, *[1] * (len(y_pred.shape) - 2)))
