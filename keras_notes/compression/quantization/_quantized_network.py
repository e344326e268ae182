"""A traced network with its configuration and ranges: the computation of a quantization-aware model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import keras
import numpy as np
from keras import ops, tree

from keras_notes._shared.models.layer_patterns import layers_by_path
from keras_notes._shared.types import Tensor, Tree
from keras_notes.compression.quantization._affine import Grid
from keras_notes.compression.quantization._calibrator import Calibrator
from keras_notes.compression.quantization._config import QuantizationConfig
from keras_notes.compression.quantization._deploy_emitter import DeployEmitter
from keras_notes.compression.quantization._evaluator import Evaluator, Rounded, Rounding
from keras_notes.compression.quantization._interpreter import has_rule, interpret
from keras_notes.compression.quantization._ranges import Ranges
from keras_notes.compression.quantization._simulator import Simulator
from keras_notes.compression.quantization._tracer import Program, Refusal, Step, StepsRefusedError, trace

__all__ = ["QuantizedNetwork", "calibrate", "find_refusals", "trace_network"]

_BATCH = 64
# The end of the names of points among constants.
_GRID = "/grid"

_Constants: TypeAlias = Mapping[str, tuple[np.ndarray, np.ndarray]]


def trace_network(network: keras.Model, structure: Tree, config: QuantizationConfig) -> Program:
    """Traces a network into the steps that a configuration computes in integers, and those that it does not.

    Args:
        network: Built model.
        structure: Inputs of the network as KerasTensors, in the structure in which it takes them.
        config: Choices of `quantize_aware`.
    """
    # A layer that `only` does not match is opened for the layers in it that match.
    around = {
        path[:end]
        for path, _ in layers_by_path(network)
        if config.only and not config.is_float(path)
        for end in range(1, len(path))
    }

    def is_float(path: tuple[str, ...]) -> bool:
        return config.is_float(path) and path not in around

    return trace(network, tree.flatten(structure), structure, has_rule=has_rule, is_float=is_float)


def calibrate(
    program: Program, structure: Tree, config: QuantizationConfig, arrays: Sequence[np.ndarray] | None
) -> dict[str, tuple[float, float]]:
    """Returns the range at each point over calibration samples, by name of the point.

    Args:
        program: Traced network.
        structure: Inputs of the network as KerasTensors.
        config: Choices of `quantize_aware`.
        arrays: Samples for each input; None to find the names of the points only.
    """
    specs = tree.flatten(structure)
    evaluator = Calibrator(config.format, config.bits)
    if arrays is None:
        arrays = _zeros(specs)
    for start in range(0, len(arrays[0]), _BATCH):
        _evaluate(program, specs, evaluator, [array[start : start + _BATCH] for array in arrays])
    return evaluator.ranges


def find_refusals(network: keras.Model, structure: Tree, config: QuantizationConfig) -> list[Refusal]:
    """Returns every layer and operation that cannot compute in integers, as far as one look at the network shows them.

    Args:
        network: Built model.
        structure: Inputs of the network as KerasTensors, in the structure in which it takes them.
        config: Choices of `quantize_aware`.
    """
    refusals: list[Refusal] = []
    try:
        program = trace_network(network, structure, config)
    except StepsRefusedError as error:
        return list(error.refusals)
    specs = tree.flatten(structure)
    _evaluate(program, specs, Calibrator(config.format, config.bits), _zeros(specs), refusals)
    return refusals


class QuantizedNetwork(keras.Layer):
    """The computation of a network, step by step, in the arithmetic of a device.

    It owns the ranges; the weights are those of the network, which it does not own.

    Args:
        program: Traced network.
        structure: Inputs of the network as KerasTensors, in the structure in which it takes them.
        config: Choices of `quantize_aware`.
        points: Names of the points where values are rounded.
        clustered: Variables with few different values, which become as few integers.
    """

    def __init__(
        self,
        program: Program,
        structure: Tree,
        config: QuantizationConfig,
        points: Sequence[str],
        clustered: Collection[keras.Variable] = (),
    ) -> None:
        super().__init__(name="quantization", dtype="float32")
        self.config = config
        self.ranges = Ranges(
            points,
            learned=config.learned,
            momentum=config.momentum,
            freeze_after=config.freeze_after,
            calibrated=config.calibrated,
        )
        self._specs = tuple(tree.flatten(structure))
        self._program = program
        # Ids, because Keras would take variables for those of this layer.
        self._clustered = frozenset(map(id, clustered))
        self._cache = _Cache()
        self.built = True

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the network, in the order in which they are computed."""
        return self._program.steps

    @property
    def output_paths(self) -> list[tuple[str, ...]]:
        """The path of the step that computes each output, in a flat list; () for an output that is an input."""
        paths = {number: step.path for step in self.steps for number in step.outputs}
        return [paths.get(getattr(leaf, "index", -1), ()) for leaf in tree.flatten(self._program.outputs)]

    def call(self, inputs: Tree, training: bool = False) -> Tree:
        """Computes the outputs, in the structure of the network's outputs."""
        simulator = self.simulator(training)
        outputs = self._evaluate(simulator, tree.flatten(inputs))
        if training:
            self.ranges.follow(simulator.visited)
        return outputs

    def simulator(self, training: bool = False) -> Simulator:
        """Returns an evaluator that computes as the device does, for a single run."""
        return Simulator(
            self.config.format,
            self.config.bits,
            self.ranges,
            training=training,
            live_statistics=self.config.batch_norm == "live",
            clustered=self._clustered,
        )

    def deploy_emitter(self, mark: Callable[[Tensor, Grid], Tensor]) -> DeployEmitter:
        """Returns the evaluator of the deploy graph, with weights, biases and grids in numbers.

        Args:
            mark: Function that takes a tensor and the Grid that the tensor is rounded to; it returns the tensor with a
                mark on it.
        """
        config = self.config
        constants = self._constants()
        return DeployEmitter(config.format, config.bits, self._grids(constants, _GRID), constants, mark)

    def emit(self, emitter: DeployEmitter, inputs: Tree) -> Tree:
        """Computes the outputs of the deploy graph, in the structure of the network's outputs."""
        return self._evaluate(emitter, tree.flatten(inputs))

    def integers(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Grid]]:
        """Returns weights on their grid with the scale of each channel, and the grids of all other tensors."""
        constants = self._constants()
        kernels = [values for values in constants.values() if values[0].ndim > 1]
        return kernels, [*self._grids(constants, _GRID).values(), *self._grids(constants, "/constant").values()]

    def values_at_points(self, inputs: Sequence[Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns the values at each point, in floating point and in integers, in the order of the network.

        Args:
            inputs: Samples, an array for each input.
        """
        evaluators = Calibrator(self.config.format, self.config.bits), self.simulator()
        exact, rounded = map(_record_rounds, evaluators)
        for evaluator in evaluators:
            self._evaluate(evaluator, inputs)
        return {name: (values, rounded[name]) for name, values in exact.items() if name in rounded}

    def _grids(self, constants: _Constants, suffix: str) -> dict[str, Grid]:
        """Returns the grids whose name ends so, by name without the end; {} for floating point."""
        format = self.config.format
        if format is None:
            return {}
        return {
            name.removesuffix(suffix): Grid(float(scale), float(zero_point), format)
            for name, (scale, zero_point) in constants.items()
            if name.endswith(suffix)
        }

    def _constants(self) -> _Constants:
        """Returns weights, biases, and the grids of constants and points, in numbers, by name."""
        variables = [variable for step in self.steps for variable in step.variables]
        return self._cache.get([*variables, *self.ranges.variables], self._compute_constants)

    def _compute_constants(self) -> _Constants:
        simulator = self.simulator()
        self._evaluate(simulator, _zeros(self._specs))
        grids = {f"{name}{_GRID}": (grid.scale, grid.zero_point) for name, grid in simulator.grids.items()}
        return {
            name: (ops.convert_to_numpy(values[0]), ops.convert_to_numpy(values[1]))
            for name, values in (*simulator.constants.items(), *grids.items())
        }

    def _evaluate(self, evaluator: Evaluator, inputs: Sequence[Tensor]) -> Tree:
        return _evaluate(self._program, self._specs, evaluator, inputs)


# Keras names the group of a layer in a .keras file after its class: files of earlier versions have this name.
QuantizedNetwork.__name__ = "QuantizedProgram"


@dataclass
class _Cache:
    """The constants of a network, kept while its variables have the same values."""

    _digest: bytes = b""
    _constants: _Constants = field(default_factory=dict)

    def get(self, variables: Sequence[keras.Variable], compute: Callable[[], _Constants]) -> _Constants:
        """Returns the constants of the variables as they are, computed at the first call and after a change."""
        digest = hashlib.sha256()
        for variable in variables:
            digest.update(ops.convert_to_numpy(ops.convert_to_tensor(variable)).tobytes())
        if digest.digest() != self._digest:
            self._constants = compute()
            self._digest = digest.digest()
        return self._constants


def _record_rounds(evaluator: Evaluator) -> dict[str, np.ndarray]:
    """Lets an evaluator fill the returned dict with the values at each point, at their first visit."""
    values: dict[str, np.ndarray] = {}
    compute_round = evaluator.round

    def round_and_record(compute: Callable[[], Tensor], name: str, rounding: Rounding | None = None) -> Rounded:
        result = compute_round(compute, name, rounding)
        values.setdefault(name, ops.convert_to_numpy(result.tensor))
        return result

    evaluator.round = round_and_record  # type: ignore[method-assign]
    return values


def _zeros(specs: Sequence[keras.KerasTensor]) -> list[np.ndarray]:
    """Returns a sample of zeros for each input."""
    return [np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in specs]


def _evaluate(
    program: Program,
    specs: Sequence[keras.KerasTensor],
    evaluator: Evaluator,
    inputs: Sequence[Tensor],
    refusals: list[Refusal] | None = None,
) -> Tree:
    """Interprets a program on its flat inputs, floating-point ones in float32."""
    tensors = [
        ops.cast(values, "float32") if "float" in spec.dtype else ops.convert_to_tensor(values)
        for values, spec in zip(inputs, specs, strict=True)
    ]
    names = [f"input/{number}" for number in range(len(tensors))]
    return interpret(program, evaluator, tensors, names, refusals)
