"""The student's side of feature matching: one forward pass, its features, and the connectors behind them."""

from __future__ import annotations

from collections.abc import Callable

import keras

from keras_notes._shared.checks import check_same_shape
from keras_notes._shared.types import Tensor, Tree
from keras_notes.distillation._teacher_record import TeacherRecord, feature_of
from keras_notes.distillation.objective._feature_match import FeatureMatch
from keras_notes.distillation.objective._weighted_losses import as_teacher_loss
from keras_notes.distillation.recording._layer_outputs import find_layer
from keras_notes.distillation.recording._teachers import RecordingModel, run_recorded

__all__ = ["StudentFeatures"]


class StudentFeatures:
    """Runs a student and keeps the outputs of its matched layers until the loss asks for them.

    The features are a hand-over within one step: `run` keeps the tensors of the step that is being traced, and
    `take` passes them on and drops them.

    Args:
        student: The student.
        matches: Pairs of layers to match.

    Attributes:
        connectors: For each match its layer, or None, once `make_connectors` has run. They belong to the model that
            trains them.
    """

    def __init__(self, student: keras.Model, matches: list[FeatureMatch]) -> None:
        self.student, self.matches = student, matches
        self._layers = [
            None if match.student_layer is None else find_layer(student, match.student_layer, role="student")
            for match in matches
        ]
        self.connectors: list[keras.Layer | None] = []
        self._last_run: tuple[list[Tensor], list[Tensor]] = [], []

    def run(self, inputs: Tree, training: bool | None = None, **call_arguments: Tree) -> Tree:
        """Returns the student's outputs; its features are kept for `take`."""
        if not self.matches:
            return self.student(inputs, training=training, **call_arguments)
        outputs, features = run_recorded(
            self.student, self._layers, inputs, training=training, role="student", call_arguments=call_arguments
        )
        self._last_run = keras.tree.flatten(outputs), features
        return outputs

    def take(self, outputs: Tree, inputs: Tree, training: bool | None) -> tuple[Tree, list[Tensor]]:
        """Returns the student's outputs and its features behind their connectors.

        They are those of the run that returned `outputs`; the student runs again only where there was none.
        """
        if outputs is None or (self.matches and not self._is_of_last_run(outputs)):
            outputs = self.run(inputs, training=training)
        if not self.matches:
            return outputs, []
        features = self._last_run[1]
        # Held no longer than needed: these are tensors of one traced step.
        self._last_run = [], []
        pairs = zip(self.connectors, features, strict=True)
        return outputs, [feature if layer is None else layer(feature) for layer, feature in pairs]

    def _is_of_last_run(self, outputs: Tree) -> bool:
        leaves = keras.tree.flatten(outputs)
        last_leaves = self._last_run[0]
        return len(last_leaves) == len(leaves) and all(a is b for a, b in zip(leaves, last_leaves, strict=True))

    def make_connectors(self, inputs: Tree, record_spec: Callable[[Tree], TeacherRecord]) -> list[keras.Layer]:
        """Makes the connectors from the shapes of the features, and returns those that there are.

        Args:
            inputs: KerasTensors of the student's inputs, or None where its graph tells them.
            record_spec: A function that returns the teachers' record of such inputs, as KerasTensors.

        Raises:
            ValueError: If a connector does not bring the student's feature to the teacher's shape.
        """
        if not self.matches or self.connectors:
            return [layer for layer in self.connectors if layer is not None]
        inputs = _inputs_of(self.student) if inputs is None else inputs
        features = RecordingModel(
            lambda x: run_recorded(self.student, self._layers, x, training=False, role="student")[1], [self.student]
        ).compute_output_spec(inputs)
        record = record_spec(inputs)
        for i, (match, feature) in enumerate(zip(self.matches, features, strict=True)):
            teacher = feature_of(record, match.teacher, match.teacher_layer)
            layer = _make_connector(match, teacher, feature, f"connector_{i}")
            if layer is not None:
                connected = layer(keras.KerasTensor(feature.shape, dtype=feature.dtype))
                if as_teacher_loss(match.loss).compares_entries:
                    check_same_shape(
                        teacher, connected, what_true="The teacher's feature", what_pred=f"that of {layer.name!r}"
                    )
            self.connectors.append(layer)
        return [layer for layer in self.connectors if layer is not None]


def _inputs_of(model: keras.Model) -> Tree:
    """KerasTensors of the inputs of a model with a graph, in the structure that it takes."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def _make_connector(
    match: FeatureMatch, teacher: keras.KerasTensor, student: keras.KerasTensor, name: str
) -> keras.Layer | None:
    """Returns the layer between a student's feature and the loss, given the shapes of both; None if none is needed.

    Raises:
        ValueError: If features that are compared entry by entry do not have one shape, and no connector can help.
    """
    if isinstance(match.projection, keras.Layer):
        return match.projection
    loss = as_teacher_loss(match.loss)
    if not loss.compares_entries:
        return None
    axis, rank = loss.axis, len(student.shape)
    if len(teacher.shape) == rank and match.projection == "auto" and teacher.shape[axis] != student.shape[axis]:
        positions = [tuple(n for i, n in enumerate(x.shape) if i != axis % rank) for x in (teacher, student)]
        if positions[0][1:] == positions[1][1:] and None not in (teacher.shape[axis], student.shape[axis]):
            return _dense_along(axis % rank, rank, teacher.shape[axis], name)
    try:
        check_same_shape(
            teacher,
            student,
            what_true=f"The teacher's {match.teacher_layer!r}",
            what_pred=f"the student's {match.student_layer!r}",
        )
    except ValueError as error:
        raise ValueError(
            f"{error} `projection='auto'` changes the width alone: give `projection` a layer that brings the student's "
            f"feature to the teacher's shape, such as a strided convolution."
        ) from error
    return None


def _dense_along(axis: int, rank: int, width: int, name: str) -> keras.Layer:
    """A dense layer on one axis of a tensor of a known rank."""
    if axis == rank - 1:
        return keras.layers.Dense(width, name=name)
    # Permute counts its axes from 1, without that of the batch.
    order = [i for i in range(1, rank) if i != axis] + [axis]
    back = [order.index(i) + 1 for i in range(1, rank)]
    layers = [keras.layers.Permute(order), keras.layers.Dense(width), keras.layers.Permute(back)]
    return keras.Sequential(layers, name=name)
