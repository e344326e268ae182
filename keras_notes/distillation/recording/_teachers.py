"""One or several frozen teachers: what they say of a batch, in one forward pass each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_non_negative, received
from keras_notes.distillation.recording._layer_outputs import find_layer, recording, single_output
from keras_notes.losses._teacher_targets import teacher_logits_from

__all__ = [
    "RecordingModel",
    "Teachers",
    "best_outputs",
    "check_model",
    "feature_key",
    "feature_of",
    "models_of",
    "run_recorded",
    "teacher_shares",
]


def check_model(name: str, model) -> None:
    """Raises TypeError unless an argument is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{name}` must be a keras.Model. {received(**{name: type(model).__name__})}")


def models_of(teacher) -> list[keras.Model]:
    """The models of a teacher argument, one or several.

    Raises:
        TypeError: If it holds something else.
        ValueError: If it holds none.
    """
    models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    if not models:
        raise ValueError(f"`teacher` must be a model, a list of them with at least one. {received(teacher=teacher)}")
    for model in models:
        check_model("teacher", model)
    return models


def run_recorded(model, layers: list, inputs, *, training: bool, role: str, **call_arguments):
    """The outputs of a model and what the given layers returned (None stands for the output itself)."""
    taps = [layer for layer in layers if layer is not None]
    with recording(taps) as calls:
        outputs = model(inputs, training=training, **call_arguments)
    recorded = iter(calls)
    features = [
        single_output([outputs] if layer is None else next(recorded), layer or model, role=role) for layer in layers
    ]
    return outputs, features


def feature_key(teacher: int, layer: str | Callable | None) -> str:
    """The name under which a teacher's feature is kept in a record."""
    if layer is None or isinstance(layer, str):
        return f"{teacher}:{layer}"
    name = getattr(layer, "__qualname__", "<")
    # What has no name of its own is known in this process only, which is enough without a cache.
    return f"{teacher}:function {id(layer)}" if "<" in name else f"{teacher}:{layer.__module__}.{name}"


def feature_of(record: dict, teacher: int, layer: str | Callable | None):
    """A teacher's feature, or its output for None, in a record.

    Raises:
        ValueError: If the record, which a cache gave, does not hold it.
    """
    if layer is None:
        return record["outputs"][teacher][0]
    key, features = feature_key(teacher, layer), record.get("features", {})
    if key not in features:
        raise ValueError(
            f"A cache must hold the teacher's features that are matched. Received: a cache of {sorted(features)} "
            f"without {key!r}. Build it with `features=[{layer!r}]`."
        )
    return features[key]


class Teachers:
    """Frozen models that see one batch.

    Args:
        models: One model or several.
        preprocess: A function or layer that makes the teachers' inputs from the student's, or None.
        features: For each feature to record: (place of the teacher, layer).

    Raises:
        ValueError: If a layer or a teacher does not exist.
    """

    def __init__(self, models: Sequence[keras.Model], preprocess=None, features: Sequence[tuple] = ()) -> None:
        self.models = list(models)
        self.preprocess = preprocess
        self._layers: list[dict] = [{} for _ in self.models]
        for place, where in features:
            if not 0 <= place < len(self.models):
                raise ValueError(
                    f"`teacher` must be the place of a teacher, in [0, {len(self.models)}). {received(teacher=place)}"
                )
            layer = None if where is None else find_layer(self.models[place], where, role="teacher")
            self._layers[place][feature_key(place, where)] = layer

    @property
    def feature_keys(self) -> list[str]:
        """The features that are recorded."""
        return [key for layers in self._layers for key in layers]

    def build(self, inputs) -> None:
        """Builds the models that are not built, from KerasTensors of the student's inputs."""
        unbuilt = [model for model in self.models if not model.built]
        if unbuilt and self.preprocess is not None:
            inputs = self.preprocess(inputs)
        for model in unbuilt:
            model(inputs)

    def record(self, inputs) -> dict:
        """What the teachers say: {"outputs": a tuple of leaves for each teacher, "features": by their keys}."""
        if self.preprocess is not None:
            inputs = self.preprocess(inputs)
        outputs: list[tuple] = []
        features: dict[str, Any] = {}
        for model, layers in zip(self.models, self._layers, strict=True):
            answer, found = run_recorded(model, list(layers.values()), inputs, training=False, role="teacher")
            # No gradient reaches a teacher, whatever a loss of the user's does.
            outputs.append(tuple(ops.stop_gradient(leaf) for leaf in keras.tree.flatten(answer)))
            features.update(zip(layers, map(ops.stop_gradient, found), strict=True))
        return {"outputs": tuple(outputs), "features": features}


class RecordingModel(keras.Model):
    """A function of a batch that holds models, with `predict_on_batch` and `compute_output_spec` of Keras."""

    def __init__(self, function: Callable, models: Sequence[keras.Model] = ()) -> None:
        super().__init__()
        self.function = function
        self.held = list(models)

    def call(self, inputs):
        return self.function(inputs)


def teacher_shares(teacher_weights, count: int) -> list[float] | str:
    """The share of each teacher in the mean, summing to 1; or "best" as it is."""
    if isinstance(teacher_weights, str):
        if teacher_weights != "best":
            raise ValueError(
                f'`teacher_weights` must be a list of numbers or "best". {received(teacher_weights=teacher_weights)}'
            )
        return teacher_weights
    if not isinstance(teacher_weights, (Sequence, np.ndarray, type(None))):
        raise TypeError(
            f'`teacher_weights` must be a list of numbers or "best". {received(teacher_weights=teacher_weights)}'
        )
    weights = [1.0] * count if teacher_weights is None else list(teacher_weights)
    weights = [check_non_negative("teacher_weights", weight) for weight in weights]
    if len(weights) != count or sum(weights) == 0:
        raise ValueError(
            f"`teacher_weights` must hold one weight for each teacher, not all of them 0. "
            f"Received: {weights} for {count} teachers."
        )
    return [weight / sum(weights) for weight in weights]


def best_outputs(outputs: Sequence[Sequence[Any]], losses: list, labels: list, masks: list) -> list:
    """For each sample the outputs of the teacher that is best on it.

    The best has the least cross-entropy with the sample's labels, summed over the outputs; where a sample has no label
    (an id < 0, or zeros only) the least entropy, the surest, counts in its place. Positions that a mask of the student
    leaves out have no say.
    """
    costs = ops.stack([_cost(leaves, losses, labels, masks) for leaves in outputs])
    best = ops.argmin(costs, axis=0)
    chosen = list(outputs[0])
    for place, leaves in enumerate(outputs[1:], start=1):
        for i, leaf in enumerate(leaves):
            is_best = ops.reshape(ops.equal(best, place), (-1, *[1] * (len(leaf.shape) - 1)))
            chosen[i] = ops.where(is_best, leaf, chosen[i])
    return chosen


def _cost(leaves, losses, labels, masks):
    total = 0.0
    for leaf, loss, label, mask in zip(leaves, losses, labels, masks, strict=True):
        exclusive = getattr(loss, "exclusive", True)
        logits = teacher_logits_from(ops.cast(leaf, "float32"), getattr(loss, "teacher", "logits"), exclusive=exclusive)
        cost = (_class_cost if exclusive else _label_cost)(logits, label)
        cost = ops.reshape(cost, (ops.shape(cost)[0], -1))
        weight = ops.ones_like(cost) if mask is None else ops.cast(ops.reshape(mask, ops.shape(cost)), cost.dtype)
        total = total + ops.sum(cost * weight, axis=-1) / ops.maximum(ops.sum(weight, axis=-1), 1.0)
    return total


def _class_cost(logits, label):
    log_probs = ops.log_softmax(logits, axis=-1)
    entropy = -ops.sum(ops.where(ops.isfinite(log_probs), ops.exp(log_probs) * log_probs, 0.0), axis=-1)
    if label is None:
        return entropy
    one_hot, known = _one_hot(label, log_probs)
    return ops.where(known, -ops.sum(ops.where(one_hot > 0, one_hot * log_probs, 0.0), axis=-1), entropy)


def _label_cost(logits, label):
    """The mean over independent labels, each of them known or not (< 0)."""
    probs = ops.sigmoid(logits)
    entropy = ops.softplus(logits) - probs * logits
    if label is None:
        return ops.mean(entropy, axis=-1)
    label = ops.cast(ops.reshape(ops.convert_to_tensor(label), ops.shape(logits)), logits.dtype)
    return ops.mean(ops.where(label >= 0, ops.softplus(logits) - label * logits, entropy), axis=-1)


def _one_hot(label, log_probs):
    label = ops.convert_to_tensor(label)
    if len(label.shape) == len(log_probs.shape) and label.shape[-1] == log_probs.shape[-1]:
        one_hot = ops.cast(label, log_probs.dtype)
        return one_hot, ops.sum(one_hot, axis=-1) > 0
    ids = ops.cast(ops.reshape(label, ops.shape(log_probs)[:-1]), "int32")
    return ops.one_hot(ops.maximum(ids, 0), log_probs.shape[-1], dtype=log_probs.dtype), ids >= 0
