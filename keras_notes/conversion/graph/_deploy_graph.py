"""The deploy graph of a model: inference only, with named inputs and outputs, states among them."""

from __future__ import annotations

import contextlib
import keyword
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.models.layer_patching import patch_call
from keras_notes._shared.models.layer_patterns import Path as LayerPath
from keras_notes._shared.models.layer_patterns import layers_by_path
from keras_notes._shared.samples import check_samples
from keras_notes._shared.types import ArrayLike, Tensor, Tree
from keras_notes.compression import CompressedModel
from keras_notes.conversion.graph._layer_lowerings import lower_layers, use_full_precision
from keras_notes.conversion.graph._operation_lowerings import lower_operations
from keras_notes.conversion.graph._operator_scopes import name_operators
from keras_notes.conversion.graph._recurrent_lowerings import recurrent_layers
from keras_notes.conversion.graph._unconvertible import check_convertible
from keras_notes.conversion.passes._fake_quant import insert_fake_quant
from keras_notes.errors import ConversionError

__all__ = ["SIGNATURE", "DeployGraph", "GraphRun", "State", "deploy_graph", "save_graphs"]

SIGNATURE = "serving_default"
# Names that Keras generates change with every model built before; they must not reach the device.
_GENERATED_NAME = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")
_VALID_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# The samples of a batch, and their numbers: a batch of images takes a thousand times its own size in a deep network.
_BATCH, _NUMBERS = 256, 2**20


@dataclass(frozen=True)
class State:
    """A state of a recurrent layer with stateful=True: on the device an input, and an output with the next value.

    Attributes:
        variable: The variable of the layer that holds the state.
        input: The name of the input.
        output: The name of the output.
    """

    variable: keras.Variable
    input: str
    output: str


