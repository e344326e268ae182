"""Names of operators in the deploy graph: scopes for what Keras computes outside of any layer's own scope.

Keras opens a scope for the call of a layer. It opens none for an operation of a functional model, for the mask that a
layer computes, and for the layer inside of a `TimeDistributed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras

from keras_notes._shared.keras_internals import functional_of, nodes_in_order, operation_of, output_index_of
from keras_notes._shared.models.layer_patching import patch_method
from keras_notes._shared.models.layer_patterns import Path, layers_by_path
from keras_notes._shared.models.operation_names import open_scopes, operation_paths
from keras_notes._shared.types import Operation
from keras_notes.compression import CompressedModel

__all__ = ["known_paths", "name_operators", "operation_names_in", "output_paths"]


@contextlib.contextmanager
def name_operators(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Names the operators that are traced while the block runs after the layer or operation they belong to.

    Args:
        layers: Every layer of a model, the model itself and nested ones too.
    """
    with contextlib.ExitStack() as stack:
        for operation, method, path in _unnamed_calls(list(layers)):
            scoped = _in_scope(getattr(operation, method), path, operation)
            stack.enter_context(patch_method(operation, method, scoped))
        yield


def operation_names_in(layers: Iterable[keras.Layer]) -> set[str]:
    """Returns the names of the operations that layers are made of, as far as they are known without a trace."""
    names: set[str] = set()
    for layer in layers:
        if (function := functional_of(layer)) is not None:
            names.update(path[-1] for path in operation_paths(function).values())
        if isinstance(layer, CompressedModel) and layer.quantization is not None:
            steps = layer.quantization.steps
            names.update(step.path[-1] for step in steps if not isinstance(step.operation, keras.Layer))
    return names


def known_paths(model: keras.Model) -> list[Path]:
    """Returns the paths of the layers and operations of a model, as far as they are known without tracing it."""
    paths: list[Path] = []
    for path, layer in [((), model), *layers_by_path(model)]:
        if not isinstance(layer, keras.layers.InputLayer):
            paths.append(path)
        if (function := functional_of(layer)) is not None:
            paths.extend((*path, *own) for own in operation_paths(function).values())
        if isinstance(layer, CompressedModel) and layer.quantization is not None:
            paths.extend(step.path for step in layer.quantization.steps)
    return [path for path in paths if path]


def output_paths(model: keras.Model) -> list[Path]:
    """Returns the path of the layer or operation that computes each output of a functional model, outermost first."""
    return [_path_of_output(model, tensor) for tensor in model.outputs]


def _path_of_output(function: keras.Function, tensor: keras.KerasTensor) -> Path:
    operation, _ = operation_of(tensor)
    if operation is None:
        return ()
    own = operation_paths(function).get(id(operation), (operation.name,))
    index = output_index_of(tensor)
    if isinstance(operation, CompressedModel) and operation.quantization is not None:
        return (*own, *operation.quantization.output_paths[index])
    inner = functional_of(operation)
    return own if inner is None else (*own, *_path_of_output(inner, inner.outputs[index]))


def _unnamed_calls(layers: list[keras.Layer]) -> Iterator[tuple[Operation, str, Path]]:
    """Yields what computes outside of a scope of its own: the layer or operation, its method, and the path."""
    known: set[int] = set()
    distributed = {id(layer.layer) for layer in layers if isinstance(layer, keras.layers.TimeDistributed)}
    for layer in layers:
        if id(layer) in distributed:
            yield layer, "call", (layer.name,)
        if type(layer).compute_mask is not keras.Layer.compute_mask and not layer._layers:
            yield layer, "compute_mask", (layer.name,)
        if (function := functional_of(layer)) is not None:
            paths = operation_paths(function)
            for node in nodes_in_order(function):
                operation = node.operation
                if id(operation) in paths and id(operation) not in known:
                    known.add(id(operation))
                    yield operation, "call", paths[id(operation)]


def _in_scope(method: Callable, path: Path, operation: Operation) -> Callable:
    def run(*args: object, **kwargs: object) -> object:
        with open_scopes(path, operation):
            return method(*args, **kwargs)

    return run
