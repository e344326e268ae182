"""Rules for the ranges of activations, so that every kernel accepts the scales that follow from them.

A range that calibration measures can be of no use: that of a ReLU which never opens on the calibration data is a single
point, and its scale would be 1e-12. XNNPACK opens no file in which a step of the sums of products is 256 steps of the
result or more, and LiteRT's own kernels compute sums wrongly from 1,024 on, or end the process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.grids._fit_biases import smallest_weight_scales
from keras_notes.conversion.grids._weighted_operators import input_at
from keras_notes.conversion.passes._schema import (
    WEIGHTED_OPERATORS,
    TensorRange,
    WeightPlaces,
    code_of,
    constant_of,
    name_of,
)

__all__ = ["MOVES", "fit_ranges", "step_of"]

_OPERATORS = schema.BuiltinOperator
# The quantizer gives the results the scale of the (first) input.
MOVES = frozenset((
    _OPERATORS.RESHAPE, _OPERATORS.EXPAND_DIMS, _OPERATORS.SQUEEZE, _OPERATORS.TRANSPOSE, _OPERATORS.PAD,
    _OPERATORS.MIRROR_PAD, _OPERATORS.SLICE, _OPERATORS.STRIDED_SLICE, _OPERATORS.GATHER, _OPERATORS.GATHER_ND,
    _OPERATORS.SPLIT, _OPERATORS.UNPACK, _OPERATORS.BROADCAST_TO, _OPERATORS.TILE, _OPERATORS.RESIZE_BILINEAR,
    _OPERATORS.RESIZE_NEAREST_NEIGHBOR, _OPERATORS.SPACE_TO_DEPTH, _OPERATORS.DEPTH_TO_SPACE,
    _OPERATORS.SPACE_TO_BATCH_ND, _OPERATORS.BATCH_TO_SPACE_ND, _OPERATORS.AVERAGE_POOL_2D, _OPERATORS.MAX_POOL_2D,
    _OPERATORS.REDUCE_MIN, _OPERATORS.REDUCE_MAX,
))  # fmt: skip
# Their scales are the same for every model.
_FIXED = frozenset((_OPERATORS.SOFTMAX, _OPERATORS.LOGISTIC, _OPERATORS.TANH, _OPERATORS.LOG_SOFTMAX))
_LIMITS = (_OPERATORS.MAXIMUM, _OPERATORS.MINIMUM)
_SUMS = (_OPERATORS.ADD, _OPERATORS.SUB)
_PRODUCTS = (_OPERATORS.MUL, _OPERATORS.BATCH_MATMUL)
_SELECTIONS = (_OPERATORS.SELECT, _OPERATORS.SELECT_V2)
# The most that a selection's range grows by a constant: 2 of the 8 bits of int8.
_LARGEST_WIDENING = 4.0
# Their results are no larger than their largest input.
_BOUNDED = frozenset((
    _OPERATORS.RELU, _OPERATORS.RELU6, _OPERATORS.LEAKY_RELU, _OPERATORS.PRELU, _OPERATORS.HARD_SWISH,
    _OPERATORS.GELU, _OPERATORS.MEAN, _OPERATORS.CONCATENATION, _OPERATORS.PACK, _OPERATORS.PADV2, _OPERATORS.MAXIMUM,
    _OPERATORS.MINIMUM, _OPERATORS.SELECT, _OPERATORS.SELECT_V2,
))  # fmt: skip
_RELU6 = schema.ActivationFunctionType.RELU6
_POSITIVE = (schema.ActivationFunctionType.RELU, _RELU6)
# Half of the ratio from which on XNNPACK refuses a file.
_LARGEST_RATIO = 128.0
# A range smaller than this share of what an operator can give is no measurement: the integers of its inputs are less
# precise. It gets a range of `_FLOOR`, which leaves the integers of the next layer their precision.
_NOTHING = 2.0**-20
_FLOOR = 2.0**-8
# The kernels hold the 6 of RELU6 as an int32.
_LARGEST_INTEGER = 2.0**30
# LiteRT's int16 sums have another way for scales that are powers of two within this share of an octave.
_POWER_OF_TWO = 1e-3
_OFF_POWER_OF_TWO = 1.003
# The smallest range of the quantizer.
_SMALLEST_RANGE = 1e-9


def step_of(minimum: float, maximum: float, activations: str) -> float:
    """Returns the step of the grid that the quantizer makes of a range.

    Args:
        minimum: The smallest value.
        maximum: The largest value.
        activations: "int8", whose grid also has 0; or "int16", whose grid is symmetric.
    """
    if activations == "int16":
        return max(abs(minimum), abs(maximum), _SMALLEST_RANGE) / 32767
    return max(max(maximum, 0.0) - min(minimum, 0.0), _SMALLEST_RANGE) / 255


def fit_ranges(
    model: schema.ModelT, ranges: Mapping[str, TensorRange], activations_of: Callable[[str], str]
) -> dict[str, TensorRange]:
    """Returns ranges, widened where no kernel takes the scales that follow from the measured ones.

    Args:
        model: The float file that the ranges were measured on.
        ranges: The range of each tensor over the calibration samples, by name.
        activations_of: The type of the result of the operator that gives the tensor of this name: "int8", "int16", or
            "float32".
    """
    fitted = dict(ranges)
    for graph in model.subgraphs:
        fitter = _Fitter(model, graph, fitted, activations_of)
        for index in graph.inputs:
            fitter.fit_input(index)
        for operator in graph.operators:
            fitter.fit(operator)
        fitter.join_limits()
    return fitted


@dataclass
class _Fitter:
    """The ranges of a graph, which are fitted operator by operator."""

    model: schema.ModelT
    graph: schema.SubGraphT
    ranges: dict[str, TensorRange]
    activations_of: Callable[[str], str]
    # The largest magnitude that a tensor can have, where calibration gave no range.
    _reaches: dict[int, float] = field(default_factory=dict)

    def fit_input(self, index: int) -> None:
        """Gives an input that is 0 in every sample the range from -1 to 1."""
        name = name_of(self.graph.tensors[index])
        if name in self.ranges and _is_zero(self.ranges[name]):
            self.ranges[name] = self.ranges[name]._replace(minimum=-1.0, maximum=1.0)

    def fit(self, operator: schema.OperatorT) -> None:
        """Fits the ranges of an operator's results, after those of its inputs."""
        for index in operator.outputs:
            name = name_of(self.graph.tensors[index]) if index >= 0 else ""
            activations = self.activations_of(name) if name in self.ranges else "float32"
            if activations != "float32" and code_of(self.model, operator) not in _FIXED:
                self._fit_result(operator, index, activations)

    def join_limits(self) -> None:
        """Gives a value between its two limits the range of the clipped one: on its own grid it is rounded once more.

        A grid clips to its range, which lies within the limit that comes.
        """
        limits = [operator for operator in self.graph.operators if code_of(self.model, operator) in _LIMITS]
        results = {int(operator.outputs[0]) for operator in limits} - set(map(int, self.graph.outputs))
        uses = Counter(int(tensor) for operator in self.graph.operators for tensor in operator.inputs)
        for operator in reversed(limits):
            name = name_of(self.graph.tensors[operator.outputs[0]])
            inner = [int(tensor) for tensor in operator.inputs if int(tensor) in results and uses[int(tensor)] == 1]
            constants = [constant_of(self.model, self.graph.tensors[tensor]) for tensor in operator.inputs]
            if len(inner) == 1 and any(values is not None for values in constants) and name in self.ranges:
                source = name_of(self.graph.tensors[inner[0]])
                if source in self.ranges and self.activations_of(source) == self.activations_of(name):
                    self.ranges[source] = self.ranges[name]._replace(rank=self.ranges[source].rank)

    def _fit_result(self, operator: schema.OperatorT, index: int, activations: str) -> None:
        name, code = name_of(self.graph.tensors[index]), code_of(self.model, operator)
        if code in _SELECTIONS:
            self._include_constants(operator, name)
        source = self.ranges.get(name_of(self.graph.tensors[operator.inputs[0]])) if len(operator.inputs) else None
        if code == _OPERATORS.TOPK_V2 and source is not None:
            # The kernel gives integers of its input: on a finer grid they would only be rounded once more.
            self.ranges[name] = source._replace(rank=self.ranges[name].rank)
        self._widen_degenerate(operator, index)
        step = step_of(*self.ranges[name][:2], activations)
        required = self._input_step(operator, activations) / _LARGEST_RATIO
        if _RELU6 in _activations_of(operator) or code == _OPERATORS.RELU6:
            required = max(required, 6.0 / _LARGEST_INTEGER)
        if required > step:
            self._widen(operator, index, activations, required)
        if activations == "int16" and code in _SUMS and self._is_refused_sum(operator, name):
            step = step_of(*self.ranges[name][:2], activations)
            self._widen(operator, index, activations, step * _OFF_POWER_OF_TWO)

    def _include_constants(self, operator: schema.OperatorT, name: str) -> None:
        """Widens the range of a selection by constants that the calibration data never selected."""
        measured = self.ranges[name]
        minimum, maximum = measured.minimum, measured.maximum
        for place in (1, 2):
            values = constant_of(self.model, self.graph.tensors[operator.inputs[place]])
            if values is not None:
                minimum, maximum = min(minimum, float(values.min())), max(maximum, float(values.max()))
        # Not by a mask such as -1e9, which would leave the other values no integers.
        if maximum - minimum <= _LARGEST_WIDENING * (measured.maximum - measured.minimum):
            self.ranges[name] = measured._replace(minimum=minimum, maximum=maximum)

    def _widen_degenerate(self, operator: schema.OperatorT, index: int) -> None:
        """Widens a range that is next to nothing beside what the operator can give."""
        tensor = self.graph.tensors[index]
        measured = self.ranges[name_of(tensor)]
        reach = self._reach(operator)
        if reach is None or max(abs(measured.minimum), abs(measured.maximum)) > reach * _NOTHING:
            return
        reach = reach or 1.0
        self._reaches[index] = reach
        source = self.ranges.get(name_of(self.graph.tensors[self._moved(operator)]))
        if code_of(self.model, operator) in MOVES and source is not None:
            self.ranges[name_of(tensor)] = source._replace(rank=measured.rank)
        else:
            floor = reach * _FLOOR
            minimum = 0.0 if self._is_positive(operator) else -floor
            self.ranges[name_of(tensor)] = measured._replace(minimum=minimum, maximum=floor)

    def _widen(self, operator: schema.OperatorT, index: int, activations: str, step: float) -> None:
        """Widens the range of a result so that its grid has this step."""
        name = name_of(self.graph.tensors[index])
        measured = self.ranges[name]
        if _is_zero(measured):
            measured = measured._replace(minimum=0.0 if self._is_positive(operator) else -1.0, maximum=1.0)
        # Not `step_of`, which has a smallest step.
        width = max(abs(measured.minimum), abs(measured.maximum), max(measured.maximum, 0) - min(measured.minimum, 0))
        factor = step / step_of(measured.minimum / width, measured.maximum / width, activations) / width
        self.ranges[name] = measured._replace(minimum=measured.minimum * factor, maximum=measured.maximum * factor)

    def _reach(self, operator: schema.OperatorT) -> float | None:
        """Returns the largest magnitude of an operator's results, from those of its inputs; None if not known."""
        code = code_of(self.model, operator)
        places = WEIGHTED_OPERATORS.get(code)
        if places is not None:
            return self._reach_of_weights(operator, places)
        if code in MOVES:
            return self._magnitude(self._moved(operator))
        magnitudes = [self._magnitude(index) for index in operator.inputs if self._is_float(index)]
        if code in _SUMS:
            return sum(magnitudes)
        if code in _PRODUCTS:
            inner = self.graph.tensors[operator.inputs[0]].shape[-1] if code == _OPERATORS.BATCH_MATMUL else 1
            return math.prod(magnitudes) * float(inner)
        return max(magnitudes, default=0.0) if code in _BOUNDED else None

    def _reach_of_weights(self, operator: schema.OperatorT, places: WeightPlaces) -> float | None:
        channels = self._channels(operator, places)
        if channels is None:
            return None
        weights, bias = channels
        x = self._magnitude(operator.inputs[places.x])
        return float((np.abs(weights).sum(axis=1) * x + np.abs(bias)).max(initial=0.0))

    def _input_step(self, operator: schema.OperatorT, activations: str) -> float:
        """Returns the step of what a kernel rescales to the result: of inputs, of products or of sums of products."""
        code = code_of(self.model, operator)
        places = WEIGHTED_OPERATORS.get(code)
        if places is not None:
            x_step = self._step(operator.inputs[places.x], activations)
            channels = self._channels(operator, places)
            if channels is None:
                return x_step * self._step(operator.inputs[places.weights], activations)
            weights, bias = channels
            scales = np.maximum(np.abs(weights).max(axis=1, initial=0.0), _SMALLEST_RANGE) / 127
            return x_step * float(np.maximum(scales, smallest_weight_scales(bias, x_step)).max(initial=0.0))
        if code in MOVES:
            return self._step(self._moved(operator), activations)
        steps = [self._step(index, activations) for index in operator.inputs if self._is_float(index)]
        if code in _PRODUCTS:
            return math.prod(steps)
        return max(steps, default=0.0) if code in _SUMS or code in _BOUNDED else 0.0

    def _channels(self, operator: schema.OperatorT, places: WeightPlaces) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the weights of each channel, and the biases; None if weights are no constants."""
        weights, bias = (input_at(self.graph, operator, place) for place in (places.weights, places.bias))
        values = None if weights is None else constant_of(self.model, weights)
        if weights is None or values is None:
            return None
        by_channel = np.moveaxis(values.reshape(tuple(weights.shape)), places.channels, 0)
        by_channel = by_channel.reshape(len(by_channel), -1)
        biases = None if bias is None else constant_of(self.model, bias)
        return by_channel, np.zeros(len(by_channel)) if biases is None else biases

    def _is_refused_sum(self, operator: schema.OperatorT, name: str) -> bool:
        """Returns whether LiteRT refuses a sum in int16: all scales are powers of two, and it cannot shift by them."""
        inputs = [self._step(index, "int16") for index in operator.inputs]
        exponents = [math.log2(step) for step in (*inputs, step_of(*self.ranges[name][:2], "int16"))]
        whole = [round(exponent) for exponent in exponents]
        if any(abs(exponent - near) > 2 * _POWER_OF_TWO for exponent, near in zip(exponents, whole, strict=True)):
            return False
        shifts = [exponent - whole[-1] for exponent in whole[:-1]]
        return max(shifts) != 0

    def _is_positive(self, operator: schema.OperatorT) -> bool:
        code = code_of(self.model, operator)
        return code in (_OPERATORS.RELU, _OPERATORS.RELU6) or any(
            activation in _POSITIVE for activation in _activations_of(operator)
        )

    def _magnitude(self, index: int) -> float:
        if index in self._reaches:
            return self._reaches[index]
        return max(map(abs, self._values(index)), default=0.0)

    def _step(self, index: int, activations: str) -> float:
        values = self._values(index)
        return step_of(min(values), max(values), activations) if values else 0.0

    def _values(self, index: int) -> tuple[float, ...]:
        """Returns the smallest and the largest value of a tensor; () if they are not known."""
        tensor = self.graph.tensors[index]
        constant = constant_of(self.model, tensor)
        if constant is not None:
            return (float(constant.min(initial=0.0)), float(constant.max(initial=0.0)))
        measured = self.ranges.get(name_of(tensor))
        return () if measured is None else measured[:2]

    def _moved(self, operator: schema.OperatorT) -> int:
        """Returns the input whose values an operator moves: the first one in floating point."""
        return next((index for index in operator.inputs if self._is_float(index)), operator.inputs[0])

    def _is_float(self, index: int) -> bool:
        return index >= 0 and self.graph.tensors[index].type == schema.TensorType.FLOAT32


def _activations_of(operator: schema.OperatorT) -> tuple[int, ...]:
    """Returns the activation function that is fused to an operator, if any."""
    activation = getattr(operator.builtinOptions, "fusedActivationFunction", None)
    return () if activation is None else (activation,)


def _is_zero(values: TensorRange) -> bool:
    return values.minimum == 0 == values.maximum
