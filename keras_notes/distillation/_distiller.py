"""The Distiller: an ordinary Keras model whose loss has one more term, the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_notes._shared.checks import check_between, check_positive
from keras_notes._shared.types import Config, Tensor, Tree
from keras_notes.distillation._arguments import (
    DistillationItem,
    Teacher,
    as_features,
    as_losses,
    as_teachers,
    as_weights,
    check_models,
    terms_of,
)
from keras_notes.distillation._distillation_model import TwoTermModel
from keras_notes.distillation._start_checks import student_probe
from keras_notes.distillation._teacher_record import TeacherRecord, inputs_and_record
from keras_notes.distillation._teacher_sources import CachedTeacher, LiveTeachers, TeacherSource
from keras_notes.distillation.cache._teacher_cache import TeacherCache
from keras_notes.distillation.objective._feature_match import FeatureMatch
from keras_notes.distillation.objective._form_checks import check_label_losses, states_form
from keras_notes.distillation.objective._objective import Objective
from keras_notes.distillation.objective._output_forms import final_activations, outputs_of
from keras_notes.distillation.objective._schedules import (
    Number,
    constant_or_schedule,
    deserialize_value,
    is_schedule,
    serialize_value,
    value_at,
)
from keras_notes.distillation.objective._teacher_selection import teacher_shares
from keras_notes.distillation.recording._student_features import StudentFeatures
from keras_notes.losses import TeacherLoss

__all__ = ["Distiller"]


@keras.saving.register_keras_serializable(package="keras_notes")
class Distiller(TwoTermModel):
    """Trains a student on labels and on a frozen teacher at once.

        loss = w * student_loss(y, student(x)) + (1 - w) * sum_i w_i * distillation_loss_i(teacher(x), student(x)) + r

    with w the `student_loss_weight` and r the student's regularizers and `add_loss` terms, counted once and in full.

    It takes the place of `keras.distillation.Distiller`: same constructor, same `compile`, same names in the logs
    (`loss`, `student_loss`, `distillation_loss`, `total_loss`). Only `compute_loss` is overridden, so `fit`,
    `evaluate`, gradient accumulation, mixed precision, compilation and distribution are those of the Keras backend in
    use. Models may have one output or any structure of them, and may be functional, nested or subclassed. Sample
    weights, class weights and Keras masks reach every term. The student runs once a step, whatever is matched; the
    teacher runs with `training=False` and is never updated.

    For samples without a label only the teacher counts: give them the label -1 and use a student loss with
    `ignore_class=-1`. Batches of `TeacherCache.join` bring the teacher's outputs with them, and the teacher does not
    run.

    Args:
        teacher: A built `keras.Model` with the outputs that `distillation_losses` expect (logits for those of this
            package), a list of such models, or a `TeacherCache` if every batch comes from its `join`. Models are
            frozen: their `trainable` becomes False.
        student: The `keras.Model` to train. After training it is `distiller.student`, unwrapped.
        distillation_losses: A Keras loss or a list of them, called as `loss(teacher_output, student_output,
            sample_weight)`. For several outputs one loss serves each of them, or each loss of the list is a dict, list
            or tuple with one loss (or None) an output. Objects of `keras.distillation` are taken too, on logits or
            probabilities as the models give them; one of a class of your own cannot take sample weights, so
            fitting with weights is then an error. Defaults to `DistillationLoss()`; `[]` matches features alone.
        distillation_loss_weights: One weight >= 0 for each of them, or a Keras schedule, or a function of the step
            (batches seen so far). Defaults to 1.
        student_loss_weight: w in [0, 1], or a schedule. At 0 no labels are needed.
        features: `FeatureMatch` objects, whose losses are added to the distillation losses.
        temperature: None, or a schedule (or number) that replaces the temperature of every distillation loss that has
            one.
        preprocess: A layer or function that makes the teacher's inputs from the student's; None if they are the same.
        teacher_weights: For several teachers: their weights in the mean of the losses (for a KL divergence that is
            distilling the mean of their probabilities, up to a constant), or "best" for the outputs of the teacher
            with the least cross-entropy on each sample. Defaults to equal weights.
        name: Name of the model.
        **kwargs: Further arguments of `keras.Model`, such as `dtype`.

    Raises:
        TypeError: If teacher or student is not a `keras.Model`, or a distillation loss is not a loss object.
        ValueError: If a weight is out of its range, if teacher and student differ in inputs or outputs, if a loss
            expects logits and the model ends in a softmax, or the reverse, if a layer does not exist, or if features
            cannot be matched. At the first batch: if the teacher returns NaN, or a model that has no graph gives
            probabilities where a loss expects logits, or the reverse.

    Example:
        >>> import keras, numpy as np
        >>> x, y = np.random.rand(32, 4).astype("float32"), np.random.randint(0, 3, 32)
        >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> distiller = Distiller(teacher, student, student_loss_weight=0.1, temperature=2.0)
        >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = distiller.fit(x, y, verbose=0)
        >>> sorted(history.history)
        ['distillation_loss', 'loss', 'student_loss', 'total_loss']

    References:
        Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, section 2
        (https://arxiv.org/abs/1503.02531). Several teachers: the same paper, section 5.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: keras.Model,
        distillation_losses: DistillationItem | None = None,
        distillation_loss_weights: Sequence[Number] | Number | None = None,
        student_loss_weight: Number = 0.5,
        name: str = "distiller",
        *,
        features: Sequence[FeatureMatch] | FeatureMatch = (),
        temperature: Number | None = None,
        preprocess: Callable[[Tree], Tree] | None = None,
        teacher_weights: Sequence[float] | str | None = None,
        **kwargs: Tree,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.teacher, self.student, self.preprocess = teacher, student, preprocess
        self.features = as_features(features)
        losses = as_losses(distillation_losses, self.features)
        weights = as_weights(distillation_loss_weights, len(losses))
        self.student_loss_weight = constant_or_schedule(
            "student_loss_weight", student_loss_weight, lambda name, value: check_between(name, value, 0.0, 1.0)
        )
        self.temperature = (
            None if temperature is None else constant_or_schedule("temperature", temperature, check_positive)
        )
        models = as_teachers(teacher)
        # Before Keras wraps the lists and dictionaries that become attributes.
        terms = terms_of(losses, weights, self.features, models, student)
        self.distillation_losses, self.distillation_loss_weights = losses, weights
        check_models(models, student, terms, preprocess)
        matches = [term for term, _ in terms if isinstance(term, FeatureMatch)]
        self._teachers = self._teacher_source(models, matches)
        self.teacher_weights = teacher_weights
        self._objective = Objective(terms, teacher_shares(teacher_weights, self._teachers.count), self.temperature)
        # Training on labels alone needs no connectors.
        self._student_features = StudentFeatures(student, matches if self._uses_teacher else [])
        self._student_probe = student_probe(student)
        frozen = [*models, *([preprocess] if isinstance(preprocess, keras.Layer) else [])]
        for model in frozen:
            model.trainable = False
        self._step = self._make_step()
        if getattr(student, "inputs", None) and student.built and all(model.built for model in models):
            self.connectors = self._student_features.make_connectors(None, self._teachers.record_spec)
            self.built = True

    def _teacher_source(self, models: list[keras.Model], matches: list[FeatureMatch]) -> TeacherSource:
        if isinstance(self.teacher, TeacherCache):
            return CachedTeacher(self.teacher)
        return LiveTeachers(models, self.preprocess, [(match.teacher, match.teacher_layer) for match in matches])

    @property
    def output_names(self) -> list[str]:
        """The names of the student's outputs, for losses and metrics by name. Subclassed students have none."""
        return self.student.output_names

    @property
    def teacher_models(self) -> list[keras.Model]:
        """The teachers that are models; none where a cache takes their place."""
        return list(self._teachers.models)

    def _make_step(self) -> keras.Variable | None:
        """Returns a variable of the model that counts batches, for compiled and resumed runs; None if not needed."""
        if not self._objective.schedules and not is_schedule(self.student_loss_weight):
            return None
        arguments = {"initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
        return self.add_weight(name="step", shape=(), dtype="int32", **arguments)

    def build(self, input_shape: Tree) -> None:
        inputs = inputs_and_record(keras.tree.map_shape_structure(keras.KerasTensor, input_shape))[0]
        # A symbolic call builds subclassed models too, which `model.build` does not.
        if not self.student.built:
            self.student(inputs)
        self._teachers.build(inputs)
        self.connectors = self._student_features.make_connectors(inputs, self._teachers.record_spec)
        self.built = True

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs: Tree) -> None:
        """Configures training; `loss` is the student's, on the labels. See `keras.Model.compile`."""
        self._check_loss(loss)
        check_label_losses(loss, final_activations(self.student))
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def _check_data(self, x: Tree, validation_data: Tree) -> None:
        """Checks joined batches, and the teacher's outputs for the first samples of arrays and `SeededBatches`."""
        self._teachers.start_training()
        self._check_cache(x)
        self._check_cache(validation_data)
        if self._uses_teacher:
            activations = final_activations(self.student)
            self._teachers.check_outputs(x, self._losses_by_output, activations)
            if self._student_probe is not None and any(map(states_form, self._objective.output_losses)):
                others = [final_activations(model) for model in self.teacher_models]
                self._student_probe.check(x, self._losses_by_output, others)

    def _losses_by_output(self, count: int) -> list[list[TeacherLoss | None]]:
        return self._objective.losses_by_output(outputs_of(self.student), count)

    def evaluate(self, x=None, *args, **kwargs):
        """Measures the student, and its distillation loss. See `keras.Model.evaluate`."""
        self._check_cache(x)
        return super().evaluate(x, *args, **kwargs)

    def _check_cache(self, data: Tree) -> None:
        """Raises ValueError unless batches of a cache are of this teacher, and in the form that the losses take."""
        cache = getattr(data, "cache", None)
        if isinstance(cache, TeacherCache):
            cache.check_losses(self._objective.output_losses)
            self._teachers.check_cache(cache, is_fitting=self._is_fitting)

    def call(self, inputs: Tree, training: bool | None = None, **kwargs: Tree) -> Tree:
        inputs, _ = inputs_and_record(inputs)
        return self._student_features.run(inputs, training=training, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        inputs, record = inputs_and_record(x)
        y_pred, features = self._student_features.take(y_pred, inputs, training)
        # Before the teacher runs: losses that its layers add do not belong to the objective.
        added = self._added_losses()
        # A copy: some backends change a variable in place.
        step = None if self._step is None else ops.copy(self._step)
        student_loss = self._student_loss(y, y_pred, sample_weight)
        distillation_loss = self._distillation_loss(inputs, record, y, y_pred, features, sample_weight, step)
        weight = value_at(self.student_loss_weight, step)
        if self._step is not None and training:
            self._step.assign_add(1)
        samples = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        return self._total_loss(weight, student_loss, distillation_loss, added, samples)

    def _student_loss(self, y: Tree, y_pred: Tree, sample_weight: Tree) -> Tensor:
        if not self._uses_labels:
            return ops.zeros((), dtype=keras.backend.floatx())
        self._check_labels(y)
        return self._loss_on_labels(y, y_pred, sample_weight)

    def _distillation_loss(
        self,
        inputs: Tree,
        record: TeacherRecord | None,
        y: Tree,
        y_pred: Tree,
        features: list[Tensor],
        sample_weight: Tree,
        step: Tensor | None,
    ) -> Tensor:
        if not self._uses_teacher:
            return ops.zeros((), dtype=keras.backend.floatx())
        record = self._teachers.record(inputs) if record is None else record
        return self._objective.value(record, y, y_pred, features, sample_weight, step)

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        teacher = self.teacher
        return {
            **super().get_config(),
            "teacher": list(map(serialize, teacher)) if isinstance(teacher, (list, tuple)) else serialize(teacher),
            "student": serialize(self.student),
            "distillation_losses": [serialize(loss) for loss in self.distillation_losses],
            "distillation_loss_weights": [serialize_value(weight) for weight in self.distillation_loss_weights],
            "student_loss_weight": serialize_value(self.student_loss_weight),
            "features": [serialize(match) for match in self.features],
            "temperature": serialize_value(self.temperature),
            "preprocess": self.preprocess and serialize(self.preprocess),
            "teacher_weights": self.teacher_weights,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: dict[str, type] | None = None) -> Distiller:
        def restore(value):
            if isinstance(value, list):
                return [restore(item) for item in value]
            return deserialize_value(value, custom_objects)

        return cls(**{name: value if name == "dtype" else restore(value) for name, value in config.items()})
