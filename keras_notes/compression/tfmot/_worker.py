"""The program that runs TF-MOT, in a separate process because TF-MOT switches its process to tf_keras.

    python _worker.py JOB

JOB is a directory with `job.json` (the task, the configuration of a functional Keras 3 model, and the training options)
and `arrays.npz` (the weights of the model, the samples, and its outputs for the first of them). The results are
JOB/answer.json, JOB/results.npz and, for a quantized model, JOB/STEP.tflite. If tf_keras or TF-MOT does not take the
model, the answer is {"refusal": reason}; any other failure ends the program. It imports nothing of keras_notes.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

if __name__ == "__main__":  # a process that only imports this module keeps its own Keras
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

Config: TypeAlias = dict[str, Any]
Arrays: TypeAlias = dict[str, Any]
# Arguments that every layer takes, besides those in the signatures of its classes.
_COMMON_ARGUMENTS = {"activity_regularizer", "dtype", "name", "trainable"}
# Arguments without an effect: the weights are copied, and the seeds are those of Keras 3's random generators.
_IGNORED_SUFFIXES = ("_initializer", "seed")
# Entries that tf_keras expects in the configuration of a layer, besides its arguments.
_ADDITIONAL_ENTRIES = {"MultiHeadAttention": dict.fromkeys(("query_shape", "key_shape", "value_shape"))}
_RENAMED_ARGUMENTS = {("LeakyReLU", "negative_slope"): "alpha"}


class RefusedError(Exception):
    """tf_keras or TF-MOT does not take the model."""


@contextlib.contextmanager
def _refuse_on_error(message: str) -> Iterator[None]:
    """Turns any exception into a refusal."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(f"{message}: {type(error).__name__}: {error}") from error


def translate_model(settings: Config, arrays: Arrays) -> tf_keras.Model:
    """Returns the model in tf_keras, with its weights.

    Raises:
        RefusedError: If a layer is not in tf_keras, or the model does not compute there what it computes in Keras 3.
    """
    config = settings["model"]
    tensors: dict[tuple, tf.Tensor] = {}
    layers: dict[str, tf_keras.layers.Layer] = {}
    for entry in config["layers"]:
        if entry["class_name"] == "InputLayer":
            shape, dtype = entry["config"]["batch_shape"][1:], entry["config"]["dtype"]
            tensors[entry["name"], 0, 0] = tf_keras.Input(shape, dtype=dtype, name=entry["name"])
        else:
            layers[entry["name"]] = _make_layer(entry)
    _connect(config["layers"], layers, tensors)
    inputs, outputs = ([tensors[tuple(key)] for key in config[ends]] for ends in ("input_layers", "output_layers"))
    model = tf_keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs[0], name="model")
    _set_weights(layers, settings["weights"], arrays)
    _check_outputs(model, settings, arrays)
    return model


def _make_layer(entry: Config) -> tf_keras.layers.Layer:
    layer_class = getattr(tf_keras.layers, entry["class_name"], None)
    # The built-in layers of Keras 3 have no registered name; a custom class can have the name of a built-in class.
    if layer_class is None or entry.get("registered_name"):
        raise RefusedError(f"Every layer must be one that tf_keras has. Received: {_describe(entry)}.")
    with _refuse_on_error(f"Every layer must be one that tf_keras can make. Received: {_describe(entry)}"):
        return layer_class.from_config(_translate_config(layer_class, entry))


def _translate_config(layer_class: Any, entry: Config) -> Config:
    """Returns the configuration of a layer for tf_keras, in float32."""
    known = _COMMON_ARGUMENTS.union(*(inspect.signature(base.__init__).parameters for base in layer_class.__mro__))
    renamed = {_RENAMED_ARGUMENTS.get((entry["class_name"], key), key): value for key, value in entry["config"].items()}
    arguments = {key: value for key, value in renamed.items() if not key.endswith(_IGNORED_SUFFIXES)}
    config = {key: _without_modules(value) for key, value in arguments.items() if key in known}
    for key, value in arguments.items():
        # Settings that exist only in Keras 3 are off unless they are set.
        if key not in known and value and value != "auto":
            setting = f"{key}={value!r}, {_describe(entry)}"
            raise RefusedError(f"Every setting of a layer must be one that tf_keras has. Received: {setting}.")
    if "dtype" in config:
        config["dtype"] = "float32"
    return {**config, **_ADDITIONAL_ENTRIES.get(entry["class_name"], {})}


