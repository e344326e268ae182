"""Small .tflite files made by hand, and their bundles: a loop that ends, or never does; one that asks for memory.

Not converted, so that what needs them needs no converter, and because no converter makes such files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes.bundle import (
    FORMAT_VERSION,
    MODEL_FILE,
    Bundle,
    Manifest,
    SignatureEntry,
    TensorEntry,
    Tolerance,
    write_bundle,
)

SIGNATURE = "serving_default"
SHAPE = (1, 4)
SAMPLES, TURNS = 3, 5
_MAIN, _CONDITION, _BODY = range(3)


def looping_model(turns: int = TURNS, *, step: int = 1) -> bytes:
    """A file that gives x + `turns`, adding 1 at each turn of a loop; with `step=0` the loop never ends."""
    begin, limit, step_by, addend = range(1, 5)
    loop = _operator("WHILE", [2, 0], [3, 1], schema.WhileOptionsT())
    loop.builtinOptions.condSubgraphIndex, loop.builtinOptions.bodySubgraphIndex = _CONDITION, _BODY
    turn, x = ("turn", "int32", (), 0), ("x", "float32", SHAPE, 0)
    next_turn, y = ("next_turn", "int32", (), 0), ("y", "float32", SHAPE, 0)
    graphs = [
        _graph([x, y, ("begin", "int32", (), begin), turn], [0], [1], [loop]),
        _graph(
            [turn, x, ("limit", "int32", (), limit), ("goes_on", "bool", (), 0)],
            [0, 1],
            [3],
            [_operator("LESS", [0, 2], [3], schema.LessOptionsT())],
        ),
        _graph(
            [turn, x, ("step", "int32", (), step_by), ("one", "float32", (), addend), next_turn, y],
            [0, 1],
            [4, 5],
            [_operator("ADD", [index, index + 2], [index + 4], schema.AddOptionsT()) for index in (0, 1)],
        ),
    ]
    return _model(graphs, np.int32(0), np.int32(turns), np.int32(step), np.float32(1))


def swelling_model(elements: int) -> bytes:
    """A file of a few bytes that gives x + 1, and fills a tensor of float32 that nothing uses."""
    size, addend = 1, 2
    tensors = [
        ("x", "float32", SHAPE, 0),
        ("y", "float32", SHAPE, 0),
        ("one", "float32", (), addend),
        ("size", "int32", (1,), size),
        ("swollen", "float32", (elements,), 0),
    ]
    operators = [
        _operator("FILL", [3, 2], [4], schema.FillOptionsT()),
        _operator("ADD", [0, 2], [1], schema.AddOptionsT()),
    ]
    return _model([_graph(tensors, [0], [1], operators)], np.int32([elements]), np.float32(1))


def hand_made_bundle(directory: Path, model: bytes, added: float) -> Bundle:
    """The bundle of a model that gives x + `added`."""
    x = np.random.default_rng(0).normal(size=(SAMPLES, *SHAPE[1:])).astype("<f4")
    golden = {"x": ("input", x), "y": ("output", x + np.float32(added))}
    entries, files = {}, {MODEL_FILE: model}
    for name, (side, values) in golden.items():
        path = f"golden/{SIGNATURE}.{side}.{name}.bin"
        files[path] = values.tobytes()
        entries[side] = TensorEntry(name, "float32", SHAPE, None, None, path, "float32")
    limits = dict.fromkeys(Tolerance.__dataclass_fields__)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        manifest_sha256="",
        name="hand_made",
        recipe="float32",
        exceptions={},
        edges="float32",
        batch_size=1,
        signatures=(SignatureEntry(SIGNATURE, (entries["input"],), (entries["output"],), SAMPLES),),
        tolerance=Tolerance(**{**limits, "max_error": 1e-5}),
        labels=None,
        preprocessing=None,
        versions={"keras-notes": "0"},
        metrics={},
        files={},
    )
    return write_bundle(directory, manifest, files)


def _model(graphs: list[schema.SubGraphT], *constants: np.ndarray | np.generic) -> bytes:
    """The file of graphs whose operators have names yet, and constants in the buffers from 1 on."""
    model = schema.ModelT()
    model.version = 3
    model.buffers = [_buffer(b""), *(_buffer(constant.tobytes()) for constant in constants)]
    operators = [operator for graph in graphs for operator in graph.operators]
    names = sorted({operator.opcodeIndex for operator in operators})
    for operator in operators:
        operator.opcodeIndex = names.index(operator.opcodeIndex)
    model.operatorCodes = [_code(getattr(schema.BuiltinOperator, name)) for name in names]
    model.subgraphs = graphs
    model.signatureDefs = [_signature()]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _buffer(data: bytes) -> schema.BufferT:
    buffer = schema.BufferT()
    buffer.data = list(data) or None
    return buffer


def _code(builtin: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    return code


def _operator(name: str, inputs: list[int], outputs: list[int], options) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = name, inputs, outputs
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    operator.builtinOptions = options
    return operator


def _graph(tensors, inputs: list[int], outputs: list[int], operators) -> schema.SubGraphT:
    graph = schema.SubGraphT()
    graph.inputs, graph.outputs, graph.operators = inputs, outputs, operators
    graph.tensors = []
    for tensor_name, dtype, shape, buffer in tensors:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = tensor_name, list(shape), buffer
        tensor.type = getattr(schema.TensorType, dtype.upper())
        graph.tensors.append(tensor)
    return graph


def _signature() -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, _MAIN
    for attribute, name, index in (("inputs", "x", 0), ("outputs", "y", 1)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        setattr(signature, attribute, [entry])
    return signature
