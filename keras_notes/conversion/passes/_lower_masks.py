"""A pass that lowers the masks before a softmax only as far as integers need.

A score that must not count is set to -1e9 or less, or has such a number added to it. One step of the 256 of int8 or the
65,536 of int16 would then be as large as all the scores that do count. exp(-12) is less than half a step of a softmax
in int16, so a mask needs to be no lower than 12 below the lowest score.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes._shared.softmax_masks import MASK_MARGIN
from keras_notes.conversion.passes._schema import TensorRange, add_constant, code_of, constant_of, name_of

__all__ = ["lower_masks"]

# No score of a network that works is as large; every mask is (65504 is the smallest in use, for float16).
_MASKED = 1e4
_OPERATORS = schema.BuiltinOperator
_SELECTS = (_OPERATORS.SELECT, _OPERATORS.SELECT_V2)
_SUMS = (_OPERATORS.ADD, _OPERATORS.SUB)
_MOVES = (_OPERATORS.RESHAPE, _OPERATORS.EXPAND_DIMS, _OPERATORS.TRANSPOSE, _OPERATORS.BROADCAST_TO)


class _Scores(NamedTuple):
    """The range of the scores that count."""

    minimum: float
    maximum: float


class _Place(NamedTuple):
    """The place of a constant: an operator by its index, and an input of it."""

    operator: int
    input: int


def lower_masks(model: schema.ModelT, ranges: Mapping[str, TensorRange], is_integer: Callable[[str], bool]) -> bool:
    """Replaces each mask by one just below the scores of its softmax.

    Args:
        model: A file in float32.
        ranges: The range of each tensor over the calibration samples, by name.
        is_integer: Whether the operator that gives the tensor of this name will compute in integers; other softmaxes
            keep their masks.
    """
    changed = False
    for graph in model.subgraphs:
        masks = _Masks(model, graph, ranges)
        for operator in graph.operators:
            if code_of(model, operator) == _OPERATORS.SOFTMAX and is_integer(
                name_of(graph.tensors[operator.outputs[0]])
            ):
                masks.find_scores(operator.inputs[0])
        changed |= masks.apply()
    return changed


@dataclass
class _Masks:
    """The masks of a graph, and the values that are to replace them."""

    model: schema.ModelT
    graph: schema.SubGraphT
    ranges: Mapping[str, TensorRange]
    # A constant that several softmaxes share must be low enough for each.
    _replacements: dict[_Place, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._producers: dict[int, int] = {
            result: index for index, operator in enumerate(self.graph.operators) for result in operator.outputs
        }

    def find_scores(self, tensor: int) -> _Scores | None:
        """Finds the masks on the scores; returns the range of those that count, None if it is not known."""
        producer = self._producers.get(tensor)
        if producer is not None:
            operator = self.graph.operators[producer]
            code = code_of(self.model, operator)
            if code in _SELECTS:
                return self._scores_of_select(producer, operator)
            if code in _SUMS:
                return self._scores_of_sum(producer, operator, code)
            if code in _MOVES:
                return self.find_scores(operator.inputs[0])
        return self._measured_range(tensor)

    def apply(self) -> bool:
        """Puts the new values in place; returns whether there are any."""
        for place, value in self._replacements.items():
            operator = self.graph.operators[place.operator]
            inputs = list(operator.inputs)
            inputs[place.input] = self._add_lowered(inputs[place.input], value, f"{place.operator}_{place.input}")
            operator.inputs = inputs
        return bool(self._replacements)

    def _scores_of_select(self, index: int, operator: schema.OperatorT) -> _Scores | None:
        for masked, other in ((1, 2), (2, 1)):
            values = self._constant(operator.inputs[masked])
            if values is not None and (values <= -_MASKED).all():
                counting = self.find_scores(operator.inputs[other])
                if counting is not None:
                    self._replace(_Place(index, masked), counting.minimum - MASK_MARGIN)
                return counting
        branches = [self.find_scores(operator.inputs[place]) for place in (1, 2)]
        known = [branch for branch in branches if branch is not None]
        if len(known) < len(branches):
            return None
        return _Scores(min(branch.minimum for branch in known), max(branch.maximum for branch in known))

    def _scores_of_sum(self, index: int, operator: schema.OperatorT, code: int) -> _Scores | None:
        for summand, other in ((1, 0), (0, 1)):
            sign = -1.0 if code == _OPERATORS.SUB and summand == 1 else 1.0
            mask = self._mask_of_summand(_Place(index, summand), operator.inputs[summand], sign)
            if mask is None or (code == _OPERATORS.SUB and summand == 0):
                continue
            place, values = mask
            counting = self.find_scores(operator.inputs[other])
            if counting is None:
                return None
            kept = sign * values[np.abs(values) < _MASKED]
            minimum = counting.minimum + kept.min(initial=0.0)
            maximum = counting.maximum + kept.max(initial=0.0)
            self._replace(place, -sign * (maximum - minimum + MASK_MARGIN))
            return _Scores(float(minimum), float(maximum))
        return self._measured_range(operator.outputs[0])

    def _mask_of_summand(self, place: _Place, tensor: int, sign: float) -> tuple[_Place, np.ndarray] | None:
        """Returns the place of the constant that makes a summand a mask, and its values; None for another summand."""
        values = self._constant(tensor)
        if values is not None:
            return (place, values) if self._has_mask(values, sign) else None
        producer = self._producers.get(tensor)
        if producer is None:
            return None
        operator = self.graph.operators[producer]
        code = code_of(self.model, operator)
        if code in _MOVES:
            return self._mask_of_summand(_Place(producer, 0), operator.inputs[0], sign)
        if code == _OPERATORS.MUL:  # (1 - mask) * -1e9
            for factor, other in ((1, 0), (0, 1)):
                values = self._constant(operator.inputs[factor])
                share = self._measured_range(operator.inputs[other])
                is_share = share is not None and 0 <= share.minimum <= share.maximum <= 1
                if values is not None and values.size == 1 and self._has_mask(values, sign) and is_share:
                    return _Place(producer, factor), values
        return None

    def _has_mask(self, values: np.ndarray, sign: float) -> bool:
        return bool((sign * values <= -_MASKED).any() and (sign * values < _MASKED).all())

    def _replace(self, place: _Place, value: float) -> None:
        self._replacements[place] = max(self._replacements.get(place, 0.0), value, key=abs)

    def _measured_range(self, tensor: int) -> _Scores | None:
        values = self.ranges.get(name_of(self.graph.tensors[tensor]))
        if values is None or max(abs(values.minimum), abs(values.maximum)) >= _MASKED:
            return None
        return _Scores(values.minimum, values.maximum)

    def _constant(self, tensor: int) -> np.ndarray | None:
        return constant_of(self.model, self.graph.tensors[tensor])

    def _add_lowered(self, constant: int, value: float, suffix: str) -> int:
        """Adds a constant with another value at the masked places; returns its index."""
        tensor = copy.copy(self.graph.tensors[constant])
        values = np.frombuffer(bytes(self.model.buffers[tensor.buffer].data), "<f4")
        lowered = np.where(np.abs(values) >= _MASKED, np.float32(value), values).astype("<f4")
        tensor.name = f"{name_of(tensor)}#lowered_{suffix}".encode()
        return add_constant(self.model, self.graph, tensor, lowered)
