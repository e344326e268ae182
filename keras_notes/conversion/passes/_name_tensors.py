"""A pass that names the tensors of a converted file after the layers of the trained model: "block/dense/MatMul".

The converter's names hold scopes of TensorFlow ("net_1/block_1/dense_3/MatMul1;..."), and an output of the model names
no layer at all. Recipes by layer, the audit's messages and errors by layer all need the layer of an operator.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import keras
from ai_edge_litert import schema_py_generated as schema

from keras_notes._shared.models.layer_patterns import Path
from keras_notes._shared.models.operation_names import name_of_scope
from keras_notes.conversion.passes._schema import name_of, signatures_of, text_of

__all__ = ["LayerNames", "name_tensors", "path_in_file", "place_of"]

_NUMBERED = re.compile(r"(.+)_\d+")
_NUMBERED_OPERATION = re.compile(r"(\w+?)(?:_(\d+))?")
# TensorFlow's names of operations that Keras names otherwise.
_KERAS_NAMES = {"AddV2": "add", "Neg": "negative", "Pow": "power", "SelectV2": "where", "TopKV2": "top_k",
                "clip_by_value": "clip", "concat": "concatenate", "mul": "multiply", "strided_slice": "get_item",
                "sub": "subtract", "truediv": "divide"}  # fmt: skip


@dataclass(frozen=True)
class LayerNames:
    """The names by which tensors are named.

    Attributes:
        models: Names of the outermost models, which are left out.
        layers: Names of all layers, nested ones too.
        operations: Names of the operations that have scopes of their own.
        opened: Names of the layers whose operations have names of their own: those that Keras does not define.
        outputs: Path of the layer or operation that computes each output, by signature and name of the output.
    """

    models: Collection[str]
    layers: Collection[str]
    operations: Collection[str] = ()
    opened: Collection[str] = ()
    outputs: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)


def name_tensors(model: schema.ModelT, names: LayerNames) -> bool:
    """Names each tensor "layer/.../operation", which is unique in the whole file.

    Args:
        model: A file from the converter.
        names: Names of the layers.
    """
    used_names: set[str] = set()
    for index, graph in enumerate(model.subgraphs):
        paths = [_path_of(name_of(tensor), names) for tensor in graph.tensors]
        outputs = {
            entry.tensorIndex: names.outputs.get(text_of(signature.signatureKey), {}).get(text_of(entry.name), ())
            for signature in signatures_of(model, index)
            for entry in signature.outputs
        }
        _name_outputs(graph, paths, outputs)
        for tensor, (layers, operation) in zip(graph.tensors, paths, strict=True):
            name = "/".join((*layers, operation.replace("/", ".")))
            tensor.name = _unique(name, used_names).encode()
    return True


def path_in_file(path: Path, model_names: Collection[str]) -> Path:
    """Returns the path of a layer as its tensors name it: without the outermost models.

    Args:
        path: The path of the layer in the model.
        model_names: The names of the outermost models.
    """
    start = next((index for index, name in enumerate(path) if name not in model_names), len(path) - 1)
    return path[start:]


def place_of(scopes: Iterable[str], names: LayerNames) -> Path:
    """Returns the longest path of layers and operations that some names of TensorFlow's operations begin with."""
    paths = [_path_of(scope.partition("@")[0], names)[0] for scope in scopes]
    return max(paths, key=len, default=())


def _path_of(name: str, names: LayerNames) -> tuple[Path, str]:
    """Returns the layers from the outermost to the innermost, and the operation."""
    parts = name.split(";")[0].split("/")
    layers: list[str] = []
    rest = parts[-1:]
    for depth, part in enumerate(parts[:-1]):
        # TensorFlow numbers the uses of a scope, and Keras opens each once before: "dense" is "dense_1" at first.
        numbered = _NUMBERED.fullmatch(part)
        candidates = [name_of_scope(scope) for scope in ((numbered[1], part) if numbered else (part,))]
        known = (names.layers, names.models, names.operations)
        scope = next((name for name in candidates if any(name in group for group in known)), part)
        if scope in names.models and not layers:
            continue
        if scope not in names.layers and scope not in names.operations:
            rest = parts[depth:]
            break
        layers.append(scope)
        if scope not in names.layers:  # there are no layers in an operation
            rest = parts[depth + 1 :]
            break
    if layers and layers[-1] in names.opened and (operation := _operation_name(rest[0])) is not None:
        layers.append(operation)
    return tuple(layers), "/".join(rest)


def _operation_name(part: str) -> str | None:
    """Returns the name of Keras's operation that TensorFlow names so, "exp#2" for "Exp_1"; None if there is none."""
    numbered = _NUMBERED_OPERATION.fullmatch(part)
    if numbered is None:
        return None
    # The converter counts the operators of one operation without an underscore: "Log1p1".
    for name in (numbered[1], numbered[1].rstrip("0123456789")):
        operation = _KERAS_NAMES.get(name, name.lower())
        if operation == "get_item" or hasattr(keras.ops, operation):
            return operation if numbered[2] is None else f"{operation}#{int(numbered[2]) + 1}"
    return None


def _name_outputs(graph: schema.SubGraphT, paths: list[tuple[Path, str]], outputs: Mapping[int, Path]) -> None:
    """Gives results that name no layer the layer that the model has there, or else that of what they are computed from.

    An operator's weights say more than the model where the model knows only the layer around.
    """
    for operator in graph.operators:
        inputs = [paths[index][0] for index in reversed(list(operator.inputs)) if index >= 0 and paths[index][0]]
        for index in operator.outputs:
            known = outputs.get(index, ())
            if paths[index][0] or not (known or inputs):
                continue
            sources = [path for path in inputs if path[: len(known)] == known]
            paths[index] = (sources[0] if sources else known, paths[index][1])


def _unique(name: str, used_names: set[str]) -> str:
    candidate, count = name, 1
    while candidate in used_names:
        count += 1
        candidate = f"{name}#{count}"
    used_names.add(candidate)
    return candidate
