"""Names of the operations of a model, and the scopes that carry them into a graph of TensorFlow.

An operation is called after its class as Keras does it, "exp" or "get_item", and the second one of a graph "exp#2".
Keras's own numbers ("exp_3") count the operations of the whole process, so they differ from process to process.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import keras

from keras_notes._shared.keras_internals import get_mask, nodes_in_order, operation_of
from keras_notes._shared.models.layer_patterns import Path
from keras_notes._shared.types import Node, Operation

__all__ = ["MISSING_OPERATIONS", "class_name_of", "name_of_scope", "open_scopes", "operation_paths"]

MISSING_OPERATIONS = frozenset(
    ("AffineTransform", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan", "Arctanh", "Cholesky", "Cosh", "Cross",
     "Cumprod", "Det", "Eigh", "Erf", "Erfinv", "FFT", "FFT2", "I0", "IRFFT", "Inv", "InTopK", "Logdet", "Nextafter",
     "Qr", "SVD", "SearchSorted", "Sinh", "Solve", "SolveTriangular", "Tan")
)  # fmt: skip
"""The classes of operations that LiteRT has in no type, whatever their arguments."""

# A scope of TensorFlow must not have "#".
_SCOPE_NUMBER = ".number."


def operation_paths(function: keras.Function) -> dict[int, Path]:
    """Returns the paths of the operations of a graph that are not layers, by their `id`.

    A path is the name of the operation; before it is the name of a layer if the operation computes the mask of one.
    """
    paths: dict[int, Path] = {}
    owners: dict[int, str] = {}
    counts: Counter[Path] = Counter()
    for node in nodes_in_order(function):
        if isinstance(node.operation, keras.Layer):
            for operation in _mask_operations(node):
                owners.setdefault(id(operation), node.operation.name)
    for node in nodes_in_order(function):
        operation = node.operation
        if isinstance(operation, keras.Layer) or id(operation) in paths:
            continue
        around = (owners[id(operation)],) if id(operation) in owners else ()
        path = (*around, _name_without_number(operation))
        counts[path] += 1
        paths[id(operation)] = path if counts[path] == 1 else (*around, f"{path[-1]}#{counts[path]}")
    return paths


def _mask_operations(node: Node) -> Iterator[Operation]:
    """Yields the operations that compute the masks of a layer's outputs from its inputs and their masks."""
    masks = [get_mask(tensor) for tensor in node.input_tensors]
    known = {id(tensor) for tensor in (*node.input_tensors, *masks)}
    tensors = [get_mask(tensor) for tensor in node.outputs]
    while tensors:
        tensor = tensors.pop()
        if tensor is None or id(tensor) in known:
            continue
        known.add(id(tensor))
        operation, sources = operation_of(tensor)
        if operation is not None and not isinstance(operation, keras.Layer):
            yield operation
            tensors.extend(sources)


def class_name_of(operation: Operation) -> str:
    """Returns the name that Keras derives from the class of an operation: "get_item" for GetItem."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(operation).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def name_of_scope(scope: str) -> str:
    """Returns the name of the layer or operation that a scope of `open_scopes` stands for."""
    return scope.replace(_SCOPE_NUMBER, "#")


@contextlib.contextmanager
def open_scopes(path: Sequence[str], operation: Operation | None = None) -> Iterator[None]:
    """Names the operators after a layer or operation. Like Keras, it opens each scope once before the scope is used.

    Args:
        path: Names from the outermost layer to the layer or operation.
        operation: The layer at the end of the path, if it is called in the block: it then opens no scope of its own.
    """
    callers = [*[None] * len(path), operation][1:]
    with contextlib.ExitStack() as stack:
        for name, caller in zip(path, callers, strict=True):
            scope = name.replace("#", _SCOPE_NUMBER)
            with keras.name_scope(scope):
                pass
            stack.enter_context(keras.name_scope(scope, caller=caller))
        yield


def _name_without_number(operation: Operation) -> str:
    """Returns the name of an operation: its own if a user chose it, else that of its class."""
    class_name = class_name_of(operation)
    is_generated = re.fullmatch(rf"{re.escape(class_name)}(_\d+)?", operation.name) is not None
    return class_name if is_generated else operation.name.replace("#", "_")
