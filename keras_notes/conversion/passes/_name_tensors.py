"""Names the tensors of a converted file after the layers of the trained model: "block/dense/MatMul".

The converter's names hold scopes of TensorFlow ("net_1/block_1/dense_3/MatMul1;..."), and none for an output of the
model. Recipes by layer, the audit's messages and errors by layer all need to know whose operator it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ai_edge_litert.tools import flatbuffer_utils

from keras_notes._shared.layer_patterns import Path

__all__ = ["name_by_layer", "path_in_file"]

_COUNTED = re.compile(r"(.+)_\d+")


def name_by_layer(tflite: bytes, model_names: Collection[str], layer_names: Collection[str]) -> bytes:
    """The file with each tensor named "layer/.../operation", once in the whole file.

    Args:
        tflite: A file that the converter made.
        model_names: The names of the outermost models, which are left out.
        layer_names: The names of all layers, nested ones too.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    taken: set[str] = set()
    for graph in model.subgraphs:
        paths = [_path(_text(tensor.name), model_names, layer_names) for tensor in graph.tensors]
        _name_outputs(graph, paths)
        for tensor, (layers, operation) in zip(graph.tensors, paths, strict=True):
            tensor.name = _unique("/".join((*layers, operation)), taken).encode()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def path_in_file(path: Path, model_names: Collection[str]) -> Path:
    """The path of a layer as its tensors name it: without the outermost models.

    Args:
        path: The path of the layer in the model.
        model_names: The names of the outermost models.
    """
    start = next((index for index, name in enumerate(path) if name not in model_names), len(path) - 1)
    return path[start:]


def _text(name: bytes | str | None) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""


def _path(name: str, model_names: Collection[str], layer_names: Collection[str]) -> tuple[tuple[str, ...], str]:
    """The layers from the outermost to the innermost, and the operation."""
    parts = name.split(";")[0].split("/")
    layers: list[str] = []
    for depth, part in enumerate(parts[:-1]):
        # TensorFlow counts the uses of a scope, and Keras opens each once before: "dense" is "dense_1" at first.
        counted = _COUNTED.fullmatch(part)
        scope = counted[1] if counted and (counted[1] in layer_names or counted[1] in model_names) else part
        if scope in model_names and not layers:
            continue
        if scope not in layer_names:
            return tuple(layers), "/".join(parts[depth:])
        layers.append(scope)
    return tuple(layers), parts[-1]


def _name_outputs(graph, paths: list[tuple[tuple[str, ...], str]]) -> None:
    """Gives results that name no layer the layer of their operator's weights, or of what it computes from."""
    for operator in graph.operators:
        inputs = [paths[index][0] for index in reversed(list(operator.inputs)) if index >= 0 and paths[index][0]]
        for index in operator.outputs:
            if not paths[index][0] and inputs:
                paths[index] = (inputs[0], paths[index][1])


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}#{count}"
    taken.add(candidate)
    return candidate