def _without_modules(value: Any) -> Any:
    """Returns a value without the module names of Keras 3; a layer within a layer is translated too."""
    if isinstance(value, list):
        return [_without_modules(item) for item in value]
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    layer_class = getattr(tf_keras.layers, value["class_name"], None)
    config = value.get("config")
    is_layer = layer_class and isinstance(config, dict)
    config = _translate_config(layer_class, value) if is_layer else _without_modules(config)
    return {"class_name": value["class_name"], "config": config}


def _connect(entries: list[Config], layers: dict[str, Callable], tensors: dict[tuple, tf.Tensor]) -> None:
    """Calls each layer as the configuration says, as soon as the tensors that it takes exist."""
    waiting = [(entry, number) for entry in entries for number in range(len(entry["inbound_nodes"]))]
    while waiting:
        later = []
        for entry, number in waiting:
            try:
                node = _with_tensors(entry["inbound_nodes"][number], tensors)
            except KeyError:  # the output of a layer that was not called yet
                later.append((entry, number))
                continue
            # The caller of the model passes `training`; Keras 3 writes down its value when the model was made.
            kwargs = {key: value for key, value in node["kwargs"].items() if value is not None and key != "training"}
            with _refuse_on_error(f"Every layer must be one that tf_keras can call. Received: {_describe(entry)}"):
                outputs = tf.nest.flatten(layers[entry["name"]](*node["args"], **kwargs))
            tensors.update({(entry["name"], number, position): tensor for position, tensor in enumerate(outputs)})
        if len(later) == len(waiting):
            raise RefusedError(f"Every layer must be connected to others. Received: {_describe(later[0][0])}.")
        waiting = later


def _with_tensors(value: Any, tensors: dict[tuple, tf.Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__keras_tensor__":
        return tensors[tuple(value["config"]["keras_history"])]
    return {key: _with_tensors(item, tensors) for key, item in value.items()}


def _set_weights(layers: dict[str, tf_keras.layers.Layer], counts: dict[str, int], arrays: Arrays) -> None:
    for name, count in counts.items():
        with _refuse_on_error(f"Every layer must have the same weights in tf_keras. Received: {name!r}"):
            layers[name].set_weights([arrays[f"weight {name} {position}"] for position in range(count)])


def _check_outputs(model: tf_keras.Model, settings: Config, arrays: Arrays) -> None:
    expected = arrays["expected"]
    actual = np.asarray(model(_inputs(model, arrays, slice(len(expected))), training=False))
    difference = np.abs(actual - expected).max() if actual.shape == expected.shape else np.inf
    error = difference / max(1.0, np.abs(expected).max())
    if not error <= settings["tolerance"]:
        raise RefusedError(
            f"Every layer must compute the same in tf_keras. Received: a model with an error of {error:.2g}, relative "
            f"to its largest output. An activation may be defined differently there, as hard_sigmoid is."
        )


def _describe(entry: Config) -> str:
    return f"{entry['config'].get('name')!r} ({entry['class_name']})"


def _inputs(model: tf_keras.Model, arrays: Arrays, rows: Any, prefix: str = "x") -> np.ndarray | list[np.ndarray]:
    inputs = [arrays[f"{prefix} {position}"][rows] for position in range(len(model.inputs))]
    return inputs if len(inputs) > 1 else inputs[0]


class Trainer:
    """Trains a model on batches in the order of the samples, over and over."""

    def __init__(self, model: tf_keras.Model, settings: Config, arrays: Arrays) -> None:
        name = settings["loss"]
        loss = getattr(tf_keras.losses, name.title().replace("_", ""))
        logits = {"from_logits": settings["from_logits"]} if name.endswith("crossentropy") else {}
        model.compile(tf_keras.optimizers.Adam(settings["learning_rate"]), loss(**logits))
        self.model = model
        self.seconds: list[float] = []
        self._size, self._arrays = settings["batch_size"], arrays

    def train(self, steps: int) -> None:
        """Runs further training steps, and measures the time of each."""
        for step in range(len(self.seconds), len(self.seconds) + steps):
            rows = np.arange(step * self._size, (step + 1) * self._size) % len(self._arrays["y"])
            x, y = _inputs(self.model, self._arrays, rows), self._arrays["y"][rows]
            start = time.perf_counter()
            self.model.train_on_batch(x, y)
            self.seconds.append(time.perf_counter() - start)


def _by_tfmot(settings: Config, wrap: Callable, model: tf_keras.Model, *args: Any, **kwargs: Any) -> tf_keras.Model:
    with _refuse_on_error(f"TF-MOT refused {settings['name']!r}"):
        return wrap(model, *args, **kwargs)


def quantize(job: Path, settings: Config, arrays: Arrays) -> tuple[Config, Arrays]:
    """Trains with quantization, and writes a file after each of the steps in `stops`."""
    model = _by_tfmot(settings, tfmot.quantization.keras.quantize_model, translate_model(settings, arrays))
    trainer = Trainer(model, settings, arrays)
    seconds, outputs = {}, {}
    for step in settings["stops"]:
        trainer.train(step - len(trainer.seconds))
        (job / f"{step}.tflite").write_bytes(convert_model(model, settings["edges"]))
        # The first step traces.
        seconds[step] = float(np.median(trainer.seconds[1:])) if step > 1 else float("nan")
        if "golden 0" in arrays:
            outputs[str(step)] = model.predict(_inputs(model, arrays, slice(None), "golden"), verbose=0)
    return {"seconds": seconds}, outputs


def convert_model(model: tf_keras.Model, edges: str) -> bytes:
    """Returns the .tflite file of a quantized model, whose inputs hold one sample."""
    inputs = zip(model.inputs, model.input_names, strict=True)
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name) for tensor, name in inputs]

    @tf.function
    def run(*inputs):
        return model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function(*specs)], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, edges)
    return converter.convert()


