"""The model that is compressed while it trains: a network, what its weights are made of, and how it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_notes.compression._copies import copied, names_of, with_names
from keras_notes.compression._inputs import inputs_of
from keras_notes.compression._substitution import substituted
from keras_notes.compression._weight_transform import WeightTransform
from keras_notes.compression.quantization._affine import Grid
from keras_notes.compression.quantization._config import QuantizationConfig
from keras_notes.compression.quantization._quantized_network import QuantizedNetwork, trace_network
from keras_notes.compression.quantization._tracer import Program

__all__ = ["CompressedModel", "attach_quantization", "strip", "without_integers"]


@keras.saving.register_keras_serializable(package="keras_notes")
class CompressedModel(keras.Model):
    """A network whose weights are pruned or clustered, and whose arithmetic is quantized, in training as on the device.

    Made by `prune`, `cluster` and `quantize_aware`; taken back by `strip`. It has the inputs, outputs and trainable
    weights of its network. In training its weights learn through what is done to them; in inference it computes what
    the device will compute.

    Args:
        network: The network, which is not copied.
        transforms: What its weights go through, in this order.
        scheme: How it computes in integers; None for floating point.
        points: The names of the points where it rounds.
        input_specs: What it takes: KerasTensors in the structure of its inputs. Defaults to the network's own.
    """

    def __init__(
        self,
        network: keras.Model,
        transforms: Sequence[WeightTransform] = (),
        scheme: QuantizationConfig | None = None,
        points: Sequence[str] = (),
        input_specs: Any = None,
        **kwargs: Any,
    ) -> None:
        # Of the variables, which would else be rounded on their way where the layers compute in half precision.
        super().__init__(**{"name": network.name, "dtype": network.variable_dtype, **kwargs})
        self.network = network
        self.transforms = list(transforms)
        # KerasTensors are no state; in a tuple, because Keras wraps lists and dicts to track what is in them.
        self._given_specs = (input_specs,)
        self.quantization: QuantizedNetwork | None = None
        if scheme is not None:
            attach_quantization(self, trace_network(network, self.input_structure, scheme), scheme, points)
        self._symbolic: tuple[Any, ...] = ()
        self.built = True

    @property
    def scheme(self) -> QuantizationConfig | None:
        """How it computes in integers; None for floating point."""
        return None if self.quantization is None else self.quantization.config

    @property
    def input_structure(self) -> Any:
        """The inputs as KerasTensors, in the structure in which they are given."""
        return inputs_of(self.network) if self._given_specs[0] is None else self._given_specs[0]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The inputs, flat."""
        return tree.flatten(self._as_layer()[0])

    @property
    def outputs(self) -> list[keras.KerasTensor]:
        """The outputs, flat."""
        return tree.flatten(self._as_layer()[1])

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, those of its network."""
        return list(getattr(self.network, "output_names", [f"output_{n}" for n in range(len(self.outputs))]))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the network with its weights and values as they will be."""
        with self.transformed(training=bool(training)):
            if self.quantization is None:
                return self.network(inputs, training=bool(training))
            return self.quantization(inputs, training=bool(training))

    @contextlib.contextmanager
    def transformed(self, *, training: bool = False) -> Iterator[None]:
        """Lets the network have its weights as pruned and clustered while the block runs."""
        # Those of the network first, by whose numbers values are known.
        own = self.network.variables
        known = set(map(id, own))
        others = [variable for variable in self.variables if id(variable) not in known]
        with substituted([*own, *others], self._values(training), self.network._flatten_layers()):
            yield

    def weight_values(self) -> dict[int, np.ndarray]:
        """The weights that are not what their variables hold: as pruned and clustered, by number of variable."""
        return {number: ops.convert_to_numpy(value) for number, value in self._values(training=False).items()}

    def deployed(self, mark: Callable) -> Callable:
        """The call of the deploy graph of a quantization-aware model.

        Args:
            mark: Takes a tensor and the Grid that it shall be rounded to; returns the tensor with a mark on it.
        """
        program = self.quantization
        if program is None:
            raise ValueError(f"The model must be quantization-aware. Received: {self.name!r}, which is not.")
        with self.transformed():
            emitter = program.deploy_emitter(mark)

        def call(inputs: Any, training: bool | None = None) -> Any:
            with self.transformed():
                return program.emit(emitter, inputs)

        return call

    def integers(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Grid]]:
        """What the device holds of a quantization-aware model.

        Returns:
            Weights on their grids, with the scale of each channel; and the grids of all other tensors.
        """
        if self.quantization is None:
            return [], []
        with self.transformed():
            return self.quantization.integers()

    def get_config(self) -> dict[str, Any]:
        """The network, and what is done to it."""
        specs = self._given_specs[0]
        if specs is not None:
            specs = tree.map_structure(
                lambda spec: {"shape": list(spec.shape), "dtype": spec.dtype, "name": spec.name}, specs
            )
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "layer_names": names_of(self.network),
            "transforms": [keras.saving.serialize_keras_object(one) for one in self.transforms],
            "scheme": None if self.scheme is None else self.scheme.to_config(),
            "points": [] if self.quantization is None else list(self.quantization.ranges.points),
            "input_specs": specs,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> CompressedModel:
        """The model of a configuration."""

        def made(part: Any) -> Any:
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        scheme, specs = config["scheme"], config["input_specs"]
        return cls(
            with_names(made(config["network"]), config["layer_names"]),
            [made(one) for one in config["transforms"]],
            None if scheme is None else QuantizationConfig.from_config(scheme),
            config["points"],
            None if specs is None else _specs_of(specs),
            name=config["name"],
        )

    def get_build_config(self) -> None:
        """Nothing: it is built by what it is made of."""
        return

    def build_from_config(self, config: Any) -> None:
        """Nothing is left to build."""

    def values_before(self, last: WeightTransform) -> dict[int, Any]:
        """The weights that a transform will be given."""
        before = self._values(training=False, until=last)
        variables = self.network.variables
        return {number: before.get(number, ops.convert_to_tensor(variables[number])) for number in last.numbers}

    def _values(self, training: bool, until: WeightTransform | None = None) -> dict[int, Any]:
        values: dict[int, Any] = {}
        variables = self.network.variables
        for transform in self.transforms:
            if transform is until:
                break
            given = {
                number: values.get(number, ops.convert_to_tensor(variables[number])) for number in transform.numbers
            }
            values.update(transform(given, training=training))
        return values

    def _as_layer(self) -> tuple[Any, Any]:
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
        model.network.variables[number]
        for transform in model.transforms
        if transform.shares_values
        for number in transform.numbers
    ]
    model.quantization = QuantizedNetwork(program, model.input_structure, config, points, clustered)
    return model.quantization


