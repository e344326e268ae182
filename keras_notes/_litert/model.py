"""The content of a .tflite file: graphs of operators and tensors, signatures, and what follows from them.

`reader` makes these objects from a file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from keras_notes._shared.types import Config

__all__ = ["EDGE_OPERATORS", "FLOAT_DTYPES", "INTEGER_DTYPES", "Graph", "Operator", "Signature", "Tensor", "TfliteFile"]

FLOAT_DTYPES = frozenset({"float16", "float32", "float64"})
# The types of an integer grid at the edge of a file.
INTEGER_DTYPES = ("int8", "uint8", "int16")
# Operators that only move a value between the float edge and the integer graph.
EDGE_OPERATORS = ("QUANTIZE", "DEQUANTIZE")
_RESOURCE_OPERATORS = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"})


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph.

    Attributes:
        name: Name of the tensor in the file.
        dtype: Data type, as NumPy names it.
        shape: Sizes of all dimensions, the batch included.
        scale: Size of a step; None unless the tensor is quantized per tensor.
        zero_point: The integer that stands for 0.0; None unless the tensor is quantized per tensor.
        is_constant: Whether the file holds the values of the tensor, as it does for weights.
        channels: Number of scales: 0 for a float tensor, 1 per tensor, more per channel.
        bytes: Size of the values in the file; 0 unless the tensor is constant.
        buffer: Index of the buffer that holds the values; weights that two graphs share have one buffer.
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
    """An operator of a graph.

    Attributes:
        name: Name of the built-in operator, or the custom code of a custom one.
        is_custom: Whether the operator is not a built-in one.
        inputs: Indices of its input tensors; -1 for an optional input that is left out.
        outputs: Indices of its output tensors.
    """

    name: str
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """A named entry point of the file.

    Attributes:
        name: Name of the entry point.
        inputs: Tensor indices by input name.
        outputs: Tensor indices by output name.
        graph: Index of the graph that the signature runs.
    """

    name: str
    inputs: dict[str, int]
    outputs: dict[str, int]
    graph: int = 0


@dataclass(frozen=True)
class Graph:
    """A graph of the file: that of a signature, or the body, condition or branch of a control-flow operator.

    Attributes:
        tensors: All tensors; operators and signatures refer to them by index.
        operators: The operators in the order in which they run.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]

    def input_grid(self, index: int) -> Tensor:
        """Returns the quantized tensor behind an input: the input itself, or the result of its QUANTIZE."""
        for operator in self.operators:
            if operator.name == "QUANTIZE" and operator.inputs[0] == index and self.tensors[index].scale is None:
                return self.tensors[operator.outputs[0]]
        return self.tensors[index]

    def output_grid(self, index: int) -> Tensor:
        """Returns the quantized tensor behind an output: the output itself, or the input of its DEQUANTIZE."""
        for operator in self.operators:
            if operator.name == "DEQUANTIZE" and operator.outputs[0] == index:
                return self.tensors[operator.inputs[0]]
        return self.tensors[index]

    def is_edge(self, operator: Operator) -> bool:
        """Whether an operator only leads into integers or out of them, as a CAST of a uint8 image to QUANTIZE does."""
        if operator.name != "CAST":
            return operator.name in EDGE_OPERATORS
        consumers = {other.name for other in self.operators if operator.outputs[0] in other.inputs}
        return self.tensors[operator.inputs[0]].dtype not in FLOAT_DTYPES and consumers == {"QUANTIZE"}

    def computes_in_float(self, operator: Operator) -> bool:
        """Whether an operator reads or writes a float tensor, and is not one of the float edge."""
        tensors = (self.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0)
        return not self.is_edge(operator) and any(tensor.dtype in FLOAT_DTYPES for tensor in tensors)


@dataclass(frozen=True)
class TfliteFile:
    """A .tflite file.

    Attributes:
        graphs: All graphs, the main one first; the others are those of further signatures, loops and branches.
        signatures: The entry points of the file.
        metadata: The metadata buffers as text, by name.
    """

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Config) -> TfliteFile:
        """Returns the file whose `dataclasses.asdict` is `data`, with lists in place of tuples."""

        def tuples(values: Config) -> Config:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

        def graph(values: Config) -> Graph:
            return Graph(
                tensors=tuple(Tensor(**tuples(tensor)) for tensor in values["tensors"]),
                operators=tuple(Operator(**tuples(operator)) for operator in values["operators"]),
            )

        return cls(
            graphs=tuple(graph(values) for values in data["graphs"]),
            signatures=tuple(Signature(**signature) for signature in data["signatures"]),
            metadata=dict(data["metadata"]),
        )

    @property
    def main(self) -> Graph:
        """The main graph."""
        return self.graphs[0]

    def graph(self, signature: Signature) -> Graph:
        """Returns the graph that a signature runs."""
        return self.graphs[signature.graph]

    def operator_counts(self) -> dict[str, int]:
        """Returns how often each operator occurs, the most frequent first."""
        return dict(Counter(operator.name for _, operator in self._operators()).most_common())

    def float_operators(self) -> tuple[str, ...]:
        """Returns the operators that compute in floating point as "NAME tensor"; () for a fully integer graph."""
        return tuple(label for _, label in self.float_results())

    def float_results(self) -> tuple[tuple[str, str], ...]:
        """Returns the first result of each operator that computes in floating point, with "NAME tensor"."""
        results = []
        for graph, operator in self._operators():
            if graph.computes_in_float(operator):
                result = graph.tensors[operator.outputs[0]].name if operator.outputs else ""
                results.append((result, f"{operator.name} {result}".rstrip()))
        return tuple(results)

    @property
    def is_mixed(self) -> bool:
        """Whether some operators compute in floating point and others do not; those of the float edge do neither."""
        inner = sum(not graph.is_edge(operator) for graph, operator in self._operators())
        return 0 < len(self.float_results()) < inner

    def custom_operators(self) -> tuple[str, ...]:
        """Returns the names of operators that are not built-in, such as TensorFlow's "Flex" operators."""
        return tuple(sorted({operator.name for _, operator in self._operators() if operator.is_custom}))

    def resource_operators(self) -> tuple[str, ...]:
        """Returns the names of operators on variables, which hold weights that the converter failed to freeze."""
        return tuple(sorted({operator.name for _, operator in self._operators()} & _RESOURCE_OPERATORS))

    def _operators(self) -> tuple[tuple[Graph, Operator], ...]:
        """Returns each operator of each graph, with its graph."""
        return tuple((graph, operator) for graph in self.graphs for operator in graph.operators)
