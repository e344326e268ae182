"""The compressed model: a network, the transforms of its weights, and its integer arithmetic."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import Config, Json, Store, Tensor, Tree
from keras_notes.compression._copies import copy_model, inputs_of, layer_names, rename_layers
from keras_notes.compression._weight_transform import WeightTransform, substitute_values
from keras_notes.compression.quantization._affine import Grid
from keras_notes.compression.quantization._config import QuantizationConfig
from keras_notes.compression.quantization._quantized_network import QuantizedNetwork, trace_network
from keras_notes.compression.quantization._tracer import Program

__all__ = ["CompressedModel", "FloatParts", "attach_quantization", "copy_float_parts", "strip"]


@keras.saving.register_keras_serializable(package="keras_notes")
class CompressedModel(keras.Model):
    """A network whose weights are pruned or clustered, and whose arithmetic is quantized, in training as on the device.

    `prune`, `cluster` and `quantize_aware` make it; `strip` returns the plain network. It has the inputs, outputs and
    trainable weights of its network. In training, gradients pass through the transforms of the weights; in inference it
    computes what the device computes.

    Args:
        network: Network, which is not copied.
        transforms: Transforms of its weights, in the order in which they are applied.
        scheme: Settings of the integer arithmetic; None for floating point.
        points: Names of the points at which the network rounds.
        input_specs: KerasTensors in the structure of the inputs. Defaults to the inputs of the network.
        **kwargs: Further arguments of `keras.Model`: `name` and `dtype`, which default to those of the network.

    Attributes:
        network: The network.
        transforms: The transforms of its weights.
        quantization: The network in integer arithmetic; None for floating point.

    Raises:
        ValueError: If the network has a layer for which the device has no integer operator; names it.

    Example:
        >>> import keras
        >>> from keras_notes.compression import CompressedModel, prune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> pruned = prune(model, 0.5)
        >>> isinstance(pruned, CompressedModel), pruned.outputs[0].shape
        (True, (None, 4))
        >>> {index: float((kernel == 0).mean()) for index, kernel in pruned.weight_values().items()}
        {0: 0.5}
    """

    def __init__(
        self,
        network: keras.Model,
        transforms: Sequence[WeightTransform] = (),
        scheme: QuantizationConfig | None = None,
        points: Sequence[str] = (),
        input_specs: Tree = None,
        **kwargs: Any,
    ) -> None:
        # The type of the variables, which would else be rounded where the layers compute in half precision.
        super().__init__(**{"name": network.name, "dtype": network.variable_dtype, **kwargs})
        self.network = network
        self.transforms = list(transforms)
        # KerasTensors are not state; in a tuple, because Keras wraps lists and dicts to track what is in them.
        self._untracked_specs = (input_specs,)
        self.quantization: QuantizedNetwork | None = None
        if scheme is not None:
            attach_quantization(self, trace_network(network, self.input_structure, scheme), scheme, points)
        self._symbolic: tuple[Tree, ...] = ()
        self._lists_own_parts = False
        self.built = True

    @property
    def scheme(self) -> QuantizationConfig | None:
        """Settings of the integer arithmetic; None for floating point."""
        return None if self.quantization is None else self.quantization.config

    @property
    def input_structure(self) -> Tree:
        """The inputs as KerasTensors, in the structure in which `call` takes them."""
        return inputs_of(self.network) if self._explicit_specs is None else self._explicit_specs

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The inputs, flat."""
        return tree.flatten(self._as_layer()[0])

    @property
    def outputs(self) -> list[keras.KerasTensor]:
        """The outputs, flat."""
        return tree.flatten(self._as_layer()[1])

    @property
    def input_shape(self) -> Tree:
        """The shape of the input with the batch, or a list of shapes."""
        shapes = [tensor.shape for tensor in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Tree:
        """The shape of the output with the batch, or a list of shapes."""
        shapes = [tensor.shape for tensor in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers of the network; while Keras writes or reads a file, the parts of this model."""
        own_parts = super().layers
        if self._lists_own_parts:
            self._lists_own_parts = False
            return own_parts
        return list(self.network.layers)

    def save_own_variables(self, store: Store) -> None:
        """Writes nothing: the parts hold the variables. Keras asks for them next, by `layers`."""
        super().save_own_variables(store)
        self._lists_own_parts = True

    def load_own_variables(self, store: Store) -> None:
        """Reads nothing: the parts hold the variables. Keras asks for them next, by `layers`."""
        super().load_own_variables(store)
        self._lists_own_parts = True

    def export(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Raises ValueError, which says how the model comes to a device.

        Raises:
            ValueError: Always: a format of Keras has no place for the integers and zeros of the device.
        """
        recipe = "" if self.scheme is None else f", {self.scheme.conversion_recipe!r}"
        raise ValueError(
            f"A compressed model must be converted, not exported. Received: {self.name!r}. Write a .tflite file by "
            f"`keras_notes.convert(model, directory{recipe})`, or export it in floating point: "
            f"`keras_notes.compression.strip(model).export(...)`."
        )

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs of the network."""
        return list(getattr(self.network, "output_names", [f"output_{n}" for n in range(len(self.outputs))]))

    def call(self, inputs: Tree, training: bool | None = None) -> Tree:
        """Runs the network with its transformed weights, and in its integer arithmetic."""
        with self.transformed(training=bool(training)):
            if self.quantization is None:
                return self.network(inputs, training=bool(training))
            return self.quantization(inputs, training=bool(training))

    @contextlib.contextmanager
    def transformed(self, *, training: bool = False) -> Iterator[None]:
        """Lets the network have its pruned and clustered weights while the block runs.

        Args:
            training: Whether the weights are those of a training step, through which gradients pass to the variables.

        Example:
            >>> import keras
            >>> from keras_notes.compression import prune
            >>> model = prune(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")]), 0.75)
            >>> def zeros():
            ...     return int(keras.ops.sum(keras.ops.equal(model.network.get_layer("head").kernel, 0)))
            >>> with model.transformed():
            ...     print(zeros())
            24
            >>> zeros()  # the variable keeps all weights
            0
        """
        # The variables of the network first, by whose indices values are known.
        network_variables = self.network.variables
        known = set(map(id, network_variables))
        other_variables = [variable for variable in self.variables if id(variable) not in known]
        variables = [*network_variables, *other_variables]
        with substitute_values(variables, self._values(training), layers_of(self.network)):
            yield

    def weight_values(self) -> dict[int, np.ndarray]:
        """Returns the weights that differ from their variables, as pruned and clustered, by the variable's index.

        Example:
            >>> import keras, numpy as np
            >>> from keras_notes.compression import cluster
            >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
            >>> {index: len(np.unique(kernel)) for index, kernel in cluster(model, 4).weight_values().items()}
            {0: 4}
        """
        return {index: ops.convert_to_numpy(value) for index, value in self._values(training=False).items()}

    def deployed(self, mark: Callable[[Tensor, Grid], Tensor]) -> Callable[..., Tree]:
        """Returns the call of the deploy graph of a quantization-aware model.

        Args:
            mark: Function of a tensor and the Grid to which it is rounded, which returns the tensor with a mark.

        Raises:
            ValueError: If the model is not quantization-aware.

        Example:
            >>> import keras, numpy as np
            >>> from keras_notes.compression import quantize_aware
            >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu")])
            >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
            >>> grids = []
            >>> def mark(tensor, grid):
            ...     grids.append(grid)
            ...     return tensor
            >>> outputs = quantize_aware(model, calibration=x).deployed(mark)(x)
            >>> outputs.shape == (64, 4), [grid.format.bits for grid in grids]
            (True, [8, 8])
        """
        program = self.quantization
        if program is None:
            raise ValueError(f"The model must be quantization-aware. Received: {self.name!r}, which is not.")
        with self.transformed():
            emitter = program.deploy_emitter(mark)

        def call(inputs: Tree, training: bool | None = None) -> Tree:
            with self.transformed():
                return program.emit(emitter, inputs)

        return call

    def integers(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Grid]]:
        """Returns the integers that the device holds of a quantization-aware model.

        Returns:
            Weights on their grids, each with the scales of its channels; and the grids of all other tensors. Both are
            empty for a model in floating point.

        Example:
            >>> import keras, numpy as np
            >>> from keras_notes.compression import quantize_aware
            >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu")])
            >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
            >>> ((weights, scales),), grids = quantize_aware(model, calibration=x).integers()
            >>> integers = weights / scales
            >>> bool(np.allclose(integers, np.round(integers), atol=1e-3)), round(float(np.abs(integers).max()))
            (True, 127)
        """
        if self.quantization is None:
            return [], []
        with self.transformed():
            return self.quantization.integers()

    def get_config(self) -> Config:
        """Returns the configurations of the network, its transforms and its integer arithmetic."""
        specs = self._explicit_specs
        if specs is not None:
            specs = tree.map_structure(
                lambda spec: {"shape": list(spec.shape), "dtype": spec.dtype, "name": spec.name}, specs
            )
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "layer_names": layer_names(self.network),
            "transforms": [keras.saving.serialize_keras_object(transform) for transform in self.transforms],
            "scheme": None if self.scheme is None else self.scheme.to_config(),
            "points": [] if self.quantization is None else list(self.quantization.ranges.points),
            "input_specs": specs,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, type] | None = None) -> CompressedModel:
        """Returns the model of a configuration."""

        def deserialize(part: Json) -> Any:
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        scheme, specs = config["scheme"], config["input_specs"]
        return cls(
            rename_layers(deserialize(config["network"]), config["layer_names"]),
            [deserialize(transform) for transform in config["transforms"]],
            None if scheme is None else QuantizationConfig.from_config(scheme),
            config["points"],
            None if specs is None else _parse_specs(specs),
            name=config["name"],
        )

    def get_build_config(self) -> None:
        """Returns None: the constructor builds the model."""
        return

    def build_from_config(self, config: Config) -> None:
        """Does nothing: the constructor builds the model."""

    @property
    def _explicit_specs(self) -> Tree:
        """The `input_specs` that were passed; None where the network knows its inputs."""
        return self._untracked_specs[0]

    def values_before(self, last: WeightTransform) -> dict[int, Tensor]:
        """Returns the weights that a transform receives, by the variable's index.

        Args:
            last: Transform, one of `transforms`; those before it are applied.

        Example:
            >>> import keras
            >>> from keras_notes.compression import cluster, prune
            >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
            >>> clustered = cluster(prune(model, 0.75), 4)
            >>> weights = clustered.values_before(clustered.transforms[1])
            >>> {index: int(keras.ops.sum(keras.ops.equal(kernel, 0))) for index, kernel in weights.items()}
            {0: 24}
        """
        before = self._values(training=False, until=last)
        variables = self.network.variables
        return {index: before.get(index, ops.convert_to_tensor(variables[index])) for index in last.variable_indices}

    def _values(self, training: bool, until: WeightTransform | None = None) -> dict[int, Tensor]:
        values: dict[int, Tensor] = {}
        variables = self.network.variables
        for transform in self.transforms:
            if transform is until:
                break
            inputs = {
                index: values.get(index, ops.convert_to_tensor(variables[index]))
                for index in transform.variable_indices
            }
            values.update(transform(inputs, training=training))
        return values

    def _as_layer(self) -> tuple[Tree, ...]:
        if not self._symbolic:
            inputs = tree.map_structure(
                lambda spec: keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name),
                self.input_structure,
            )
            self._symbolic = (inputs, self(inputs))
        return self._symbolic


def attach_quantization(
    model: CompressedModel, program: Program, config: QuantizationConfig, points: Sequence[str]
) -> QuantizedNetwork:
    """Makes a model in floating point quantization-aware; returns the part that computes in integers.

    Args:
        model: Model, which is changed.
        program: Its network, traced.
        config: Choices of `quantize_aware`.
        points: Names of the points where values are rounded.
    """
    clustered = [
        model.network.variables[index]
        for transform in model.transforms
        if transform.shares_values
        for index in transform.variable_indices
    ]
    model.quantization = QuantizedNetwork(program, model.input_structure, config, points, clustered)
    return model.quantization


class FloatParts(NamedTuple):
    """The parts of a model in floating point, from which a `CompressedModel` is made.

    Attributes:
        network: The plain network.
        transforms: The transforms of its weights; none for a plain model.
        input_specs: KerasTensors in the structure of the inputs; None where the network knows its inputs.
    """

    network: keras.Model
    transforms: list[WeightTransform]
    input_specs: Tree


def copy_float_parts(model: keras.Model, verb: str) -> FloatParts:
    """Returns the parts of a copy of a model.

    Args:
        model: Plain, pruned or clustered model.
        verb: Name of what is done to the model, for the error message.

    Raises:
        ValueError: If the model is quantization-aware.
    """
    copy = copy_model(model)
    if not isinstance(copy, CompressedModel):
        return FloatParts(copy, [], None)
    if copy.scheme is not None:
        raise ValueError(
            f"`model` must not be quantization-aware, to {verb} it: that comes last. Received: {model.name!r} with the "
            f"recipe {copy.scheme.recipe!r}. Start from `strip(model)`."
        )
    return FloatParts(copy.network, list(copy.transforms), copy._explicit_specs)


def strip(model: keras.Model) -> keras.Model:
    """Returns the plain Keras model of a compressed one, with the pruned and clustered weights.

    The weights of a quantization-aware model stay in floating point; to get the integers, `convert` the model itself.

    Args:
        model: Model that `prune`, `cluster` or `quantize_aware` made. Any other model is copied.

    Returns:
        A new model of the class of the original network.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or a layer of it has no `get_config`.

    Example:
        >>> import keras
        >>> from keras_notes.compression import prune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> type(strip(prune(model, 0.5))).__name__
        'Sequential'
    """
    if not isinstance(model, CompressedModel):
        return copy_model(model)
    network = copy_model(model.network)
    for index, value in model.weight_values().items():
        network.variables[index].assign(value)
    return network


def _parse_specs(config: Json) -> Tree:
    if isinstance(config, dict) and set(config) == {"shape", "dtype", "name"}:
        return keras.KerasTensor(tuple(config["shape"]), config["dtype"], name=config["name"])
    if isinstance(config, dict):
        return {name: _parse_specs(spec) for name, spec in config.items()}
    return [_parse_specs(spec) for spec in config]
