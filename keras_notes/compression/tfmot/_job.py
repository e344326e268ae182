"""The job directory through which a Keras 3 model goes to TF-MOT's process, and its results come back."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import tree

from keras_notes._shared.checks import one_line, received
from keras_notes._shared.keras_internals import functional_of
from keras_notes._shared.samples import check_samples
from keras_notes._shared.types import ArrayLike, Json, Tensor, Tree
from keras_notes._shared.worker_program import run_program
from keras_notes.compression._copies import copy_model
from keras_notes.compression.tfmot._training_options import TrainingOptions

__all__ = ["TfmotJob"]

_NEEDED = ("tensorflow_model_optimization", "tf_keras")
_PROGRAM = Path(__file__).with_name("_worker.py")
# A model must compute the same in tf_keras for its first samples; the error is relative to its largest output.
_SAMPLES_COMPARED = 8
_TOLERANCE = 1e-4
_HALF_PRECISION_TOLERANCE = 3e-2  # for a model in float16 or bfloat16, which computes in float32 in tf_keras
_ELSEWHERE = "`keras_notes.compression` itself takes more layers."


class TfmotJob:
    """A directory in which TF-MOT's process works on a model; a context manager, which removes it.

    Args:
        model: Functional or sequential model.
        x: Samples of its inputs.
        y: Labels or values of the samples.

    Attributes:
        directory: Path of the directory.

    Raises:
        TypeError: If the model is not a Keras model, or samples or labels are not numbers.
        ValueError: If the model cannot be translated to tf_keras, or samples or labels do not fit it.
    """

    def __init__(self, model: keras.Model, x: Tree, y: ArrayLike) -> None:
        self._copy = copy_model(model)
        self._network = _as_functional(self._copy)
        self._config = self._network.get_config()
        names = [name for name, _, _ in self._config["input_layers"]]
        specs = [keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype) for tensor in self._network.inputs]
        self._specs = dict(zip(names, specs, strict=True))
        self._arrays: dict[str, np.ndarray] = {}
        self.add_samples("x", x)
        self._arrays["y"] = _check_labels(y, len(self._arrays["x 0"]))
        self._directory = tempfile.TemporaryDirectory(prefix="keras_notes_")
        self.directory = Path(self._directory.name)

    def __enter__(self) -> TfmotJob:
        return self

    def __exit__(self, *error: object) -> None:
        self._directory.cleanup()

    def add_samples(self, argument: str, values: Tree) -> None:
        """Adds inputs of the model, under the name of an argument."""
        samples = check_samples(argument, values, self._specs)
        self._arrays.update({f"{argument} {position}": array for position, array in enumerate(samples.values())})

    def run(
        self, task: str, options: TrainingOptions, **settings: Json
    ) -> tuple[dict[str, Json], dict[str, np.ndarray]]:
        """Runs a task; returns its answer and its arrays.

        Args:
            task: Name of the task.
            options: Options of the training.
            **settings: Further settings of the task.

        Raises:
            ImportError: If TF-MOT is not installed.
            ValueError: If tf_keras or TF-MOT does not take the model.
            RuntimeError: If the process fails.
        """
        _check_installed()
        has_halves = any(layer.compute_dtype in ("float16", "bfloat16") for layer in self._network.layers)
        description = {
            "task": task,
            "name": self._copy.name,
            "model": self._config,
            "weights": {layer.name: len(layer.weights) for layer in self._network.layers if layer.weights},
            "tolerance": _HALF_PRECISION_TOLERANCE if has_halves else _TOLERANCE,
            **settings,
            **options.to_settings(),
        }
        (self.directory / "job.json").write_text(json.dumps(description, default=_to_json))
        arrays: dict[str, Tensor] = {"expected": self._outputs(), **self._arrays, **self._weights()}
        np.savez(self.directory / "arrays.npz", **arrays)
        _run(self.directory, f"TF-MOT failed to {task} {self._copy.name!r}")
        answer = json.loads((self.directory / "answer.json").read_text())
        if "refusal" in answer:
            raise ValueError(f"{one_line(answer['refusal'])} {_ELSEWHERE}")
        with np.load(self.directory / "results.npz") as archive:
            return answer, dict(archive)

    def model_with(self, arrays: dict[str, np.ndarray]) -> keras.Model:
        """Returns the copy of the model that was sent, with the weights that came back."""
        for layer in self._network.layers:
            layer.set_weights([arrays[_weight_key(layer, position)] for position in range(len(layer.weights))])
        return self._copy

    def _weights(self) -> dict[str, np.ndarray]:
        return {
            _weight_key(layer, position): _to_float32(weights)
            for layer in self._network.layers
            for position, weights in enumerate(layer.get_weights())
        }

    def _outputs(self) -> np.ndarray:
        """Returns the outputs of the model for the first samples."""
        inputs = [self._arrays[f"x {position}"][:_SAMPLES_COMPARED] for position in range(len(self._specs))]
        (outputs,) = tree.flatten(self._network(inputs, training=False))
        return _to_float32(keras.ops.convert_to_numpy(outputs))


def _weight_key(layer: keras.Layer, position: int) -> str:
    return f"weight {layer.name} {position}"


def _to_float32(array: np.ndarray) -> np.ndarray:
    """Converts an array to float32, the only floating-point type in tf_keras; integers stay."""
    return array if array.dtype.kind in "iub" else np.asarray(array, "float32")


def _to_json(value: object) -> Json:
    """Returns numbers of NumPy as numbers, and anything else that JSON cannot represent as its text."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"TF-MOT must be installed, with tf_keras. Received: no {' and no '.join(missing)}. "
            f"Run: pip install 'keras_notes[tfmot]'"
        )


def _as_functional(model: keras.Model) -> keras.Model:
    """Returns the model as a functional one that shares its layers.

    Raises:
        ValueError: If it is not made of connected layers only, from known inputs to one output.
    """
    if functional_of(model) is None:
        raise ValueError(
            f"`model` must be functional, or sequential and built: TF-MOT takes no others. Received: {model.name!r} "
            f"({type(model).__name__}). {_ELSEWHERE}"
        )
    network = keras.Model(model.inputs, model.outputs)
    for operation in network.operations:
        if isinstance(operation, keras.Model) or not isinstance(operation, keras.Layer):
            raise ValueError(
                f"`model` must be made of layers only, without models and operations of `keras.ops` in it, for TF-MOT. "
                f"Received: {operation.name!r} ({type(operation).__name__}). {_ELSEWHERE}"
            )
    for tensor in network.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"`model` must have inputs of known shapes, except for the batch. Received: {tensor.shape}. Give "
                f"`keras.Input` the shape that the device will get."
            )
    if len(network.outputs) != 1:
        raise ValueError(f"`model` must have one output, which is trained. Received: {len(network.outputs)} outputs.")
    return network


def _check_labels(y: ArrayLike, count: int) -> np.ndarray:
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
    # TF-MOT uses deprecated functions, which must not fill the reason of a failure.
    reason = run_program(_PROGRAM, directory, {"PYTHONWARNINGS": "ignore", "TF_USE_LEGACY_KERAS": "1"})
    if reason is not None:
        raise RuntimeError(f"{failure}: {reason}")
