"""What a .tflite file holds: operators, tensors, signatures, and what follows from them. `_tflite_reader` reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FLOAT_DTYPES", "Operator", "Signature", "Tensor", "TfliteFile", "file_from_dict"]

# Operators that only move a value between the float edge and the integer graph.
_EDGE_OPERATORS = frozenset({"QUANTIZE", "DEQUANTIZE"})
FLOAT_DTYPES = frozenset({"float16", "float32", "float64"})
_RESOURCE_OPERATORS = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"})


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        scale: Size of a step; None unless it is quantized per tensor.
        zero_point: The integer that stands for 0.0, likewise.
        is_constant: Whether the file holds its values, as it does of weights.
        channels: How many scales it has: 0 for a float, 1 per tensor, more per channel.
        bytes: Size of its values in the file; 0 unless it is constant.
        buffer: Where its values lie: weights that two graphs share have one buffer.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    is_constant: bool
    channels: int = 0
    bytes: int = 0
    buffer: int = 0


@dataclass(frozen=True)
class Operator:
    """An operator of a graph, with the indices of its tensors; `name` is the custom code of a custom one."""

    name: str
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """A named entry of the file: tensor indices by input and output name, in the graph number `graph`."""

    name: str
    inputs: dict[str, int]
    outputs: dict[str, int]
    graph: int = 0


@dataclass(frozen=True)
class TfliteFile:
    """The main graph of a .tflite file, its signatures, and its other graphs: of further signatures, loops, branches.

    Attributes:
        metadata: What stands in the file by name, as text, beside the graphs.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    signatures: tuple[Signature, ...]
    bodies: tuple[TfliteFile, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    def graph(self, signature: Signature) -> TfliteFile:
        """The graph that a signature runs."""
        return self.graphs()[signature.graph]

    def operator_counts(self) -> dict[str, int]:
        """How often each operator occurs, the most frequent first."""
        return dict(Counter(operator.name for operator in self._all_operators()).most_common())

    def float_islands(self) -> tuple[str, ...]:
        """The operators that compute in floating point, as "NAME tensor": none in a fully integer graph."""
        return tuple(described for _, described in self.float_operators())

    def float_operators(self) -> tuple[tuple[str, str], ...]:
        """The first result of each operator that computes in floating point, and "NAME tensor"."""
        found = []
        for graph in self.graphs():
            for operator in graph.operators:
                if not graph._is_edge(operator) and graph._touches_float(operator):
                    result = graph.tensors[operator.outputs[0]].name if operator.outputs else ""
                    found.append((result, f"{operator.name} {result}".rstrip()))
        return tuple(found)

    @property
    def is_mixed(self) -> bool:
        """Whether some operators compute in floating point and others do not; those of the float edge do neither."""
        edges = sum(graph._is_edge(operator) for graph in self.graphs() for operator in graph.operators)
        return 0 < len(self.float_operators()) < len(self._all_operators()) - edges

    def graphs(self) -> tuple[TfliteFile, ...]:
        """All graphs of the file, the main one first."""
        return (self, *self.bodies)

    def custom_operators(self) -> tuple[str, ...]:
        """The operators that are no built-ins, TensorFlow's "Flex" ones among them."""
        return tuple(sorted({operator.name for operator in self._all_operators() if operator.is_custom}))

    def resource_operators(self) -> tuple[str, ...]:
        """The operators on variables: weights that the converter failed to freeze."""
        return tuple(sorted({operator.name for operator in self._all_operators()} & _RESOURCE_OPERATORS))

    def input_grid(self, index: int) -> Tensor:
        """The quantized tensor behind an input: itself, or what a QUANTIZE at the float edge makes of it."""
        for operator in self.operators:
            if operator.name == "QUANTIZE" and operator.inputs[0] == index and self.tensors[index].scale is None:
                return self.tensors[operator.outputs[0]]
        return self.tensors[index]

    def output_grid(self, index: int) -> Tensor:
        """The quantized tensor behind an output: itself, or what a DEQUANTIZE at the float edge was given."""
        for operator in self.operators:
            if operator.name == "DEQUANTIZE" and operator.outputs[0] == index:
                return self.tensors[operator.inputs[0]]
        return self.tensors[index]

    def _all_operators(self) -> tuple[Operator, ...]:
        return tuple(operator for graph in self.graphs() for operator in graph.operators)

    def _is_edge(self, operator: Operator) -> bool:
        """Whether it only leads into integers or out of them, as a CAST of an image in uint8 to QUANTIZE does."""
        if operator.name != "CAST":
            return operator.name in _EDGE_OPERATORS
        takers = {other.name for other in self.operators if operator.outputs[0] in other.inputs}
        return self.tensors[operator.inputs[0]].dtype not in FLOAT_DTYPES and takers == {"QUANTIZE"}

    def _touches_float(self, operator: Operator) -> bool:
        touched = (self.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0)
        return any(tensor.dtype in FLOAT_DTYPES for tensor in touched)


def file_from_dict(data: Mapping[str, Any]) -> TfliteFile:
    """The file that `dataclasses.asdict` made a dictionary of, lists in place of tuples."""

    def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    return TfliteFile(
        tensors=tuple(Tensor(**tuples(tensor)) for tensor in data["tensors"]),
        operators=tuple(Operator(**tuples(operator)) for operator in data["operators"]),
        signatures=tuple(Signature(**signature) for signature in data["signatures"]),
        bodies=tuple(file_from_dict(body) for body in data["bodies"]),
        metadata=dict(data["metadata"]),
    )