def without_integers(model: keras.Model, verb: str) -> tuple[keras.Model, list[WeightTransform], Any]:
    """A copy of the network of a model, of what its weights go through, and what it takes if it does not say itself.

    Raises:
        ValueError: If the model is quantization-aware.
    """
    copy = copied(model)
    if not isinstance(copy, CompressedModel):
        return copy, [], None
    if copy.scheme is not None:
        raise ValueError(
            f"`model` must not be quantization-aware, to {verb} it: that comes last. Received: {model.name!r} with the "
            f"recipe {copy.scheme.recipe!r}. Start from `strip(model)`."
        )
    return copy.network, list(copy.transforms), copy._given_specs[0]


def strip(model: keras.Model) -> keras.Model:
    """The plain Keras model of a compressed one, with the weights as pruned and clustered.

    Quantization-aware training leaves weights in floating point; to get the integers, `convert` the model itself.

    Args:
        model: A model that `prune`, `cluster` or `quantize_aware` made, or any other, which is copied.

    Returns:
        A new model of the class of the original network.

    Example:
        >>> import keras
        >>> from keras_notes.compression import prune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> type(strip(prune(model, 0.5))).__name__
        'Sequential'
    """
    if not isinstance(model, CompressedModel):
        return copied(model)
    network = copied(model.network)
    for number, value in model.weight_values().items():
        network.variables[number].assign(value)
    return network


def _specs_of(config: Any) -> Any:
    if isinstance(config, dict) and set(config) == {"shape", "dtype", "name"}:
        return keras.KerasTensor(tuple(config["shape"]), config["dtype"], name=config["name"])
    if isinstance(config, dict):
        return {name: _specs_of(one) for name, one in config.items()}
    return [_specs_of(one) for one in config]
