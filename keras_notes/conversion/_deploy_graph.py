"""The graph that is converted: inference only, a static batch of 1, named inputs and outputs."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_notes._checks import received
from keras_notes.errors import ConversionError

__all__ = ["SIGNATURE", "DeployGraph", "deploy_graph"]

SIGNATURE = "serving_default"
# Names that Keras makes up change with every model built before; they must not reach the device.
_MADE_UP = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")
_KEPT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BATCH = 256


@dataclass(frozen=True)
class DeployGraph:
    """The trained model with its inputs and outputs in a flat list, and their names.

    `model` shares its layers and weights with the model that was given; only the nesting of inputs and outputs is gone.
    """

    model: keras.Model
    input_specs: dict[str, keras.InputSpec]
    output_names: tuple[str, ...]

    def arrays(self, argument: str, values: Any) -> dict[str, np.ndarray]:
        """Checks samples given by the user, and returns them by input name, each of shape (samples, ...).

        Args:
            argument: What to call them in an error.
            values: An array (one input), or arrays in a list, or by input name.
        """
        by_name = self._by_name(argument, values)
        arrays = {name: self._checked(argument, name, by_name[name]) for name in self.input_specs}
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) != 1 or min(counts.values()) < 1:
            raise ValueError(
                f"`{argument}` must hold the same number of samples, at least 1, for every input. Received: {counts}."
            )
        return arrays

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The trained model's outputs by name, computed by Keras."""
        count = len(next(iter(inputs.values())))
        batches = [
            self._predict_batch([array[i : i + _BATCH] for array in inputs.values()]) for i in range(0, count, _BATCH)
        ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self.output_names}

    def save(self, directory: Path) -> None:
        """Writes a SavedModel with the one signature `SIGNATURE`.

        By `ExportArchive`, because `tf.saved_model.save` leaves the variables of a Keras 3 model uninitialised, which
        converts to a model that returns NaN, without an error.
        """
        archive = keras.export.ExportArchive()
        archive.track(self.model)
        archive.add_endpoint(SIGNATURE, self._serve, input_signature=list(self.input_specs.values()))
        archive.write_out(str(directory), verbose=False)

    def _predict_batch(self, batch: list[np.ndarray]) -> dict[str, np.ndarray]:
        # Not `predict`, which would compile a function for these few samples and warn when it is done often.
        try:
            outputs = self._serve(*batch)
        except Exception as error:  # whatever a layer raises on values that it cannot take
            raise ConversionError(f"The model {self.model.name!r} cannot run its golden samples: {error}") from error
        return {name: keras.ops.convert_to_numpy(output) for name, output in outputs.items()}

    def _serve(self, *inputs):
        outputs = self.model(list(inputs), training=False)
        return dict(zip(self.output_names, keras.tree.flatten(outputs), strict=True))

    def _by_name(self, argument: str, values: Any) -> dict[str, Any]:
        names = list(self.input_specs)
        if isinstance(values, Mapping):
            given = dict(values)
        elif isinstance(values, (list, tuple)):
            given = dict(zip(names, values, strict=True)) if len(values) == len(names) else {}
        else:
            given = {names[0]: values} if len(names) == 1 else {}
        if set(given) != set(names):
            raise ValueError(
                f"`{argument}` must hold one array for each of the inputs {names}: an array, a list, or a dict by "
                f"name. Received: {sorted(given) if isinstance(values, Mapping) else type(values).__name__}."
            )
        return given

    def _checked(self, argument: str, name: str, values: Any) -> np.ndarray:
        spec = self.input_specs[name]
        array = np.asarray(values)
        wanted = tuple(spec.shape[1:])
        if array.dtype.kind not in "fiub":
            raise TypeError(f"`{argument}` must hold numbers. Received: dtype {array.dtype} for the input {name!r}.")
        if array.ndim == 0 or array.shape[1:] != wanted:
            raise ValueError(
                f"`{argument}` must have the shape (samples, {', '.join(map(str, wanted))}) for the input {name!r}. "
                f"Received: shape {array.shape}."
            )
        is_float = "float" in spec.dtype
        with np.errstate(invalid="ignore", over="ignore"):  # what does not fit is an error of ours below
            cast = array.astype(spec.dtype)
        wrong = ~np.isfinite(cast if is_float else array)
        if wrong.any():
            sample = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"`{argument}` must be finite. Received: {int(wrong.sum())} NaN or infinite values for the input "
                f"{name!r}, the first in sample {sample}. Clean or drop those samples."
            )
        if not is_float and not np.array_equal(array, cast):
            raise ValueError(
                f"`{argument}` must hold integers of dtype {spec.dtype} for the input {name!r}. "
                f"Received: dtype {array.dtype} with fractions or values out of its range."
            )
        return cast


def deploy_graph(model: keras.Model) -> DeployGraph:
    """Prepares a built functional or sequential model for conversion.

    Raises:
        ConversionError: If the backend cannot be converted from, or an input has an unknown size.
    """
    if keras.backend.backend() != "tensorflow":
        raise ConversionError(
            f"Conversion must run on the TensorFlow backend. Received: backend {keras.backend.backend()!r}. Save the "
            f"model by `model.save('model.keras')` and convert that file: `KERAS_BACKEND=tensorflow keras-notes "
            f"convert model.keras ...`; weights are the same on every backend."
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. {received(model=type(model).__name__)}")
    if not getattr(model, "inputs", None):
        raise ConversionError(
            f"The model {model.name!r} must be functional or sequential, and built. Received: a subclassed or unbuilt "
            f"model. Wrap it: `inputs = keras.Input(shape); keras.Model(inputs, model(inputs))`."
        )
    names = _input_names(model)
    input_specs = {name: _static_spec(tensor, name) for name, tensor in zip(names, model.inputs, strict=True)}
    flat = keras.Model(inputs=list(model.inputs), outputs=list(model.outputs), name=model.name)
    return DeployGraph(flat, input_specs, _output_names(model))


def _input_names(model: keras.Model) -> list[str]:
    names = [tensor.name for tensor in model.inputs]
    if any(_MADE_UP.fullmatch(name) for name in names):
        return ["input"] if len(names) == 1 else [f"input_{index}" for index in range(len(names))]
    for name in names:
        # TensorFlow makes an argument of a Python function of it.
        if not _KEPT.fullmatch(name) or keyword.iskeyword(name) or name == "self":
            raise ConversionError(
                f"The name of an input must be letters, digits and underscores, the first a letter, and no word of "
                f"Python. Received: {name!r}. "
                f"Rebuild the model with `keras.Input(..., name=...)`."
            )
    return names


def _output_names(model: keras.Model) -> tuple[str, ...]:
    if len(model.outputs) == 1:
        return ("output",)
    names = tuple(model.output_names)
    return names if len(set(names)) == len(names) else tuple(f"output_{index}" for index in range(len(names)))


def _static_spec(tensor, name: str) -> keras.InputSpec:
    if None in tensor.shape[1:]:
        raise ConversionError(
            f"Every size of an input but the batch must be known. Received: shape {tuple(tensor.shape)} for the input "
            f"{name!r}. Rebuild the model with `keras.Input` of a fixed shape."
        )
    return keras.InputSpec(shape=(1, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
