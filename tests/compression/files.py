"""The integers of a file, read by LiteRT's schema alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def integer_weights(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The int8 weights of each convolution and product, as operator and name, in the order of the file."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(Path(path).read_bytes()))
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            operator_name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if operator_name in _WEIGHTED:
                tensor = graph.tensors[operator.inputs[1]]
                data = bytes(model.buffers[tensor.buffer].data)
                assert tensor.type == schema.TensorType.INT8
                yield f"{operator_name} {tensor.name.decode()}", np.frombuffer(data, np.int8).reshape(tensor.shape)
