"""A Keras 3 model on its way to TF-MOT's process, and what comes back."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_notes._shared.checks import check_at_least, check_choice, check_positive, one_line, received
from keras_notes._shared.samples import checked_samples
from keras_notes.compression._copies import copy_model

__all__ = ["TfmotJob", "training_settings"]

_LOSSES = (
    "binary_crossentropy",
    "categorical_crossentropy",
    "mean_absolute_error",
    "mean_squared_error",
    "sparse_categorical_crossentropy",
)
_NEEDED = ("tensorflow_model_optimization", "tf_keras")
_PROGRAM = Path(__file__).with_name("_worker.py")
# The end of a Python traceback: "package.SomeError: reason", which may go on.
_EXCEPTION_LINE = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b", re.MULTILINE)
# By the first samples, a model must compute the same in tf_keras; the error is relative to its largest output.
_SAMPLES_COMPARED = 8
_TOLERANCE = 1e-4
_TOLERANCE_OF_HALVES = 3e-2  # of a model in float16 or bfloat16, which computes in float32 there
_ELSEWHERE = "`keras_notes.compression` itself takes more layers."


def training_settings(
    steps: int, least_steps: int, batch_size: int, learning_rate: float, loss: str, from_logits: bool, seed: int
) -> dict[str, Any]:
    """The checked settings of a training, as the process takes them.

    Raises:
        ValueError: If one is out of its range.
        TypeError: If one is no number.
    """
    return {
        "steps": check_at_least("steps", steps, least_steps),
        "batch_size": check_at_least("batch_size", batch_size, 1),
        "learning_rate": check_positive("learning_rate", learning_rate),
        "loss": check_choice("loss", loss, _LOSSES),
        "from_logits": check_choice("from_logits", from_logits, (True, False)),
        "seed": check_at_least("seed", seed, 0),
    }


class TfmotJob:
    """A directory in which TF-MOT's process works on a model; a context manager.

    Args:
        model: A functional or sequential model.
        x: Its samples.
        y: Their labels or values.

    Raises:
        TypeError: If the model is no model, or the samples and labels no numbers.
        ValueError: If they are not what can be given to tf_keras.
    """

    def __init__(self, model: keras.Model, x: Any, y: Any) -> None:
        self._copy = copy_model(model)
        self._network = _network(self._copy)
        self._config = self._network.get_config()
        names = [name for name, _, _ in self._config["input_layers"]]
        specs = [keras.InputSpec(shape=one.shape, dtype=one.dtype) for one in self._network.inputs]
        self._specs = dict(zip(names, specs, strict=True))
        self._arrays: dict[str, np.ndarray] = {}
        self.add_samples("x", x)
        self._arrays["y"] = _labels(y, len(self._arrays["x 0"]))
        self._directory = tempfile.TemporaryDirectory(prefix="keras_notes_")
        self.directory = Path(self._directory.name)

    def __enter__(self) -> TfmotJob:
        return self

    def __exit__(self, *error: object) -> None:
        self._directory.cleanup()

    def add_samples(self, argument: str, values: Any) -> None:
        """Adds inputs of the model, under the name of an argument."""
        given = checked_samples(argument, values, self._specs)
        self._arrays.update({f"{argument} {place}": array for place, array in enumerate(given.values())})

    def run(self, task: str, **settings: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Runs a task; returns its answer and its arrays.

        Raises:
            ImportError: If TF-MOT is not installed.
            ValueError: If tf_keras or TF-MOT does not take the model.
            RuntimeError: If the process fails.
        """
        _check_installed()
        halves = any(layer.compute_dtype in ("float16", "bfloat16") for layer in self._network.layers)
        description = {
            "task": task,
            "name": self._copy.name,
            "model": self._config,
            "weights": {layer.name: len(layer.weights) for layer in self._network.layers if layer.weights},
            "tolerance": _TOLERANCE_OF_HALVES if halves else _TOLERANCE,
            **settings,
        }
        (self.directory / "job.json").write_text(json.dumps(description, default=_plain))
        arrays: dict[str, Any] = {"expected": self._outputs(), **self._arrays, **self._weights()}
        np.savez(self.directory / "arrays.npz", **arrays)
        _run(self.directory, f"TF-MOT failed to {task} {self._copy.name!r}")
        answer = json.loads((self.directory / "answer.json").read_text())
        if "refusal" in answer:
            raise ValueError(f"{one_line(answer['refusal'])} {_ELSEWHERE}")
        with np.load(self.directory / "results.npz") as archive:
            return answer, dict(archive)

    def model_with(self, arrays: dict[str, np.ndarray]) -> keras.Model:
        """The copy of the model that was sent, with the weights that came back."""
        for layer in self._network.layers:
            layer.set_weights([arrays[_key(layer, place)] for place in range(len(layer.weights))])
        return self._copy

    def _weights(self) -> dict[str, np.ndarray]:
        return {
            _key(layer, place): _single(weights)
            for layer in self._network.layers
            for place, weights in enumerate(layer.get_weights())
        }

    def _outputs(self) -> np.ndarray:
        """What the model gives for the first samples."""
        given = [self._arrays[f"x {place}"][:_SAMPLES_COMPARED] for place in range(len(self._specs))]
        (outputs,) = tree.flatten(self._network(given, training=False))
        return _single(keras.ops.convert_to_numpy(outputs))


