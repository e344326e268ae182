"""TF-MOT at work: a program of its own, because importing TF-MOT makes its process one of tf_keras.

    python _worker.py JOB

JOB is a directory with `job.json` (the task, the configuration of a functional Keras 3 model, and how to train it) and
`arrays.npz` (its weights, the samples, and what it gives for the first of them). The results are JOB/answer.json,
JOB/results.npz and, for a quantized model, JOB/STEP.tflite. A model that tf_keras or TF-MOT does not take is an answer,
{"refusal": reason}; everything else that fails ends the program with its traceback. It imports nothing of keras_notes.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # and not in a process that only looks at this module, whose Keras TF-MOT would set
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

Arrays = dict[str, Any]
# What every layer takes, besides the arguments in the signatures of its classes.
_OF_ALL_LAYERS = {"activity_regularizer", "dtype", "name", "trainable"}
# What changes nothing in the weights that are copied, or is a number of Keras 3's own random generators.
_LEFT_OUT = ("_initializer", "seed")
# What tf_keras writes beside the arguments of a layer, and expects there.
_BESIDE = {"MultiHeadAttention": dict.fromkeys(("query_shape", "key_shape", "value_shape"))}
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}


class RefusedError(Exception):
    """The model is one that tf_keras or TF-MOT does not take."""


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Makes a refusal of whatever is raised."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(f"{what}: {type(error).__name__}: {error}") from error


def translated(settings: dict[str, Any], arrays: Arrays) -> tf_keras.Model:
    """The model in tf_keras, with its weights.

    Raises:
        RefusedError: If a layer is not in tf_keras, or the model does not compute there what it computes in Keras 3.
    """
    config = settings["model"]
    tensors: dict[tuple, Any] = {}
    layers: dict[str, Any] = {}
    for entry in config["layers"]:
        if entry["class_name"] == "InputLayer":
            shape, dtype = entry["config"]["batch_shape"][1:], entry["config"]["dtype"]
            tensors[entry["name"], 0, 0] = tf_keras.Input(shape, dtype=dtype, name=entry["name"])
        else:
            layers[entry["name"]] = _layer(entry)
    _connect(config["layers"], layers, tensors)
    inputs, outputs = ([tensors[tuple(one)] for one in config[ends]] for ends in ("input_layers", "output_layers"))
    model = tf_keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs[0], name="model")
    _set_weights(layers, settings["weights"], arrays)
    _check_outputs(model, settings, arrays)
    return model


def _layer(entry: dict[str, Any]) -> Any:
    kind = getattr(tf_keras.layers, entry["class_name"], None)
    # The built-in layers of Keras 3 have no registered name; a class of the user's may have the name of one.
    if kind is None or entry.get("registered_name"):
        raise RefusedError(f"Every layer must be one that tf_keras has. Received: {_called(entry)}.")
    with _refusing(f"Every layer must be one that tf_keras can make. Received: {_called(entry)}"):
        return kind.from_config(_config(kind, entry))


def _config(kind: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a layer as tf_keras takes it, in float32."""
    known = _OF_ALL_LAYERS.union(*(inspect.signature(one.__init__).parameters for one in kind.__mro__))
    given = {_RENAMED.get((entry["class_name"], key), key): value for key, value in entry["config"].items()}
    config = {key: _plain(value) for key, value in given.items() if key in known and not key.endswith(_LEFT_OUT)}
    for key, value in given.items():
        # Settings that came with Keras 3 are off unless they are set.
        if key not in known and not key.endswith(_LEFT_OUT) and value and value != "auto":
            raise RefusedError(
                f"Every setting of a layer must be one that tf_keras has. Received: {key}={value!r}, {_called(entry)}."
            )
    if "dtype" in config:
        config["dtype"] = "float32"
    return {**config, **_BESIDE.get(entry["class_name"], {})}


