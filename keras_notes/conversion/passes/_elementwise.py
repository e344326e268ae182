"""Functions of a single tensor in a float file: the operators that compute them, and others that compute the same."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes.conversion.passes._schema import TensorRange, add_constant, code_of, name_of, new_operator

__all__ = ["ELEMENTWISE", "Composition", "Region", "evaluate", "find_regions", "is_float", "multiplication"]

_OPERATORS, _OPTIONS, _TYPES = schema.BuiltinOperator, schema.BuiltinOptions, schema.TensorType
ELEMENTWISE = frozenset(
    {
        _OPERATORS.ABS, _OPERATORS.ADD, _OPERATORS.CEIL, _OPERATORS.COS, _OPERATORS.DIV, _OPERATORS.ELU,
        _OPERATORS.EQUAL, _OPERATORS.EXP, _OPERATORS.FLOOR, _OPERATORS.FLOOR_DIV, _OPERATORS.FLOOR_MOD,
        _OPERATORS.GELU, _OPERATORS.GREATER, _OPERATORS.GREATER_EQUAL, _OPERATORS.HARD_SWISH, _OPERATORS.LEAKY_RELU,
        _OPERATORS.LESS, _OPERATORS.LESS_EQUAL, _OPERATORS.LOG, _OPERATORS.LOGICAL_AND, _OPERATORS.LOGICAL_NOT,
        _OPERATORS.LOGICAL_OR, _OPERATORS.LOGISTIC, _OPERATORS.MAXIMUM, _OPERATORS.MINIMUM, _OPERATORS.MUL,
        _OPERATORS.NEG, _OPERATORS.NOT_EQUAL, _OPERATORS.POW, _OPERATORS.RELU, _OPERATORS.RELU6,
        _OPERATORS.RELU_0_TO_1, _OPERATORS.RELU_N1_TO_1, _OPERATORS.ROUND, _OPERATORS.RSQRT, _OPERATORS.SELECT,
        _OPERATORS.SELECT_V2, _OPERATORS.SIGN, _OPERATORS.SIN, _OPERATORS.SQRT, _OPERATORS.SQUARE,
        _OPERATORS.SQUARED_DIFFERENCE, _OPERATORS.SUB, _OPERATORS.TANH,
    }
)  # fmt: skip
"""Operators that compute each element of their result from the same elements of their inputs."""


@dataclass(frozen=True)
class Region:
    """Operators that compute, element by element, a function of one tensor.

    Attributes:
        operators: Indices of the operators in their graph, in the order in which they run.
        source: Index of the tensor that the function takes.
        result: Index of the tensor that the function gives.
    """

    operators: tuple[int, ...]
    source: int
    result: int


def find_regions(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    *,
    is_seed: Callable[[int], bool],
    is_integer: Callable[[str], bool],
    is_pinned: Callable[[str], bool],
    has_range: Callable[[str], bool],
) -> list[Region]:
    """Finds the largest regions around operators that need one.

    Args:
        model: A file in float32.
        graph: A graph of it.
        is_seed: Function that tells whether a region must be found for an operator with this code.
        is_integer: Function that tells whether the operator that gives the tensor of this name computes in integers.
        is_pinned: Function that tells whether the tensor of this name is rounded, so that it must not be inside.
        has_range: Function that tells whether the tensor of this name can get a grid.
    """
    return list(_Search(model, graph, is_seed, is_integer, is_pinned, has_range).regions())


class _Search:
    """The search for regions in a graph."""

    def __init__(
        self,
        model: schema.ModelT,
        graph: schema.SubGraphT,
        is_seed: Callable[[int], bool],
        is_integer: Callable[[str], bool],
        is_pinned: Callable[[str], bool],
        has_range: Callable[[str], bool],
    ) -> None:
        self._model = model
        self._graph = graph
        self._codes = [code_of(model, operator) for operator in graph.operators]
        self._is_seed = is_seed
        self._is_integer = is_integer
        self._is_pinned = is_pinned
        self._has_range = has_range
        self._producers: dict[int, int] = {}
        self._consumers: dict[int, set[int]] = defaultdict(set)
        for index, operator in enumerate(graph.operators):
            self._producers.update((int(result), index) for result in operator.outputs)
            for tensor in operator.inputs:
                self._consumers[int(tensor)].add(index)
        # For each tensor, the tensors that it is a function of: itself, and further and further back.
        self._chains: dict[int, list[int]] = {}
        for index in range(len(graph.operators)):
            self._extend_chain(index)

    def regions(self) -> Iterator[Region]:
        """Yields the regions, the last of the graph first; then those that share operators with others."""
        covered: set[int] = set()
        for shared in (False, True):
            yield from self._regions(covered, shared)

    def _regions(self, covered: set[int], shared: bool) -> Iterator[Region]:
        for index in reversed(range(len(self._graph.operators))):
            result = int(self._graph.operators[index].outputs[0]) if len(self._graph.operators[index].outputs) else -1
            if index in covered or not is_float(self._graph.tensors[result]):
                continue
            for source in reversed(self._chains.get(result, [result])[1:]):
                operators = self._between(source, result)
                if not covered & operators and self._is_valid(source, result, operators, shared):
                    region = self._without_outer_reshapes(sorted(operators), source, result)
                    # Others may share the operators inside.
                    covered |= {region.operators[-1]} if shared else set(region.operators)
                    yield region
                    break

    def _without_outer_reshapes(self, operators: list[int], source: int, result: int) -> Region:
        """Returns a region that neither begins nor ends with a RESHAPE."""
        while self._codes[operators[0]] == _OPERATORS.RESHAPE and len(self._consumers[source] & set(operators)) == 1:
            source = int(self._graph.operators[operators.pop(0)].outputs[0])
        while self._codes[operators[-1]] == _OPERATORS.RESHAPE:
            result = int(self._graph.operators[operators.pop()].inputs[0])
        return Region(tuple(operators), source, result)

    def _extend_chain(self, index: int) -> None:
        operator = self._graph.operators[index]
        if (
            self._codes[index] == _OPERATORS.RESHAPE
            and len(operator.inputs) == 2
            and self._is_constant(operator.inputs[1])
        ):
            # The converter moves a RESHAPE between the operators of a function.
            source = int(operator.inputs[0])
            self._chains[int(operator.outputs[0])] = [int(operator.outputs[0]), *self._chains.get(source, [source])]
            return
        if self._codes[index] not in ELEMENTWISE or len(operator.outputs) != 1:
            return
        result = int(operator.outputs[0])
        variables = {int(tensor) for tensor in operator.inputs if not self._is_scalar(tensor)}
        shape = list(self._graph.tensors[result].shape)
        if not variables or any(not self._is_computed(tensor, shape) for tensor in variables):
            return
        chains = [self._chains.get(tensor, [tensor]) for tensor in variables]
        common = [tensor for tensor in chains[0] if all(tensor in chain for chain in chains[1:])]
        self._chains[result] = [result, *common]

    def _between(self, source: int, result: int) -> set[int]:
        """Returns the operators on the paths from a source to a result."""
        operators: set[int] = set()
        tensors = [result]
        while tensors:
            index = self._producers[tensors.pop()]
            if index not in operators:
                operators.add(index)
                inputs = map(int, self._graph.operators[index].inputs)
                tensors += [tensor for tensor in inputs if tensor != source and not self._is_constant(tensor)]
        return operators

    def _is_valid(self, source: int, result: int, operators: set[int], shared: bool) -> bool:
        if not is_float(self._graph.tensors[source]) or not any(self._is_seed(self._codes[i]) for i in operators):
            return False
        results = {int(self._graph.operators[index].outputs[0]) for index in operators}
        names = {tensor: name_of(self._graph.tensors[tensor]) for tensor in results}
        inner = results - {result}
        if not all(map(self._is_integer, names.values())) or any(self._is_pinned(names[tensor]) for tensor in inner):
            return False
        if shared:
            # Truth values have no grid, nor has what training does not round: the operators that take them must be
            # inside, each with its own.
            return any(
                not is_float(self._graph.tensors[tensor]) or not self._has_range(names[tensor]) for tensor in inner
            )
        outputs = {int(tensor) for tensor in self._graph.outputs}
        return all(self._consumers[tensor] <= operators and tensor not in outputs for tensor in inner)

    def _is_scalar(self, tensor: int) -> bool:
        """Whether a tensor is a constant of one element."""
        return self._is_constant(tensor) and int(np.prod(_shape(self._graph.tensors[tensor]))) == 1

    def _is_constant(self, tensor: int) -> bool:
        return self._model.buffers[self._graph.tensors[tensor].buffer].data is not None

    def _is_computed(self, tensor: int, shape: list[int]) -> bool:
        """Whether a tensor of this shape depends on the inputs."""
        return not self._is_constant(tensor) and _shape(self._graph.tensors[tensor]) == shape


def is_float(tensor: schema.TensorT) -> bool:
    """Whether a tensor is in float32."""
    return tensor.type == schema.TensorType.FLOAT32


def evaluate(model: schema.ModelT, graph: schema.SubGraphT, region: Region, values: np.ndarray) -> np.ndarray:
    """Computes the function of a region for an array of float32 values, by the float kernels of LiteRT."""
    part = _Part(model, graph, len(values))
    for index in region.operators:
        part.add(graph.operators[index])
    part.graph.inputs, part.graph.outputs = [part.place(region.source)], [part.place(region.result)]
    interpreter = Interpreter(
        model_content=bytes(flatbuffer_utils.convert_object_to_bytearray(part.model)),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values.astype("float32"))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).reshape(-1)


class Composition:
    """Operators that the quantizer knows in the place of one that it does not know.

    Args:
        model: A float file.
        graph: A graph of it, which gets the tensors between the operators.
        ranges: The range of each tensor, by name; gets those of the tensors between.
        result: Index of the tensor that the operators give.
    """

    def __init__(
        self, model: schema.ModelT, graph: schema.SubGraphT, ranges: dict[str, TensorRange], result: int
    ) -> None:
        self._model = model
        self._graph = graph
        self._ranges = ranges
        self._result = result

    def negative(self, x: int) -> list[schema.OperatorT]:
        """Computes x * -1."""
        return [self.operator(_OPERATORS.MUL, [x, self._constant("minus_one", -1.0)], self._result, multiplication())]

    def parametric_relu(self, x: int, slopes: int) -> list[schema.OperatorT]:
        """Computes relu(x) + slopes * (x - relu(x)): the kernel of PRELU takes int16 and gives wrong results."""
        minimum, maximum, _ = self._range(x)
        low, high, _ = self._range(self._result)
        positive = self._tensor("positive", (0.0, max(maximum, 0.0)))
        negative = self._tensor("negative", (min(minimum, 0.0), 0.0))
        scaled = self._tensor("scaled", (min(low, 0.0), max(high, 0.0)))
        return [
            self.operator(_OPERATORS.RELU, [x], positive, (_OPTIONS.NONE, None)),
            self.operator(_OPERATORS.SUB, [x, positive], negative, (_OPTIONS.SubOptions, schema.SubOptionsT())),
            self.operator(_OPERATORS.MUL, [negative, slopes], scaled, multiplication()),
            self.operator(
                _OPERATORS.ADD, [positive, scaled], self._result, (_OPTIONS.AddOptions, schema.AddOptionsT())
            ),
        ]

    def hard_swish(self, x: int) -> list[schema.OperatorT]:
        """Computes x * (relu6(x + 3) * (1 / 6)): the kernel of HARD_SWISH takes no int16."""
        shifted = self._tensor("shifted", (0.0, 6.0))
        share = self._tensor("share", (0.0, 1.0))
        addition = schema.AddOptionsT()
        addition.fusedActivationFunction = schema.ActivationFunctionType.RELU6
        three, sixth = self._constant("three", 3.0), self._constant("sixth", 1.0 / 6.0)
        return [
            self.operator(_OPERATORS.ADD, [x, three], shifted, (_OPTIONS.AddOptions, addition)),
            self.operator(_OPERATORS.MUL, [shifted, sixth], share, multiplication()),
            self.operator(_OPERATORS.MUL, [x, share], self._result, multiplication()),
        ]

    def _tensor(self, name: str, limits: tuple[float, float]) -> int:
        """Adds a tensor of the shape of the result, with a range."""
        tensor = copy.copy(self._graph.tensors[self._result])
        tensor.name = f"{name_of(tensor)}/{name}".encode()
        self._graph.tensors.append(tensor)
        self._ranges[name_of(tensor)] = TensorRange(*limits, max(1, len(tensor.shape)))
        return len(self._graph.tensors) - 1

    def _constant(self, name: str, value: float) -> int:
        tensor = schema.TensorT()
        tensor.name = f"{name_of(self._graph.tensors[self._result])}/{name}".encode()
        tensor.shape, tensor.type = [1], _TYPES.FLOAT32
        return add_constant(self._model, self._graph, tensor, np.array([value], "<f4"))

    def paddings(self, source: int) -> int:
        """Adds paddings that give a tensor the shape of the result: PAD keeps the grid of its input, as TILE does."""
        before, after = (np.array(self._graph.tensors[tensor].shape) for tensor in (source, self._result))
        paddings = np.stack([np.zeros_like(before), after - before], axis=1)
        tensor = schema.TensorT()
        tensor.name = f"{name_of(self._graph.tensors[self._result])}/paddings".encode()
        tensor.shape, tensor.type = list(paddings.shape), _TYPES.INT32
        return add_constant(self._model, self._graph, tensor, paddings.astype("<i4"))

    def operator(self, code: int, inputs: list[int], result: int, options: tuple[int, object]) -> schema.OperatorT:
        """Returns an operator."""
        return new_operator(self._model, code, inputs, result, options)

    def _range(self, tensor: int) -> TensorRange:
        return self._ranges[name_of(self._graph.tensors[tensor])]


def multiplication() -> tuple[int, object]:
    """Returns the options of MUL."""
    return _OPTIONS.MulOptions, schema.MulOptionsT()


class _Part:
    """A file with some operators of another one, in which computed tensors are vectors.

    Attributes:
        model: The file.
        graph: Its graph.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT, size: int) -> None:
        self._original = model
        self._original_graph = graph
        self._size = size
        self._places: dict[int, int] = {}
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.operatorCodes = model.version, model.operatorCodes
        self.model.buffers, self.model.subgraphs = [schema.BufferT()], [self.graph]

    def add(self, operator: schema.OperatorT) -> None:
        """Adds an operator; a RESHAPE leaves vectors as they are."""
        inputs = [self.place(int(tensor)) for tensor in operator.inputs[:1]]
        if code_of(self._original, operator) == _OPERATORS.RESHAPE:
            self._places[int(operator.outputs[0])] = inputs[0]
            return
        added = copy.copy(operator)
        added.inputs = inputs + [self.place(int(tensor)) for tensor in operator.inputs[1:]]
        added.outputs = [self.place(int(tensor)) for tensor in operator.outputs]
        self.graph.operators.append(added)

    def place(self, tensor: int) -> int:
        """Returns the index of a tensor of the other file in this one."""
        if tensor not in self._places:
            original = self._original_graph.tensors[tensor]
            buffer = self._original.buffers[original.buffer]
            added = schema.TensorT()
            added.name, added.type, added.buffer = original.name, original.type, len(self.model.buffers)
            added.shape = [self._size] if buffer.data is None else []
            self.model.buffers.append(buffer)
            self.graph.tensors.append(added)
            self._places[tensor] = len(self.graph.tensors) - 1
        return self._places[tensor]


def _shape(tensor: schema.TensorT) -> list[int]:
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]
