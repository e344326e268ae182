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

from keras_notes._shared.keras_internals import nodes_in_order
from keras_notes._shared.types import Operation

__all__ = ["class_name_of", "name_of_scope", "open_scopes", "operation_names"]

# A scope of TensorFlow must not have "#".
_SCOPE_NUMBER = ".number."


def operation_names(function: keras.Function) -> dict[int, str]:
    """Returns the names of the operations of a graph that are not layers, by their `id`."""
    names: dict[int, str] = {}
    counts: Counter[str] = Counter()
    for node in nodes_in_order(function):
        operation = node.operation
        if isinstance(operation, keras.Layer) or id(operation) in names:
            continue
        name = _name_without_number(operation)
        counts[name] += 1
        names[id(operation)] = name if counts[name] == 1 else f"{name}#{counts[name]}"
    return names


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
