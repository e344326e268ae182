"""The student's side of feature matching: one forward pass, its features, and the connectors behind them."""

from __future__ import annotations

import keras

from keras_notes._shared.checks import check_same_shape
from keras_notes.distillation.objective._feature_match import FeatureMatch, make_connector
from keras_notes.distillation.objective._output_term import compares_entries
from keras_notes.distillation.recording._layer_outputs import find_layer
from keras_notes.distillation.recording._teachers import RecordingModel, Teachers, feature_of, run_recorded

__all__ = ["StudentFeatures"]


class StudentFeatures:
    """Runs a student and keeps what its matched layers returned until the loss asks for it.

    `connectors` holds one layer, or None, for each match, once `make` has run. They belong to whoever trains them.
    """

    def __init__(self, student: keras.Model, matches: list[FeatureMatch]) -> None:
        self.student, self.matches = student, matches
        self._layers = [
            None if match.student_layer is None else find_layer(student, match.student_layer, role="student")
            for match in matches
        ]
        self.connectors: list[keras.Layer | None] = []
        self._last_run: tuple[list, list] = [], []

    def run(self, inputs, **call_arguments):
        """The student's outputs; its features are kept for `taken`."""
        if not self.matches:
            return self.student(inputs, **call_arguments)
        training = call_arguments.pop("training", None)
        outputs, features = run_recorded(
            self.student, self._layers, inputs, training=training, role="student", **call_arguments
        )
        self._last_run = keras.tree.flatten(outputs), features
        return outputs

    def taken(self, outputs, inputs, training) -> tuple:
        """The student's outputs and its features behind their connectors.

        They are those of the run that gave `outputs`; the student runs again only where there was none.
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

    def _is_of_last_run(self, outputs) -> bool:
        leaves = keras.tree.flatten(outputs)
        last = self._last_run[0]
        return len(last) == len(leaves) and all(a is b for a, b in zip(leaves, last, strict=True))

    def make_connectors(self, inputs, teachers) -> list[keras.Layer]:
        """Makes the connectors from the shapes of the features, and returns those that there are.

        Args:
            inputs: KerasTensors of the student's inputs, or None where its graph tells them.
            teachers: What gives the teacher's features: `Teachers`, or a cache.
        """
        if not self.matches or self.connectors:
            return [layer for layer in self.connectors if layer is not None]
        inputs = _inputs_of(self.student) if inputs is None else inputs
        features = RecordingModel(
            lambda x: run_recorded(self.student, self._layers, x, training=False, role="student")[1], [self.student]
        ).compute_output_spec(inputs)
        record = (
            RecordingModel(teachers.record, teachers.models).compute_output_spec(inputs)
            if isinstance(teachers, Teachers)
            else teachers.record_spec
        )
        for i, (match, feature) in enumerate(zip(self.matches, features, strict=True)):
            teacher = feature_of(record, match.teacher, match.teacher_layer)
            layer = make_connector(match, teacher, feature, f"connector_{i}")
            if layer is not None:
                made = layer(keras.KerasTensor(feature.shape, dtype=feature.dtype))
                if compares_entries(match.loss):
                    check_same_shape(
                        teacher, made, what_true="The teacher's feature", what_pred=f"that of {layer.name!r}"
                    )
            self.connectors.append(layer)
        return [layer for layer in self.connectors if layer is not None]


def _inputs_of(model):
    """KerasTensors of the inputs of a model with a graph, in the structure that it takes."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input