def _plain(value: Any) -> Any:
    """A value without the module names of Keras 3; a layer within a layer is translated too."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    kind = getattr(tf_keras.layers, value["class_name"], None)
    config = value.get("config")
    config = _config(kind, value) if kind is not None and isinstance(config, dict) else _plain(config)
    return {"class_name": value["class_name"], "config": config}


def _connect(entries: list[dict[str, Any]], layers: dict[str, Any], tensors: dict[tuple, Any]) -> None:
    """Calls each layer as the configuration says, as soon as there is what it takes."""
    waiting = [(entry, number) for entry in entries for number in range(len(entry["inbound_nodes"]))]
    while waiting:
        later = []
        for entry, number in waiting:
            try:
                node = _with_tensors(entry["inbound_nodes"][number], tensors)
            except KeyError:  # of a layer that was not called yet
                later.append((entry, number))
                continue
            # Whether a model trains is said when it runs; Keras 3 writes down how it was when it was made.
            kwargs = {key: one for key, one in node["kwargs"].items() if one is not None and key != "training"}
            with _refusing(f"Every layer must be one that tf_keras can call. Received: {_called(entry)}"):
                outputs = tf.nest.flatten(layers[entry["name"]](*node["args"], **kwargs))
            tensors.update({(entry["name"], number, place): tensor for place, tensor in enumerate(outputs)})
        if len(later) == len(waiting):
            raise RefusedError(f"Every layer must be wired to others of the model. Received: {_called(later[0][0])}.")
        waiting = later


def _with_tensors(value: Any, tensors: dict[tuple, Any]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__keras_tensor__":
        return tensors[tuple(value["config"]["keras_history"])]
    return {key: _with_tensors(one, tensors) for key, one in value.items()}


def _set_weights(layers: dict[str, Any], counts: dict[str, int], arrays: Arrays) -> None:
    for name, count in counts.items():
        with _refusing(f"Every layer must have the same weights in tf_keras. Received: {name!r}"):
            layers[name].set_weights([arrays[f"weight {name} {place}"] for place in range(count)])


def _check_outputs(model: tf_keras.Model, settings: dict[str, Any], arrays: Arrays) -> None:
    expected = arrays["expected"]
    found = np.asarray(model(_inputs(model, arrays, slice(len(expected))), training=False))
    same = found.shape == expected.shape
    error = np.abs(found - expected).max() / max(1.0, np.abs(expected).max()) if same else np.inf
    if not error <= settings["tolerance"]:
        raise RefusedError(
            f"Every layer must compute the same in tf_keras. Received: a model with an error of {error:.2g}, relative "
            f"to its largest output. An activation may be defined differently there, as hard_sigmoid is."
        )


def _called(entry: dict[str, Any]) -> str:
    return f"{entry['config'].get('name')!r} ({entry['class_name']})"


def _inputs(model: tf_keras.Model, arrays: Arrays, rows: Any, prefix: str = "x") -> Any:
    given = [arrays[f"{prefix} {place}"][rows] for place in range(len(model.inputs))]
    return given if len(given) > 1 else given[0]


class Trainer:
    """Trains a model on batches in the order of the samples, over and over."""

    def __init__(self, model: tf_keras.Model, settings: dict[str, Any], arrays: Arrays) -> None:
        name = settings["loss"]
        loss = getattr(tf_keras.losses, name.title().replace("_", ""))
        logits = {"from_logits": settings["from_logits"]} if name.endswith("crossentropy") else {}
        model.compile(tf_keras.optimizers.Adam(settings["learning_rate"]), loss(**logits))
        self.model = model
        self.seconds: list[float] = []
        self._size, self._arrays = settings["batch_size"], arrays

    def train(self, steps: int) -> None:
        """Takes further steps, and the time of each."""
        for step in range(len(self.seconds), len(self.seconds) + steps):
            rows = np.arange(step * self._size, (step + 1) * self._size) % len(self._arrays["y"])
            x, y = _inputs(self.model, self._arrays, rows), self._arrays["y"][rows]
            start = time.perf_counter()
            self.model.train_on_batch(x, y)
            self.seconds.append(time.perf_counter() - start)


def _by_tfmot(settings: dict[str, Any], make: Callable[..., tf_keras.Model], *args: Any, **kwargs: Any) -> Any:
    with _refusing(f"TF-MOT refused {settings['name']!r}"):
        return make(*args, **kwargs)


def quantize(job: Path, settings: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Quantization-aware training, with a file at each of the steps that are asked for."""
    model = _by_tfmot(settings, tfmot.quantization.keras.quantize_model, translated(settings, arrays))
    trainer = Trainer(model, settings, arrays)
    seconds, outputs = {}, {}
    for step in settings["stops"]:
        trainer.train(step - len(trainer.seconds))
        (job / f"{step}.tflite").write_bytes(converted(model, settings["edges"]))
        # The first step traces.
        seconds[step] = float(np.median(trainer.seconds[1:])) if step > 1 else float("nan")
        if "golden 0" in arrays:
            outputs[str(step)] = model.predict(_inputs(model, arrays, slice(None), "golden"), verbose=0)
    return {"seconds": seconds}, outputs


