"""The graph that is converted: inference only, named inputs and outputs, states in the open."""

from __future__ import annotations

import contextlib
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_notes._shared.checks import received
from keras_notes._shared.layer_patching import patch_call
from keras_notes._shared.samples import check_samples
from keras_notes.compression import CompressedModel
from keras_notes.conversion.graph._layer_lowerings import in_full_precision, lowered
from keras_notes.conversion.graph._recurrent_lowerings import recurrent_layers
from keras_notes.conversion.passes._fake_quant import mark
from keras_notes.errors import ConversionError

__all__ = ["SIGNATURE", "DeployGraph", "State", "deploy_graph", "save_graphs"]

SIGNATURE = "serving_default"
# Names that Keras makes up change with every model built before; they must not reach the device.
_MADE_UP = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")
_KEPT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BATCH = 256


@dataclass(frozen=True)
class State:
    """What a recurrent layer with stateful=True remembers: on the device an input, and an output with its next."""

    variable: keras.Variable
    input: str
    output: str


@dataclass(frozen=True)
class DeployGraph:
    """A trained model with its inputs and outputs in a flat list, and their names.

    `model` shares its layers and weights with the model that was given; only the nesting of inputs and outputs is gone.
    """

    signature: str
    model: keras.Model
    input_specs: dict[str, keras.InputSpec]
    output_names: tuple[str, ...]
    states: tuple[State, ...]

    @property
    def state_specs(self) -> dict[str, keras.InputSpec]:
        """The inputs that take the states."""
        return {
            state.input: keras.InputSpec(
                shape=tuple(state.variable.shape), dtype=state.variable.dtype, name=state.input
            )
            for state in self.states
        }

    def arrays(self, argument: str, values: Any) -> dict[str, np.ndarray]:
        """Checks samples given by the user, and returns them by input name, each of shape (samples, ...)."""
        return check_samples(argument, values, self.input_specs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the deploy graph is fed, states included, and what the trained model gives for it, computed by Keras.

        With states the samples are the steps of one sequence, which starts from zeros.
        """
        count = len(next(iter(inputs.values())))
        size = 1 if self.states else next(iter(self.model.inputs)).shape[0] or _BATCH
        fed, got = [], []
        state = {name: np.zeros(spec.shape, spec.dtype) for name, spec in self.state_specs.items()}
        for start in range(0, count, size):
            batch = {name: array[start : start + size] for name, array in inputs.items()} | state
            outputs = self._run_batch(batch)
            state = {state.input: outputs[state.output] for state in self.states}
            fed.append(batch)
            got.append(outputs)
        return _joined(fed), _joined(got)

    def serve(self, *inputs) -> dict[str, Any]:
        """The outputs by name, for the inputs in order, the states last."""
        own, states = inputs[: len(self.input_specs)], inputs[len(self.input_specs) :]
        if not self.states:
            return self._named(self.model(list(own), training=False))
        variables = [state.variable for state in self.states]
        with keras.StatelessScope(state_mapping=list(zip(variables, states, strict=True))) as scope:
            outputs = self._named(self.model(list(own), training=False))
        after = {state.output: scope.get_current_value(state.variable) for state in self.states}
        return {**outputs, **after}

    def _named(self, outputs) -> dict[str, Any]:
        return dict(zip(self.output_names, keras.tree.flatten(outputs), strict=True))

    def _run_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Not `predict`, which would compile a function for these few samples and warn when it is done often.
        try:
            with in_full_precision(self.model._flatten_layers()):
                outputs = self.serve(*(keras.ops.convert_to_tensor(array) for array in batch.values()))
        except Exception as error:  # whatever a layer raises on values that it cannot take
            raise ConversionError(f"The model {self.model.name!r} cannot run its golden samples: {error}") from error
        return {name: keras.ops.convert_to_numpy(output) for name, output in outputs.items()}


def _joined(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def save_graphs(
    graphs: tuple[DeployGraph, ...],
    directory: Path,
    *,
    batch_size: int | None,
    integers: bool,
    recurrent: Mapping[str, Mapping[str, str]],
) -> None:
    """Writes a SavedModel with one signature a graph. On the TensorFlow backend only.

    By `ExportArchive`, because `tf.saved_model.save` leaves the variables of a Keras 3 model uninitialised, which
    converts to a model that returns NaN, without an error.

    Args:
        graphs: The deploy graphs.
        directory: The directory of the SavedModel.
        batch_size: 1, or None for any.
        integers: Whether the graphs are to compute in integers.
        recurrent: The forms of the recurrent layers, by signature and the path "outer/inner" of the layer.
    """
    archive = keras.export.ExportArchive()
    layers = {id(layer): layer for graph in graphs for layer in graph.model._flatten_layers()}.values()
    forms = {
        id(layer): recurrent[graph.signature]["/".join(path)]
        for graph in graphs
        for path, layer in recurrent_layers(graph.model).items()
        if "/".join(path) in recurrent[graph.signature]
    }
    with in_full_precision(layers), lowered(layers, integers=integers, recurrent=forms), _deployed(layers):
        for graph in graphs:
            archive.track(graph.model)
            specs = [
                keras.InputSpec(shape=(batch_size, *spec.shape[1:]), dtype=spec.dtype, name=name)
                for name, spec in graph.input_specs.items()
            ]
            archive.add_endpoint(graph.signature, graph.serve, input_signature=specs + list(graph.state_specs.values()))
        archive.write_out(str(directory), verbose=False)


@contextlib.contextmanager
def _deployed(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Lets quantization-aware models compute their deploy graph, with a mark for the quantizer at each point."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if isinstance(layer, CompressedModel) and layer.scheme is not None:
                stack.enter_context(patch_call(layer, layer.deployed(mark)))
        yield


def deploy_graph(
    model: keras.Model, signature: str = SIGNATURE, example: Any = None, output_names: tuple[str, ...] | None = None
) -> DeployGraph:
    """Prepares a model for conversion.

    Args:
        model: A built functional or sequential model; or a subclassed one, if there is an example.
        signature: The name of its entry point.
        example: Samples, from which the inputs of a subclassed model are known: an array, or a list or dict of arrays.
        output_names: Names for its outputs. Defaults to "output" for one, and to the model's own for several.

    Raises:
        ConversionError: If an input has an unknown size, or nothing says what the inputs are.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. {received(model=type(model).__name__)}")
    if not getattr(model, "inputs", None):
        model, names = _functional(model, example)
        output_names = output_names or names
    inputs = zip(_input_names(model), model.inputs, strict=True)
    input_specs = {name: _static_spec(tensor, name) for name, tensor in inputs}
    flat = keras.Model(inputs=list(model.inputs), outputs=list(model.outputs), name=model.name)
    return DeployGraph(signature, flat, input_specs, output_names or _output_names(model), tuple(_states(flat)))


def _functional(model: keras.Model, example: Any) -> tuple[keras.Model, tuple[str, ...] | None]:
    """A functional model around a subclassed one, whose inputs are like the example; and the names of its outputs."""
    if example is None:
        raise ConversionError(
            f"The inputs of the model {model.name!r} must be known. Received: a subclassed or unbuilt model. Give "
            f"`calibration` or `golden` samples, or wrap it: `inputs = keras.Input(shape); keras.Model(inputs, "
            f"model(inputs))`."
        )
    if isinstance(example, (list, tuple)):
        inputs: Any = [_input_like(values, None) for values in example]
    elif isinstance(example, Mapping):
        inputs = {name: _input_like(values, name) for name, values in example.items()}
    else:
        inputs = _input_like(example, None)
    try:
        outputs = model(inputs, training=False)
    except Exception as error:  # whatever the layers raise on inputs that they cannot take
        raise ConversionError(f"The model {model.name!r} cannot be called with such samples: {error}") from error
    names = tuple(outputs) if isinstance(outputs, Mapping) and len(outputs) > 1 else None
    if names is not None:  # in the order in which a dictionary is flattened
        names = tuple(sorted(names))
    return keras.Model(inputs, outputs, name=model.name), names


def _input_like(values: Any, name: str | None):
    array = np.asarray(values)
    dtype = "float32" if array.dtype.kind == "f" else array.dtype.name
    return keras.Input(array.shape[1:], dtype="int32" if dtype == "int64" else dtype, name=name)


def _states(model: keras.Model) -> Iterator[State]:
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            for index, variable in enumerate(keras.tree.flatten(layer.states)):
                if variable.shape[0] != 1:
                    raise ConversionError(
                        f"A layer with states must have the batch size 1. Received: {variable.shape[0]} for "
                        f"{layer.name!r}. Rebuild the model with `keras.Input(batch_shape=(1, ...))`; the weights fit."
                    )
                name = re.sub(r"\W", "_", f"{layer.name}_state_{index}")
                yield State(variable, name, f"{name}_next")


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
