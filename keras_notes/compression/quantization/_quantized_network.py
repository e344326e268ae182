"""A program with its scheme and ranges: what a quantization-aware model computes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_notes.compression.quantization._affine import Grid
from keras_notes.compression.quantization._calibrator import Calibration
from keras_notes.compression.quantization._config import Scheme
from keras_notes.compression.quantization._deploy_emitter import Deployment
from keras_notes.compression.quantization._interpreter import has_rule, run
from keras_notes.compression.quantization._ranges import Ranges
from keras_notes.compression.quantization._simulator import Simulation
from keras_notes.compression.quantization._tracer import Step, trace

__all__ = ["QuantizedProgram"]

_BATCH = 64
# Of the names of weights, by that of their variable, where a layer has several or uses one more than once.
_SUFFIXES = {
    "depthwise_kernel": ("", "/depthwise"),
    "recurrent_kernel": tuple(f"{side}/recurrent" for side in ("", "/forward", "/backward")),
    "kernel": ("", *(f"{side}/input{first}" for side in ("", "/forward", "/backward") for first in ("", "/first"))),
}


class QuantizedProgram(keras.Layer):
    """What a network computes, step by step, in the arithmetic of a device.

    It holds the ranges; the weights are those of the network, which it does not own.

    Args:
        network: The network.
        structure: Its inputs as KerasTensors, in the structure in which it takes them.
        scheme: The choices of `quantize_aware`.
        points: The names of the points where it rounds.
        clustered: The weights that take few values.
    """

    def __init__(
        self,
        network: keras.Model,
        structure: Any,
        scheme: Scheme,
        points: Sequence[str],
        clustered: Collection[keras.Variable] = (),
    ) -> None:
        super().__init__(name="quantization", dtype="float32")
        self.scheme = scheme
        self.ranges = Ranges(points, **scheme.ranges)
        self._specs = tuple(tree.flatten(structure))
        self._program = trace(network, self._specs, structure, has_rule=has_rule, is_float=scheme.is_float)
        self._shared = _names_of(self._program.steps, clustered)
        self.built = True

    @property
    def steps(self) -> tuple[Step, ...]:
        """What it computes, step by step."""
        return self._program.steps

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The outputs, in the structure of the network's."""
        arithmetic = self.simulation(training)
        outputs = self._run(arithmetic, tree.flatten(inputs))
        if training:
            self.ranges.follow(arithmetic.visited)
        return outputs

    def simulation(self, training: bool = False) -> Simulation:
        """The arithmetic of the device, for one run."""
        live = self.scheme.batch_norm == "live"
        return Simulation(
            self.scheme.format,
            self.scheme.bits,
            self.ranges,
            training=training,
            live_statistics=live,
            shared=self._shared,
        )

    def calibrated(self, arrays: Sequence[np.ndarray] | None) -> dict[str, tuple[float, float]]:
        """The range at each point over calibration samples; without any, the points alone."""
        arithmetic = Calibration(self.scheme.format, self.scheme.bits)
        if arrays is None:
            arrays = [np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in self._specs]
        for start in range(0, len(arrays[0]), _BATCH):
            self._run(arithmetic, [array[start : start + _BATCH] for array in arrays])
        return arithmetic.ranges

    def deployment(self, mark: Callable) -> Deployment:
        """The arithmetic of the deploy graph, with weights, biases and grids in numbers.

        Args:
            mark: Takes a tensor and the Grid that it shall be rounded to; returns the tensor with a mark on it.
        """
        scheme = self.scheme
        return Deployment(scheme.format, scheme.bits, self.ranges.grids(scheme.format), self._constants(), mark)

    def integers(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Grid]]:
        """Weights on their grids with the scale of each channel, and the grids of all other tensors."""
        found = self._constants()
        kernels = [values for values in found.values() if values[0].ndim > 1]
        format = self.scheme.format
        if format is None:
            return kernels, []
        constants = [values for name, values in found.items() if name.endswith("/constant")]
        grids = [Grid(float(scale), float(zero_point), format) for scale, zero_point in constants]
        return kernels, [*self.ranges.grids(format).values(), *grids]

    def _constants(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Weights, biases and the grids of constants, in numbers, by name."""
        arithmetic = self.simulation()
        self._run(arithmetic, [np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in self._specs])
        return {
            name: (ops.convert_to_numpy(values[0]), ops.convert_to_numpy(values[1]))
            for name, values in arithmetic.constants.items()
        }

    def deploy(self, deployment: Deployment, inputs: Any) -> Any:
        """The outputs of the deploy graph, in the structure of the network's."""
        return self._run(deployment, tree.flatten(inputs))

    def _run(self, arithmetic: Any, inputs: Sequence[Any]) -> Any:
        tensors = [
            ops.cast(one, "float32") if "float" in spec.dtype else ops.convert_to_tensor(one)
            for one, spec in zip(inputs, self._specs, strict=True)
        ]
        return run(self._program, arithmetic, tensors, [f"input/{number}" for number in range(len(tensors))])


def _names_of(steps: Sequence[Step], variables: Collection[keras.Variable]) -> frozenset[str]:
    """The names of the weights that are made of some variables, by the names that rules give to weights."""
    wanted = set(map(id, variables))
    names: set[str] = set()
    for step in steps:
        owned = step.operation.variables if isinstance(step.operation, keras.Layer) else ()
        for variable in owned:
            if id(variable) in wanted:
                names.update(f"{step.name}{suffix}" for suffix in _SUFFIXES.get(variable.name, ("",)))
    return frozenset(names)
