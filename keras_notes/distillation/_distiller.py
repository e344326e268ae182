"""The Distiller: an ordinary Keras model whose loss has one more term, the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# Not public, but the rule by which Keras logs a loss under several replicas.
from keras.src.losses.loss import unscale_loss_for_distribution

from keras_notes._checks import check_between, check_non_negative, check_same_shape, differ, received
from keras_notes.losses import DistillationLoss

__all__ = ["Distiller"]


@keras.saving.register_keras_serializable(package="keras_notes")
class Distiller(keras.Model):
    """Trains a student on labels and on a frozen teacher at once.

        loss = w * student_loss(y, student(x)) + (1 - w) * sum_i w_i * distillation_loss_i(teacher(x), student(x)) + r

    with w the `student_loss_weight` and r the student's regularizers and `add_loss` terms, counted once and in full.

    It takes the place of `keras.distillation.Distiller` for models with one output: same constructor, same `compile`,
    same names in the logs (`loss`, `student_loss`, `distillation_loss`, `total_loss`). Features of layers are not
    matched so far. Only `compute_loss` is overridden, so `fit`, `evaluate`, gradient accumulation, mixed precision and
    compilation are those of the Keras backend in use. Sample weights, class weights and Keras masks reach every term.
    The teacher runs with `training=False` and is never updated; `evaluate` runs the student once, with
    `training=False`.

    Samples without a label take part through the teacher alone: give them the label -1 and use a student loss with
    `ignore_class=-1`.

    Args:
        teacher: A built `keras.Model` with the outputs that `distillation_losses` expect (logits for ours). It is
            frozen: its `trainable` becomes False.
        student: The `keras.Model` to train. After training it is `distiller.student`, unwrapped.
        distillation_losses: A Keras loss or a list of them, called as `loss(teacher_output, student_output,
            sample_weight)`. Objects of `keras.distillation` that compare outputs are taken too; they have no place
            for sample weights, so fitting with weights is then an error. Defaults to `DistillationLoss()`.
        distillation_loss_weights: One weight >= 0 for each of them. Defaults to 1.
        student_loss_weight: w in [0, 1]. At 0 no labels are needed.
        name: Name of the model.

    Raises:
        TypeError: If teacher or student is not a `keras.Model`, or a distillation loss is not a loss object.
        ValueError: If a weight is out of its range, or teacher and student differ in the shape of their one output.

    Example:
        >>> import keras, numpy as np
        >>> x, y = np.random.rand(32, 4).astype("float32"), np.random.randint(0, 3, 32)
        >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> distiller = Distiller(teacher, student, DistillationLoss(temperature=2.0), student_loss_weight=0.1)
        >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = distiller.fit(x, y, verbose=0)
        >>> sorted(history.history)
        ['distillation_loss', 'loss', 'student_loss', 'total_loss']

    References:
        Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, section 2
        (https://arxiv.org/abs/1503.02531).
    """

    def __init__(
        self,
        teacher: keras.Model,
        student: keras.Model,
        distillation_losses: Any = None,
        distillation_loss_weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        name: str = "distiller",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        _check_models(teacher, student)
        self.teacher = teacher
        self.student = student
        self.distillation_losses = _as_losses(distillation_losses)
        self.distillation_loss_weights = _as_weights(distillation_loss_weights, len(self.distillation_losses))
        self.student_loss_weight = check_between("student_loss_weight", student_loss_weight, 0.0, 1.0)
        self.teacher.trainable = False
        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        if teacher.built and student.built:
            self.built = True

    def build(self, input_shape) -> None:
        for model in (self.teacher, self.student):
            if not model.built:
                # A symbolic call builds subclassed models too, which `model.build` does not.
                model(keras.tree.map_shape_structure(keras.KerasTensor, input_shape))
        self.built = True

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs: Any) -> None:
        """Configures training; `loss` is the student's, on the labels. See `keras.Model.compile`."""
        if loss is None and self.student_loss_weight > 0:
            raise ValueError(
                f"`loss` must be given unless `student_loss_weight` is 0. "
                f"{received(loss=loss, student_loss_weight=self.student_loss_weight)}"
            )
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def compile_from_config(self, config) -> None:
        """Compiles a reloaded distiller as it was; Keras leaves that to classes with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=None, **kwargs):
        return self.student(inputs, training=training, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y_pred is None:
            y_pred = self(x, training=training)
        # Before the teacher runs: what its layers add to `losses` is no part of the objective.
        regularization = self._regularization()
        student_loss = self._student_loss(x, y, y_pred, sample_weight, training, regularization)
        distillation_loss = self._distillation_loss(x, y_pred, sample_weight)
        weight = self.student_loss_weight
        total_loss = weight * student_loss + (1.0 - weight) * distillation_loss + regularization
        samples = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        for tracker, loss in (
            (self.student_loss_tracker, student_loss),
            (self.distillation_loss_tracker, distillation_loss),
            (self.total_loss_tracker, total_loss),
        ):
            tracker.update_state(unscale_loss_for_distribution(loss), sample_weight=samples)
        return total_loss

    def _regularization(self):
        """What the student's regularizers and `add_loss` terms add, by the rule of `keras.Model` for replicas."""
        total = ops.zeros((), dtype=keras.backend.floatx())
        for loss in self.losses:
            total = total + ops.cast(self._aggregate_additional_loss(loss), total.dtype)
        return total

    def _student_loss(self, x, y, y_pred, sample_weight, training, regularization):
        if self.student_loss_weight == 0:
            return ops.zeros_like(regularization)
        if y is None:
            raise ValueError(
                "`y` must be given unless `student_loss_weight` is 0. Received: y=None. "
                "Mark single samples without a label by -1 and a student loss with `ignore_class=-1`."
            )
        return super().compute_loss(x, y, y_pred, sample_weight, training) - regularization

    def _distillation_loss(self, x, y_pred, sample_weight):
        total = ops.zeros((), dtype=keras.backend.floatx())
        if self.student_loss_weight == 1:
            return total
        teacher_output = self.teacher(x, training=False)
        for loss, weight in zip(self.distillation_losses, self.distillation_loss_weights, strict=True):
            if isinstance(loss, keras.losses.Loss):
                check_same_shape(teacher_output, y_pred, what_true="The teacher's output", what_pred="the student's")
                value = loss(teacher_output, y_pred, sample_weight=sample_weight)
            else:
                value = _keras_distillation(loss, teacher_output, y_pred, sample_weight)
            total = total + weight * ops.cast(value, total.dtype)
        return total

    def get_config(self):
        return {
            **super().get_config(),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "student": keras.saving.serialize_keras_object(self.student),
            "distillation_losses": [keras.saving.serialize_keras_object(loss) for loss in self.distillation_losses],
            "distillation_loss_weights": self.distillation_loss_weights,
            "student_loss_weight": self.student_loss_weight,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("teacher", "student"):
            config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
        config["distillation_losses"] = [
            keras.saving.deserialize_keras_object(loss, custom_objects=custom_objects)
            for loss in config["distillation_losses"]
        ]
        return cls(**config)


def _check_models(teacher, student) -> None:
    for name, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, keras.Model):
            raise TypeError(f"`{name}` must be a keras.Model. {received(**{name: type(model).__name__})}")
    if teacher is student:
        raise ValueError(f"`teacher` and `student` must be two models. Received: {teacher.name!r} for both.")
    outputs = [getattr(model, "outputs", None) or [] for model in (teacher, student)]
    for name, found in zip(("teacher", "student"), outputs, strict=True):
        if len(found) > 1:
            raise ValueError(f"`{name}` must have one output. Received: {len(found)} outputs.")
    if all(outputs):
        # The batch size may differ in what the two models say of it.
        shapes = [tuple(found[0].shape[1:]) for found in outputs]
        if len(shapes[0]) != len(shapes[1]) or differ(*shapes):
            raise ValueError(
                f"`teacher` and `student` must have outputs of the same shape, classes included. "
                f"Received: teacher {shapes[0]}, student {shapes[1]}."
            )


def _keras_distillation(loss, teacher_output, student_output, sample_weight):
    """The value of an object of `keras.distillation`, with the checks of Keras's own Distiller."""
    if sample_weight is not None:
        raise ValueError(
            f"Sample weights and class weights must be None with {type(loss).__name__}, which has no place for them. "
            f"Use `keras_notes.losses.DistillationLoss` instead."
        )
    loss.validate_outputs(teacher_output, student_output)
    value = loss.compute_loss(teacher_output, student_output)
    if len(value.shape) > 0:
        raise ValueError(f"{type(loss).__name__} must return a scalar. Received: shape {tuple(value.shape)}.")
    return value


def _as_losses(losses) -> list:
    if losses is None:
        losses = DistillationLoss()
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    if not losses:
        raise ValueError(f"`distillation_losses` must not be empty. {received(distillation_losses=losses)}")
    for loss in losses:
        if getattr(loss, "teacher_layer_name", None) or getattr(loss, "student_layer_name", None):
            raise TypeError(
                f"`distillation_losses` must compare outputs: features of layers are not matched yet. "
                f"Received: {type(loss).__name__} of the layers {loss.teacher_layer_name!r} and "
                f"{loss.student_layer_name!r}."
            )
        if not isinstance(loss, (keras.losses.Loss, keras.distillation.DistillationLoss)):
            raise TypeError(
                f"`distillation_losses` must hold loss objects, such as `keras_notes.losses.DistillationLoss()`. "
                f"{received(distillation_losses=loss)}"
            )
    return losses


def _as_weights(weights, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    weights = [weights] if isinstance(weights, (int, float)) else list(weights)
    if len(weights) != count:
        raise ValueError(
            f"`distillation_loss_weights` must hold one weight a distillation loss. "
            f"Received: {len(weights)} weights for {count} losses."
        )
    return [check_non_negative("distillation_loss_weights", weight) for weight in weights]
