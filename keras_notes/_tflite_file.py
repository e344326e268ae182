"""What a .tflite file holds: operators, tensors and signatures, read from the flatbuffer without running it."""

from __future__ import annotations

import dataclasses
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes.errors import BundleError

__all__ = ["Operator", "Signature", "Tensor", "TfliteFile", "read_tflite"]

# Operators that only move a value between the float edge and the integer graph.
_EDGE_OPERATORS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_FLOAT_DTYPES = frozenset({"float16", "float32", "float64"})
_RESOURCE_OPERATORS = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"})


def _names_of(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_OPERATOR_NAMES = _names_of(schema.BuiltinOperator)
_DTYPE_NAMES = {value: name.lower() for value, name in _names_of(schema.TensorType).items()}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file. `scale` and `zero_point` are None unless it is quantized per tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    is_constant: bool


@dataclass(frozen=True)
class Operator:
    """An operator of a graph, with the indices of its tensors; `name` is the custom code of a custom one."""

    name: str
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """A named entry of the file: tensor indices by input and output name."""

    name: str
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class TfliteFile:
    """The main graph of a .tflite file, its signatures, and the bodies of its loops and branches."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    signatures: tuple[Signature, ...]
    bodies: tuple[TfliteFile, ...] = ()

    def operator_counts(self) -> dict[str, int]:
        """How often each operator occurs, the most frequent first."""
        return dict(Counter(operator.name for operator in self._all_operators()).most_common())

    def float_islands(self) -> tuple[str, ...]:
        """The operators that compute in floating point, as "NAME tensor": none in a fully integer graph."""
        islands = tuple(
            f"{operator.name} {self.tensors[operator.outputs[0]].name if operator.outputs else ''}".rstrip()
            for operator in self.operators
            if operator.name not in _EDGE_OPERATORS and self._touches_float(operator)
        )
        return islands + tuple(island for body in self.bodies for island in body.float_islands())

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
        return self.operators + tuple(operator for body in self.bodies for operator in body.operators)

    def _touches_float(self, operator: Operator) -> bool:
        touched = (self.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0)
        return any(tensor.dtype in _FLOAT_DTYPES for tensor in touched)


def read_tflite(path: Path) -> TfliteFile:
    """Reads a .tflite file.

    Raises:
        BundleError: If it is none.
    """
    try:
        model = flatbuffer_utils.read_model(str(path))
        main, *bodies = (_graph(graph, model) for graph in model.subgraphs)
        signatures = tuple(_signature(entry) for entry in model.signatureDefs or ())
        return dataclasses.replace(main, signatures=signatures, bodies=tuple(bodies))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        # What reading a flatbuffer at offsets that are none runs into.
        raise BundleError(f"{str(path)!r} must be a .tflite file. Received: {error!r}.") from error


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _graph(graph, model) -> TfliteFile:
    tensors = tuple(_tensor(tensor, model.buffers) for tensor in graph.tensors)
    operators = tuple(_operator(operator, model.operatorCodes) for operator in graph.operators)
    return TfliteFile(tensors, operators, signatures=())


def _tensor(tensor, buffers) -> Tensor:
    quantization = tensor.quantization
    scales = [] if quantization is None or quantization.scale is None else list(quantization.scale)
    one_scale = len(scales) == 1
    data = buffers[tensor.buffer].data
    return Tensor(
        name=_text(tensor.name),
        dtype=_DTYPE_NAMES[tensor.type],
        shape=() if tensor.shape is None else tuple(int(size) for size in tensor.shape),
        scale=float(scales[0]) if one_scale else None,
        zero_point=int(quantization.zeroPoint[0]) if one_scale else None,
        is_constant=data is not None and len(data) > 0,
    )


def _operator(operator, codes) -> Operator:
    code = codes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    is_custom = builtin == schema.BuiltinOperator.CUSTOM
    return Operator(
        name=_text(code.customCode) if is_custom else _OPERATOR_NAMES[builtin],
        is_custom=is_custom,
        inputs=tuple(int(index) for index in operator.inputs),
        outputs=tuple(int(index) for index in operator.outputs),
    )


def _signature(entry) -> Signature:
    return Signature(
        name=_text(entry.signatureKey),
        inputs={_text(item.name): int(item.tensorIndex) for item in entry.inputs or ()},
        outputs={_text(item.name): int(item.tensorIndex) for item in entry.outputs or ()},
    )