class GraphRun(NamedTuple):
    """The inputs of a deploy graph, states included, and the outputs of the trained model for them.

    Attributes:
        inputs: The inputs by name, each of shape (samples, ...).
        outputs: The outputs by name, each of shape (samples, ...).
    """

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class DeployGraph:
    """A trained model with its inputs and outputs in a flat list, and their names.

    Attributes:
        signature: The name of the entry point.
        model: A model that shares its layers and weights with the trained one, without the nesting of inputs and
            outputs.
        input_specs: The shape and type of each input by name, without the states.
        output_names: The names of the outputs, without the states.
        states: The states.
    """

    signature: str
    model: keras.Model
    input_specs: dict[str, keras.InputSpec]
    output_names: tuple[str, ...]
    states: tuple[State, ...]

    @property
    def state_specs(self) -> dict[str, keras.InputSpec]:
        """The shape and type of each input for a state, by name."""
        return {
            state.input: keras.InputSpec(
                shape=tuple(state.variable.shape), dtype=state.variable.dtype, name=state.input
            )
            for state in self.states
        }

    def arrays(self, argument: str, values: ArrayLike) -> dict[str, np.ndarray]:
        """Checks the samples in an argument; returns them by input name, each of shape (samples, ...)."""
        return check_samples(argument, values, self.input_specs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> GraphRun:
        """Runs the trained model by Keras.

        Args:
            inputs: Samples by input name. With states they are the steps of one sequence, which starts from zeros.
        """
        count = len(next(iter(inputs.values())))
        numbers = sum(math.prod(array.shape[1:]) for array in inputs.values())
        fitting = min(_BATCH, max(1, _NUMBERS // max(1, numbers)))
        size = 1 if self.states else next(iter(self.model.inputs)).shape[0] or fitting
        input_batches, output_batches = [], []
        state = {name: np.zeros(spec.shape, spec.dtype) for name, spec in self.state_specs.items()}
        for start in range(0, count, size):
            batch = {name: array[start : start + size] for name, array in inputs.items()} | state
            outputs = self._run_batch(batch)
            state = {state.input: outputs[state.output] for state in self.states}
            input_batches.append(batch)
            output_batches.append(outputs)
        return GraphRun(_concatenate(input_batches), _concatenate(output_batches))

    def serve(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Returns the outputs by name, for the inputs in order, the states last."""
        own, states = inputs[: len(self.input_specs)], inputs[len(self.input_specs) :]
        if not self.states:
            return self._name_outputs(self.model(list(own), training=False))
        variables = [state.variable for state in self.states]
        with keras.StatelessScope(state_mapping=list(zip(variables, states, strict=True))) as scope:
            outputs = self._name_outputs(self.model(list(own), training=False))
        next_states = {state.output: scope.get_current_value(state.variable) for state in self.states}
        return {**outputs, **next_states}

    def _name_outputs(self, outputs: Tree) -> dict[str, Tensor]:
        return dict(zip(self.output_names, keras.tree.flatten(outputs), strict=True))

    def _run_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Not `predict`, which would compile a function for these few samples and warn when it is done often.
        try:
            with use_full_precision(layers_of(self.model)):
                outputs = self.serve(*(keras.ops.convert_to_tensor(array) for array in batch.values()))
        except Exception as error:  # whatever a layer raises on values that it cannot take
            raise ConversionError(f"The model {self.model.name!r} cannot run its golden samples: {error}") from error
        return {name: keras.ops.convert_to_numpy(output) for name, output in outputs.items()}


def _concatenate(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def save_graphs(
    graphs: tuple[DeployGraph, ...],
    directory: Path,
    *,
    batch_size: int | None,
    recurrent: Mapping[str, Mapping[str, str]],
) -> None:
    """Writes a SavedModel with one signature a graph. On the TensorFlow backend only.

    By `ExportArchive`, because `tf.saved_model.save` leaves the variables of a Keras 3 model uninitialised, which
    converts to a model that returns NaN, without an error.

    Args:
        graphs: The deploy graphs.
        directory: The directory of the SavedModel.
        batch_size: 1, or None for any.
        recurrent: The forms of the recurrent layers, by signature and the path "outer/inner" of the layer.
    """
    archive = keras.export.ExportArchive()
    layers = list({id(layer): layer for graph in graphs for layer in layers_of(graph.model)}.values())
    forms = {
        id(layer): recurrent[graph.signature]["/".join(path)]
        for graph in graphs
        for path, layer in recurrent_layers(graph.model).items()
        if "/".join(path) in recurrent[graph.signature]
    }
    lowering = lower_layers(layers, recurrent=forms)
    naming = name_operators(layers)
    with use_full_precision(layers), lowering, lower_operations(), naming, _deploy_compressed(layers):
        for graph in graphs:
            archive.track(graph.model)
            specs = [
                keras.InputSpec(shape=(batch_size, *spec.shape[1:]), dtype=spec.dtype, name=name)
                for name, spec in graph.input_specs.items()
            ]
            archive.add_endpoint(graph.signature, graph.serve, input_signature=specs + list(graph.state_specs.values()))
        archive.write_out(str(directory), verbose=False)


@contextlib.contextmanager
def _deploy_compressed(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Lets quantization-aware models compute their deploy graph, with a fake quantization at each rounding."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if isinstance(layer, CompressedModel) and layer.scheme is not None:
                stack.enter_context(patch_call(layer, layer.deployed(insert_fake_quant)))
        yield


def deploy_graph(
    model: keras.Model,
    signature: str = SIGNATURE,
    example: ArrayLike | None = None,
    output_names: tuple[str, ...] | None = None,
) -> DeployGraph:
    """Prepares a model for conversion.

    Args:
        model: A built functional or sequential model; or a subclassed one, if there is an example.
        signature: The name of its entry point.
        example: Samples that tell the inputs of a subclassed model: an array, or a list or dict of arrays.
        output_names: Names for its outputs. Defaults to "output" for one output, and to the model's own for several.

    Raises:
        TypeError: If `model` is not a Keras model.
        ConversionError: If an input has an unknown size, the inputs are not known at all, or the model is not one
            that runs by itself.
    """
    check_convertible(model)
    if not getattr(model, "inputs", None):
        model, names = _make_functional(model, example)
        output_names = output_names or names
    inputs = zip(_input_names(model), model.inputs, strict=True)
    input_specs = {name: _static_spec(tensor, name) for name, tensor in inputs}
    flat = keras.Model(inputs=list(model.inputs), outputs=list(model.outputs), name=model.name)
    return DeployGraph(signature, flat, input_specs, output_names or _output_names(model), tuple(_states(flat)))


def _make_functional(model: keras.Model, example: ArrayLike | None) -> tuple[keras.Model, tuple[str, ...] | None]:
    """Returns a functional model around a subclassed one, with inputs like the example, and its outputs' names."""
    if example is None:
        raise ConversionError(
            f"The inputs of the model {model.name!r} must be known. Received: a subclassed or unbuilt model. Give "
            f"`calibration` or `golden` samples, or wrap it: `inputs = keras.Input(shape); keras.Model(inputs, "
            f"model(inputs))`."
        )
    if isinstance(example, (list, tuple)):
        inputs: Tree = [_input_like(values, None) for values in example]
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


def _input_like(values: ArrayLike, name: str | None) -> keras.KerasTensor:
    array = np.asarray(values)
    dtype = "float32" if array.dtype.kind == "f" else array.dtype.name
    return keras.Input(array.shape[1:], dtype="int32" if dtype == "int64" else dtype, name=name)


def _states(model: keras.Model) -> Iterator[State]:
    layers = [layer for layer in layers_of(model) if isinstance(layer, keras.layers.RNN) and layer.stateful]
    for layer, prefix in zip(layers, _state_prefixes(model, layers), strict=True):
        for index, variable in enumerate(keras.tree.flatten(layer.states)):
            if variable.shape[0] != 1:
                raise ConversionError(
                    f"A layer with states must have the batch size 1. Received: {variable.shape[0]} for "
                    f"{layer.name!r}. Rebuild the model with `keras.Input(batch_shape=(1, ...))`; the weights fit."
                )
            name = f"{prefix}_state_{index}"
            yield State(variable, name, f"{name}_next")


def _state_prefixes(model: keras.Model, layers: list[keras.layers.RNN]) -> list[str]:
    """Returns a unique prefix of the states of each layer: its name, or its path if several layers have that name."""
    paths: dict[int, LayerPath] = {}
    for path, layer in layers_by_path(model):
        paths.setdefault(id(layer), path)
    names = [re.sub(r"\W", "_", layer.name) for layer in layers]
    prefixes: list[str] = []
    for layer, name in zip(layers, names, strict=True):
        prefix = name if names.count(name) == 1 else re.sub(r"\W", "_", "_".join(paths[id(layer)]))
        candidate, count = prefix, 1
        while candidate in prefixes or (candidate != name and candidate in names):
            count += 1
            candidate = f"{prefix}_{count}"
        prefixes.append(candidate)
    return prefixes


def _input_names(model: keras.Model) -> list[str]:
    names = [tensor.name for tensor in model.inputs]
    if any(_GENERATED_NAME.fullmatch(name) for name in names):
        return ["input"] if len(names) == 1 else [f"input_{index}" for index in range(len(names))]
    for name in names:
        # TensorFlow makes it an argument of a Python function.
        if not _VALID_NAME.fullmatch(name) or keyword.iskeyword(name) or name == "self":
            raise ConversionError(
                f"The name of an input must be letters, digits and underscores, the first a letter, and not a keyword "
                f"of Python. Received: {name!r}. "
                f"Rebuild the model with `keras.Input(..., name=...)`."
            )
    return names


def _output_names(model: keras.Model) -> tuple[str, ...]:
    if len(model.outputs) == 1:
        return ("output",)
    names = tuple(model.output_names)
    return names if len(set(names)) == len(names) else tuple(f"output_{index}" for index in range(len(names)))


def _static_spec(tensor: keras.KerasTensor, name: str) -> keras.InputSpec:
    if None in tensor.shape[1:]:
        raise ConversionError(
            f"Every size of an input but the batch must be known. Received: shape {tuple(tensor.shape)} for the input "
            f"{name!r}. Rebuild the model with `keras.Input` of a fixed shape."
        )
    return keras.InputSpec(shape=(1, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
