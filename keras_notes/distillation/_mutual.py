"""Mutual learning: students that train together, each on the labels and on the outputs of the others."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from keras_notes._shared.checks import check_between, check_same_shape, received
from keras_notes._shared.types import Config, Tensor, Tree
from keras_notes.distillation._distillation_model import TwoTermModel
from keras_notes.distillation._start_checks import student_probe
from keras_notes.distillation.objective._form_checks import check_forms, check_label_losses, states_form
from keras_notes.distillation.objective._output_forms import final_activations
from keras_notes.distillation.objective._schedules import deserialize_value
from keras_notes.distillation.objective._weighted_losses import as_teacher_loss, weighted_loss
from keras_notes.losses import DistillationLoss

__all__ = ["MutualDistiller"]


@keras.saving.register_keras_serializable(package="keras_notes")
class MutualDistiller(TwoTermModel):
    """Trains two or more students together, without a teacher.

        loss = sum over students k of
                   w * student_loss(y, s_k) + (1 - w) * mean over j != k of distillation_loss(s_j, s_k)   + r

    with s_k the outputs of student k, w the `student_loss_weight` and r the regularizers of all. Each student takes
    the others as they are at the step: no gradient passes from one student's loss into another student.

    `compile` takes loss and metrics as for one student; in the logs they have each student's name as a prefix
    ("<student>_loss", "<student>_accuracy"). `predict` returns a dictionary of the students' outputs. After training
    each of `distiller.students` is a model of its own.

    Args:
        students: Two or more built `keras.Model`s with one output (logits for the losses of this package), distinct
            names and the same inputs.
        distillation_loss: A Keras loss called as `loss(other_output, output, sample_weight)`. Defaults to
            `DistillationLoss(temperature=1.0)`, that of the paper.
        student_loss_weight: w in [0, 1]. 0.5 weighs labels and peers alike, as the paper does.
        name: Name of the model.
        **kwargs: Further arguments of `keras.Model`, such as `dtype`.

    Raises:
        TypeError: If a student is not a `keras.Model`, or the loss is not a loss object.
        ValueError: If there are fewer than two students, if two have one name, or if their outputs differ in shape.

    Example:
        >>> import keras, numpy as np
        >>> x, y = np.random.rand(32, 4).astype("float32"), np.random.randint(0, 3, 32)
        >>> small, large = (
        ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(n, "relu"), keras.layers.Dense(3)], name=name)
        ...     for name, n in (("small", 4), ("large", 16))
        ... )
        >>> distiller = MutualDistiller([small, large])
        >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
        >>> logs = distiller.fit(x, y, verbose=0).history
        >>> sorted(name for name in logs if name.endswith("accuracy"))
        ['large_accuracy', 'small_accuracy']

    References:
        Zhang et al. 2018, Deep Mutual Learning, section 3, equations 3 to 8 (https://arxiv.org/abs/1706.00384). There
        the students take turns; here all of them step at once.
    """

    def __init__(
        self,
        students: Sequence[keras.Model],
        distillation_loss: keras.losses.Loss | None = None,
        student_loss_weight: float = 0.5,
        *,
        name: str = "mutual_distiller",
        **kwargs: Tree,
    ) -> None:
        super().__init__(name=name, **kwargs)
        _check_students(students)
        self.students = list(students)
        self.distillation_loss = DistillationLoss(1.0) if distillation_loss is None else distillation_loss
        if not isinstance(self.distillation_loss, keras.losses.Loss):
            raise TypeError(
                f"`distillation_loss` must be a loss object. {received(distillation_loss=distillation_loss)}"
            )
        self._check_forms()
        self._probes = [student_probe(student) for student in self.students]
        self.student_loss_weight = check_between("student_loss_weight", student_loss_weight, 0.0, 1.0)
        if all(student.built for student in self.students):
            self.built = True

    def _check_forms(self) -> None:
        """Raises ValueError if the loss does not take what the students end in: each is the teacher of the others."""
        loss = as_teacher_loss(self.distillation_loss)
        activations = [final_activations(student) for student in self.students]
        shapes = [
            tuple(tensor.shape) for student in self.students for tensor in getattr(student, "outputs", None) or ()
        ]
        for i, student in enumerate(activations):
            check_forms([loss], activations[:i] + activations[i + 1 :], student, shapes[:1])

    def _check_data(self, x: Tree, validation_data: Tree) -> None:
        """Checks the outputs of students whose graphs do not tell what they end in."""
        loss = as_teacher_loss(self.distillation_loss)
        if not self._uses_teacher or not states_form(loss):
            return
        for probe in self._probes:
            if probe is not None:
                probe.check(x, lambda count: [[loss] * count])

    @property
    def _names(self) -> list[str]:
        return [student.name for student in self.students]

    def build(self, input_shape) -> None:
        for student in self.students:
            if not student.built:
                student(keras.tree.map_shape_structure(keras.KerasTensor, input_shape))
        self.built = True

    def compile(self, optimizer="adam", loss=None, metrics=None, weighted_metrics=None, **kwargs: Tree) -> None:
        """Configures training; `loss` and metrics are those of one student, and each student has its own."""
        self._check_loss(loss)
        for student in self.students:
            check_label_losses(loss, final_activations(student))
        super().compile(
            optimizer=optimizer,
            loss=self._for_each(loss),
            metrics=self._for_each(metrics),
            weighted_metrics=self._for_each(weighted_metrics),
            **kwargs,
        )

    def _for_each(self, losses_or_metrics: Tree) -> Tree:
        """Returns one copy for each student; a reloaded model was compiled with such a dictionary already."""
        if losses_or_metrics is None:
            return None
        if isinstance(losses_or_metrics, dict) and set(losses_or_metrics) == set(self._names):
            return losses_or_metrics
        return {name: keras.tree.map_structure(_copy_metric, losses_or_metrics) for name in self._names}

    def call(self, inputs, training=None):
        return {student.name: student(inputs, training=training) for student in self.students}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y_pred = self(x, training=training) if y_pred is None else y_pred
        added = self._added_losses()
        student_loss = self._student_loss(y, y_pred, sample_weight)
        distillation_loss = self._distillation_loss(y_pred, sample_weight)
        samples = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        return self._total_loss(self.student_loss_weight, student_loss, distillation_loss, added, samples)

    def _student_loss(self, y: Tree, y_pred: Tree, sample_weight: Tree) -> Tensor:
        if not self._uses_labels:
            return ops.zeros((), dtype=keras.backend.floatx())
        self._check_labels(y)
        return self._loss_on_labels(self._repeat(y), y_pred, self._repeat(sample_weight))

    def _distillation_loss(self, y_pred: dict[str, Tensor], sample_weight: Tree) -> Tensor:
        total = ops.zeros((), dtype=keras.backend.floatx())
        if not self._uses_teacher:
            return total
        for learner in self._names:
            for other in self._names:
                if other == learner:
                    continue
                teacher, student = ops.stop_gradient(y_pred[other]), y_pred[learner]
                check_same_shape(teacher, student, what_true=f"The output of {other!r}", what_pred=f"of {learner!r}")
                value = weighted_loss(as_teacher_loss(self.distillation_loss), teacher, student, sample_weight)
                total = total + ops.cast(value, total.dtype) / (len(self.students) - 1)
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, self._repeat(y), y_pred, self._repeat(sample_weight))

    def _repeat(self, value: Tree) -> dict[str, Tree] | None:
        return None if value is None else dict.fromkeys(self._names, value)

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "students": [serialize(student) for student in self.students],
            "distillation_loss": serialize(self.distillation_loss),
            "student_loss_weight": self.student_loss_weight,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: dict[str, type] | None = None) -> MutualDistiller:
        config = {**config, "students": [deserialize_value(student, custom_objects) for student in config["students"]]}
        return cls(**{**config, "distillation_loss": deserialize_value(config["distillation_loss"], custom_objects)})


def _check_students(students: Sequence[keras.Model]) -> None:
    if not isinstance(students, (list, tuple)) or len(students) < 2:
        raise ValueError(f"`students` must be two models or more. {received(students=students)}")
    for student in students:
        if not isinstance(student, keras.Model):
            raise TypeError(f"`students` must hold keras.Model objects. {received(students=type(student).__name__)}")
    names = [student.name for student in students]
    if len(set(names)) < len(names):
        raise ValueError(f"`students` must have names of their own, for the logs. {received(names=names)}")
    outputs = [getattr(student, "outputs", None) or [] for student in students]
    if any(len(tensors) > 1 for tensors in outputs):
        raise ValueError(
            f"`students` must have one output each. Received: {[len(tensors) for tensors in outputs]} outputs."
        )
    shapes = [tensors[0] for tensors in outputs if tensors]
    for other in shapes[1:]:
        check_same_shape(shapes[0], other, what_true="The outputs of the first student", what_pred="of the others")


def _copy_metric(item: Tree) -> Tree:
    """Returns a metric with a state of its own; anything else as it is."""
    if isinstance(item, keras.metrics.Metric):
        return type(item).from_config(item.get_config())
    return item
