"""Masks before a softmax that leave integers room for the scores.

A score that shall not count is set to -1e9 or less, or has such a number added to it. One step of the 256 of int8 or
the 65,536 of int16 would then be as large as all the scores that do count. exp(-12) is less than half a step of a
softmax in int16, so a mask needs to be no lower than that below the lowest score.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes._shared.softmax_masks import MASK_MARGIN
from keras_notes.conversion.passes._schema import code_of, name_of

__all__ = ["lower_masks"]

# No score of a network that works is as large; every mask is (65504 is the least in use, for float16).
_MASKED = 1e4
_OPERATORS = schema.BuiltinOperator
_SELECTS = (_OPERATORS.SELECT, _OPERATORS.SELECT_V2)
_SUMS = (_OPERATORS.ADD, _OPERATORS.SUB)
_MOVES = (_OPERATORS.RESHAPE, _OPERATORS.EXPAND_DIMS, _OPERATORS.TRANSPOSE, _OPERATORS.BROADCAST_TO)


def lower_masks(tflite: bytes, ranges: Mapping[str, Sequence[float]], is_integer: Callable[[str], bool]) -> bytes:
    """The float file, with each mask just below the scores of its softmax.

    Args:
        tflite: A file in float32.
        ranges: The least and largest value of each tensor over the calibration samples.
        is_integer: Whether the operator that gives the tensor of this name will compute in integers; other softmaxes
            keep their masks.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    changed = False
    for graph in model.subgraphs:
        masks = _Masks(model, graph, ranges)
        for operator in graph.operators:
            if masks.code(operator) == _OPERATORS.SOFTMAX and is_integer(name_of(graph.tensors[operator.outputs[0]])):
                masks.scores(operator.inputs[0])
        changed |= masks.apply()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if changed else tflite


@dataclass
class _Masks:
    """The masks of a graph, and what is to take the place of their values."""

    model: schema.ModelT
    graph: schema.SubGraphT
    ranges: Mapping[str, Sequence[float]]
    # By the operator and the place of its constant: one that several softmaxes share must be low enough for each.
    _replacements: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._producers = {result: n for n, one in enumerate(self.graph.operators) for result in one.outputs}

    def code(self, operator) -> int:
        return code_of(self.model, operator)

    def scores(self, tensor: int) -> tuple[float, float] | None:
        """Finds the masks on the scores; returns the range of those that count, None if it is not known."""
        number = self._producers.get(tensor)
        if number is not None:
            operator = self.graph.operators[number]
            code = self.code(operator)
            if code in _SELECTS:
                return self._selected(number, operator)
            if code in _SUMS:
                return self._summed(number, operator, code)
            if code in _MOVES:
                return self.scores(operator.inputs[0])
        return self._measured(tensor)

    def apply(self) -> bool:
        """Puts the new values in place; returns whether there are any."""
        for (number, place), value in self._replacements.items():
            operator = self.graph.operators[number]
            inputs = list(operator.inputs)
            inputs[place] = self._lowered(inputs[place], value, f"{number}_{place}")
            operator.inputs = inputs
        return bool(self._replacements)

    def _selected(self, number: int, operator) -> tuple[float, float] | None:
        for place, other in ((1, 2), (2, 1)):
            values = self._constant(operator.inputs[place])
            if values is not None and (values <= -_MASKED).all():
                counting = self.scores(operator.inputs[other])
                if counting is not None:
                    self._replace(number, place, counting[0] - MASK_MARGIN)
                return counting
        branches = [self.scores(operator.inputs[place]) for place in (1, 2)]
        known = [branch for branch in branches if branch is not None]
        if len(known) < len(branches):
            return None
        return min(least for least, _ in known), max(most for _, most in known)

    def _summed(self, number: int, operator, code: int) -> tuple[float, float] | None:
        for place, other in ((1, 0), (0, 1)):
            sign = -1.0 if code == _OPERATORS.SUB and place == 1 else 1.0
            found = self._added_mask(number, operator.inputs[place], place, sign)
            if found is None or (code == _OPERATORS.SUB and place == 0):
                continue
            (mask_number, mask_place), values = found
            counting = self.scores(operator.inputs[other])
            if counting is None:
                return None
            kept = sign * values[np.abs(values) < _MASKED]
            least, most = counting[0] + kept.min(initial=0.0), counting[1] + kept.max(initial=0.0)
            self._replace(mask_number, mask_place, -sign * (most - least + MASK_MARGIN))
            return float(least), float(most)
        return self._measured(operator.outputs[0])

    def _added_mask(self, number: int, tensor: int, place: int, sign: float):
        """Where the constant stands that makes a summand a mask, and its values; None if the summand is none."""
        values = self._constant(tensor)
        if values is not None:
            return ((number, place), values) if self._has_mask(values, sign) else None
        maker = self._producers.get(tensor)
        if maker is None:
            return None
        operator = self.graph.operators[maker]
        if self.code(operator) in _MOVES:
            return self._added_mask(maker, operator.inputs[0], 0, sign)
        if self.code(operator) == _OPERATORS.MUL:  # (1 - mask) * -1e9
            for factor, shares in ((1, 0), (0, 1)):
                values = self._constant(operator.inputs[factor])
                share = self._measured(operator.inputs[shares])
                is_share = share is not None and 0 <= share[0] <= share[1] <= 1
                if values is not None and values.size == 1 and self._has_mask(values, sign) and is_share:
                    return (maker, factor), values
        return None

    def _has_mask(self, values: np.ndarray, sign: float) -> bool:
        return bool((sign * values <= -_MASKED).any() and (sign * values < _MASKED).all())

    def _replace(self, number: int, place: int, value: float) -> None:
        before = self._replacements.get((number, place), 0.0)
        self._replacements[number, place] = max(before, value, key=abs)

    def _measured(self, tensor: int) -> tuple[float, float] | None:
        found = self.ranges.get(name_of(self.graph.tensors[tensor]))
        return None if found is None or max(map(abs, found[:2])) >= _MASKED else (found[0], found[1])

    def _constant(self, index: int) -> np.ndarray | None:
        tensor = self.graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or tensor.type != schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(bytes(data), "<f4")

    def _lowered(self, constant: int, value: float, suffix: str) -> int:
        """Adds a constant with another value for what is masked; returns its index."""
        old = self.graph.tensors[constant]
        values = np.frombuffer(bytes(self.model.buffers[old.buffer].data), "<f4")
        buffer = schema.BufferT()
        lowered = np.where(np.abs(values) >= _MASKED, np.float32(value), values).astype("<f4")
        buffer.data = np.frombuffer(lowered.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor = copy.copy(old)
        tensor.name = f"{name_of(tensor)}#lowered_{suffix}".encode()
        tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1