def _key(layer: keras.Layer, place: int) -> str:
    return f"weight {layer.name} {place}"


def _single(array: Any) -> np.ndarray:
    """In float32, as everything is in tf_keras; integers stay."""
    return array if array.dtype.kind in "iub" else np.asarray(array, "float32")


def _plain(value: Any) -> Any:
    """What JSON has no form for: numbers of numpy as numbers, and what is unknown by its text."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"TF-MOT must be installed, with tf_keras. Received: no {' and no '.join(missing)}. "
            f"Run: pip install 'keras_notes[tfmot]'"
        )


def _network(model: keras.Model) -> keras.Model:
    """The model as a functional one that shares its layers.

    Raises:
        ValueError: If it is not one of layers that are wired to each other, from known inputs to one output.
    """
    if not isinstance(getattr(model, "_functional", None) or model, keras.Function):
        raise ValueError(
            f"`model` must be functional, or sequential and built: TF-MOT takes no others. Received: {model.name!r} "
            f"({type(model).__name__}). {_ELSEWHERE}"
        )
    network = keras.Model(model.inputs, model.outputs)
    for one in network.operations:
        if isinstance(one, keras.Model) or not isinstance(one, keras.Layer):
            raise ValueError(
                f"`model` must be made of layers only, without models and operations of `keras.ops` in it, for TF-MOT. "
                f"Received: {one.name!r} ({type(one).__name__}). {_ELSEWHERE}"
            )
    for one in network.inputs:
        if None in one.shape[1:]:
            raise ValueError(
                f"`model` must have inputs of known shapes, but for the batch. Received: {one.shape}. Give "
                f"`keras.Input` the shape that the device will get."
            )
    if len(network.outputs) != 1:
        raise ValueError(f"`model` must have one output, which is trained. Received: {len(network.outputs)} outputs.")
    return network


def _labels(y: Any, count: int) -> np.ndarray:
    array = np.asarray(y)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`y` must hold numbers. Received: dtype {array.dtype}.")
    if array.ndim == 0 or len(array) != count:
        raise ValueError(f"`y` must hold one label or value for each of the {count} samples. {received(y=array.shape)}")
    return array


def _run(directory: Path, failure: str) -> None:
    """Runs the program on a directory.

    Raises:
        RuntimeError: If it fails, or its process dies.
    """
    result = subprocess.run(
        [sys.executable, str(_PROGRAM), str(directory)],
        capture_output=True,
        text=True,
        errors="replace",
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_BACKEND": "tensorflow",
            "PYTHONWARNINGS": "ignore",  # TF-MOT uses what is deprecated
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_USE_LEGACY_KERAS": "1",
        },
        check=False,
    )
    if result.returncode < 0:
        raise RuntimeError(f"{failure}: its process crashed with {signal.Signals(-result.returncode).name}.")
    if result.returncode > 0:
        starts = [found.start() for found in _EXCEPTION_LINE.finditer(result.stderr)]
        reason = one_line(result.stderr[starts[-1] if starts else 0 :])
        raise RuntimeError(f"{failure}: {reason or f'exit code {result.returncode}, without a word'}")
