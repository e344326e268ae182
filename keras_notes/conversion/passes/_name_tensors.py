"""A pass that names the tensors of a converted file after the layers of the trained model: "block/dense/MatMul".

The converter's names hold scopes of TensorFlow ("net_1/block_1/dense_3/MatMul1;..."), and an output of the model names
no layer at all. Recipes by layer, the audit's messages and errors by layer all need the layer of an operator.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ai_edge_litert import schema_py_generated as schema

from keras_notes._shared.layer_patterns import Path
from keras_notes.conversion.passes._schema import name_of

__all__ = ["name_tensors", "path_in_file"]

_NUMBERED = re.compile(r"(.+)_\d+")


def name_tensors(model: schema.ModelT, model_names: Collection[str], layer_names: Collection[str]) -> bool:
    """Names each tensor "layer/.../operation", which is unique in the whole file.

    Args:
        model: A file from the converter.
        model_names: The names of the outermost models, which are left out.
        layer_names: The names of all layers, nested ones too.
    """
    used_names: set[str] = set()
    for graph in model.subgraphs:
        paths = [_path_of(name_of(tensor), model_names, layer_names) for tensor in graph.tensors]
        _name_outputs(graph, paths)
        for tensor, (layers, operation) in zip(graph.tensors, paths, strict=True):
            tensor.name = _unique("/".join((*layers, operation)), used_names).encode()
    return True


def path_in_file(path: Path, model_names: Collection[str]) -> Path:
    """Returns the path of a layer as its tensors name it: without the outermost models.

    Args:
        path: The path of the layer in the model.
        model_names: The names of the outermost models.
    """
    start = next((index for index, name in enumerate(path) if name not in model_names), len(path) - 1)
    return path[start:]


def _path_of(name: str, model_names: Collection[str], layer_names: Collection[str]) -> tuple[Path, str]:
    """Returns the layers from the outermost to the innermost, and the operation."""
    parts = name.split(";")[0].split("/")
    layers: list[str] = []
    for depth, part in enumerate(parts[:-1]):
        # TensorFlow numbers the uses of a scope, and Keras opens each once before: "dense" is "dense_1" at first.
        numbered = _NUMBERED.fullmatch(part)
        scope = numbered[1] if numbered and (numbered[1] in layer_names or numbered[1] in model_names) else part
        if scope in model_names and not layers:
            continue
        if scope not in layer_names:
            return tuple(layers), "/".join(parts[depth:])
        layers.append(scope)
    return tuple(layers), parts[-1]


def _name_outputs(graph: schema.SubGraphT, paths: list[tuple[Path, str]]) -> None:
    """Gives results that name no layer the layer of their operator's weights, or of what it computes from."""
    for operator in graph.operators:
        inputs = [paths[index][0] for index in reversed(list(operator.inputs)) if index >= 0 and paths[index][0]]
        for index in operator.outputs:
            if not paths[index][0] and inputs:
                paths[index] = (inputs[0], paths[index][1])


def _unique(name: str, used_names: set[str]) -> str:
    candidate, count = name, 1
    while candidate in used_names:
        count += 1
        candidate = f"{name}#{count}"
    used_names.add(candidate)
    return candidate
