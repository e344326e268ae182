"""Frozen teachers, and the record of their outputs and features in one forward pass each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_notes._shared.checks import received
from keras_notes._shared.types import Tensor, Tree
from keras_notes.distillation._teacher_record import LayerPath, TeacherRecord, feature_key
from keras_notes.distillation.recording._layer_outputs import find_layer, record_calls, single_output

__all__ = ["RecordingModel", "Teachers", "check_model", "models_of", "run_recorded"]


def check_model(name: str, model: object) -> None:
    """Raises TypeError unless an argument is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{name}` must be a keras.Model. {received(**{name: type(model).__name__})}")


def models_of(teacher: keras.Model | Sequence[keras.Model]) -> list[keras.Model]:
    """Returns the models of a teacher argument, one or several.

    Raises:
        TypeError: If it holds something else.
        ValueError: If it holds none.
    """
    models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    if not models:
        raise ValueError(f"`teacher` must be a model, or a list with at least one. {received(teacher=teacher)}")
    for model in models:
        check_model("teacher", model)
    return models


def run_recorded(
    model: keras.Model,
    layers: Sequence[keras.Layer | None],
    inputs: Tree,
    *,
    training: bool | None,
    role: str,
    call_arguments: dict[str, Tree] | None = None,
) -> tuple[Tree, list[Tensor]]:
    """Returns the outputs of a model and what the layers returned (None stands for the output itself)."""
    recorded_layers = [layer for layer in layers if layer is not None]
    with record_calls(recorded_layers) as calls:
        outputs = model(inputs, training=training, **(call_arguments or {}))
    recorded = iter(calls)
    features = [
        single_output([outputs] if layer is None else next(recorded), layer or model, role=role) for layer in layers
    ]
    return outputs, features


class Teachers:
    """Frozen models that see one batch.

    Args:
        models: One model or several.
        preprocess: A function or layer that makes the teachers' inputs from the student's, or None.
        features: For each feature to record: (index of the teacher, layer).

    Raises:
        ValueError: If a layer or a teacher does not exist.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        preprocess: Callable[[Tree], Tree] | None = None,
        features: Sequence[tuple[int, LayerPath]] = (),
    ) -> None:
        self.models = list(models)
        self.preprocess = preprocess
        self._layers: list[dict[str, keras.Layer | None]] = [{} for _ in self.models]
        for index, path in features:
            if not 0 <= index < len(self.models):
                raise ValueError(
                    f"`teacher` must be the index of a teacher, in [0, {len(self.models)}). {received(teacher=index)}"
                )
            layer = None if path is None else find_layer(self.models[index], path, role="teacher")
            self._layers[index][feature_key(index, path)] = layer

    @property
    def feature_keys(self) -> list[str]:
        """The features that are recorded."""
        return [key for layers in self._layers for key in layers]

    def build(self, inputs: Tree) -> None:
        """Builds the models that are not built, from KerasTensors of the student's inputs."""
        unbuilt = [model for model in self.models if not model.built]
        if unbuilt and self.preprocess is not None:
            inputs = self.preprocess(inputs)
        for model in unbuilt:
            model(inputs)

    def record(self, inputs: Tree) -> TeacherRecord:
        """Runs the teachers on a batch of the student's inputs."""
        if self.preprocess is not None:
            inputs = self.preprocess(inputs)
        outputs: list[tuple[Tensor, ...]] = []
        features: dict[str, Tensor] = {}
        for model, layers in zip(self.models, self._layers, strict=True):
            structure, tensors = run_recorded(model, list(layers.values()), inputs, training=False, role="teacher")
            # No gradient reaches a teacher, whatever a loss of the user's does.
            outputs.append(tuple(ops.stop_gradient(leaf) for leaf in keras.tree.flatten(structure)))
            features.update(zip(layers, map(ops.stop_gradient, tensors), strict=True))
        return {"outputs": tuple(outputs), "features": features}

    def record_spec(self, inputs: Tree) -> TeacherRecord:
        """Returns the record of KerasTensors of the student's inputs, itself of KerasTensors."""
        return RecordingModel(self.record, self.models).compute_output_spec(inputs)


class RecordingModel(keras.Model):
    """A function of a batch that holds models, with `predict_on_batch` and `compute_output_spec` of Keras."""

    def __init__(self, function: Callable[[Tree], Tree], models: Sequence[keras.Model] = ()) -> None:
        super().__init__()
        self.function = function
        self.models = list(models)

    def call(self, inputs: Tree) -> Tree:
        return self.function(inputs)