def prune(job: Path, settings: Config, arrays: Arrays) -> tuple[Config, Arrays]:
    """Trains with pruning; returns the weights, with zeros."""
    keras = tfmot.sparsity.keras
    groups = settings["m_by_n"] and tuple(settings["m_by_n"])
    model = translate_model(settings, arrays)
    schedule = getattr(keras, settings["schedule"])(**settings["schedule_arguments"])
    pruned = _by_tfmot(settings, keras.prune_low_magnitude, model, schedule, sparsity_m_by_n=groups)
    trainer = Trainer(pruned, settings, arrays)
    callback = keras.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    trainer.train(settings["steps"])
    callback.on_epoch_end(0)
    return {}, _weights(pruned, keras.strip_pruning(pruned), settings, arrays)


def cluster(job: Path, settings: Config, arrays: Arrays) -> tuple[Config, Arrays]:
    """Trains with clustering; returns the weights, which take few values."""
    keras = tfmot.clustering.keras
    scheme = settings["clusters"], keras.CentroidInitialization.KMEANS_PLUS_PLUS
    clustered = _by_tfmot(settings, keras.cluster_weights, translate_model(settings, arrays), *scheme)
    Trainer(clustered, settings, arrays).train(settings["steps"])
    return {}, _weights(clustered, keras.strip_clustering(clustered), settings, arrays)


def _weights(wrapped: tf_keras.Model, stripped: tf_keras.Model, settings: Config, arrays: Arrays) -> Arrays:
    """Returns the weights without TF-MOT's wrappers, with which the model must compute the same."""
    weights = {
        f"weight {name} {position}": weight
        for name in settings["weights"]
        for position, weight in enumerate(stripped.get_layer(name).get_weights())
    }
    inputs = _inputs(wrapped, arrays, slice(len(arrays["expected"])))
    try:
        translate_model(settings, {**arrays, **weights, "expected": np.asarray(wrapped(inputs, training=False))})
    except RefusedError as refusal:
        raise RefusedError(f"TF-MOT did not give back the weights with which it trained. {refusal}") from refusal
    return weights


def time_steps(job: Path, settings: Config, arrays: Arrays) -> tuple[Config, Arrays]:
    """Returns the seconds of a step of the model in floating point and quantized, in rounds that alternate."""
    model = translate_model(settings, arrays)
    quantized = _by_tfmot(settings, tfmot.quantization.keras.quantize_model, model)
    trainers = {"float": Trainer(model, settings, arrays), "quantized": Trainer(quantized, settings, arrays)}
    rounds = settings["rounds"] + 1  # the first of which traces
    for trainer in [*trainers.values()] * rounds:
        trainer.train(settings["steps"])
    seconds = {name: np.reshape(trainer.seconds, (rounds, -1)) for name, trainer in trainers.items()}
    return {"seconds": {name: times.mean(axis=1)[1:].tolist() for name, times in seconds.items()}}, {}


TASKS = {"cluster": cluster, "prune": prune, "quantize": quantize, "time": time_steps}


def main(job: Path) -> None:
    """Runs the task of JOB/job.json."""
    settings = json.loads((job / "job.json").read_text())
    arrays = dict(np.load(job / "arrays.npz"))
    tf_keras.utils.set_random_seed(settings["seed"])
    try:
        answer, results = TASKS[settings["task"]](job, settings, arrays)
    except RefusedError as refusal:
        answer, results = {"refusal": str(refusal)}, {}
    np.savez(job / "results.npz", **results)
    (job / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