def converted(model: tf_keras.Model, edges: str) -> bytes:
    """The .tflite file of a quantized model, for one sample at once."""
    names = zip(model.inputs, model.input_names, strict=True)
    specs = [tf.TensorSpec((1, *one.shape[1:]), one.dtype, name) for one, name in names]

    @tf.function
    def run(*inputs):
        return model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function(*specs)], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, edges)
    return converter.convert()


def prune(job: Path, settings: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Pruning; the weights, with zeros."""
    keras = tfmot.sparsity.keras
    groups = settings["m_by_n"] and tuple(settings["m_by_n"])
    model = translated(settings, arrays)
    schedule = getattr(keras, settings["schedule"])(**settings["schedule_arguments"])
    pruned = _by_tfmot(settings, keras.prune_low_magnitude, model, schedule, sparsity_m_by_n=groups)
    trainer = Trainer(pruned, settings, arrays)
    callback = keras.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    trainer.train(settings["steps"])
    callback.on_epoch_end(0)
    return {}, _weights(pruned, keras.strip_pruning(pruned), settings, arrays)


def cluster(job: Path, settings: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Clustering; the weights, of few values."""
    keras = tfmot.clustering.keras
    scheme = settings["clusters"], keras.CentroidInitialization.KMEANS_PLUS_PLUS
    clustered = _by_tfmot(settings, keras.cluster_weights, translated(settings, arrays), *scheme)
    Trainer(clustered, settings, arrays).train(settings["steps"])
    return {}, _weights(clustered, keras.strip_clustering(clustered), settings, arrays)


def _weights(wrapped: tf_keras.Model, stripped: tf_keras.Model, settings: dict[str, Any], arrays: Arrays) -> Arrays:
    """The weights behind TF-MOT's wrappers, with which the model computes the same."""
    weights = {
        f"weight {name} {place}": weight
        for name in settings["weights"]
        for place, weight in enumerate(stripped.get_layer(name).get_weights())
    }
    given = _inputs(wrapped, arrays, slice(len(arrays["expected"])))
    try:
        translated(settings, {**arrays, **weights, "expected": np.asarray(wrapped(given, training=False))})
    except RefusedError as refusal:
        raise RefusedError(f"TF-MOT did not give back the weights with which it trained. {refusal}") from refusal
    return weights


def time_steps(job: Path, settings: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """The seconds of a step of the model as it is, and quantized, in rounds that take turns."""
    model = translated(settings, arrays)
    quantized = _by_tfmot(settings, tfmot.quantization.keras.quantize_model, model)
    trainers = {"float": Trainer(model, settings, arrays), "quantized": Trainer(quantized, settings, arrays)}
    rounds = settings["rounds"] + 1  # the first of which traces
    for _ in range(rounds):
        for trainer in trainers.values():
            trainer.train(settings["steps"])
    means = {name: np.reshape(one.seconds, (rounds, -1)).mean(axis=1)[1:] for name, one in trainers.items()}
    return {"seconds": {name: one.tolist() for name, one in means.items()}}, {}


TASKS = {"cluster": cluster, "prune": prune, "quantize": quantize, "time": time_steps}


def main(job: Path) -> None:
    """Does what JOB/job.json says."""
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
