"""The private side of Keras that this package depends on, in one place.

Everything here reads attributes that Keras does not document. `tests/shared/test_keras_internals.py` checks each of
them by name, so that a release of Keras that changes one fails there first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras import tree
from keras.src import backend as keras_backend
from keras.src.losses.loss import unscale_loss_for_distribution

from keras_notes._shared.types import DType, Node, Operation, Tensor, Tree

__all__ = [
    "created_weights_of",
    "custom_classes_of",
    "functional_of",
    "get_mask",
    "half_precision_attributes",
    "input_structure_of",
    "is_keras_class",
    "is_keras_operation",
    "layers_of",
    "nodes_in_order",
    "operation_of",
    "output_index_of",
    "output_structure_of",
    "owns_loss",
    "patch_backend_function",
    "quantized_by_keras",
    "set_mask",
    "takes_training",
    "unscale_loss_for_distribution",
]

_HALF_PRECISION = ("float16", "bfloat16")


def layers_of(model: keras.Layer, *, include_self: bool = True) -> Iterator[keras.Layer]:
    """Yields the model and every layer in it, nested ones too, each before its own layers."""
    return model._flatten_layers(include_self=include_self)


def created_weights_of(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the weights, trainable or frozen, that a layer created itself, without those of layers in it."""
    return list(layer._trainable_variables)


def functional_of(model: Operation) -> keras.Function | None:
    """Returns the graph of a functional or sequential model; None for anything else."""
    inner = getattr(model, "_functional", None) or model
    return inner if isinstance(inner, keras.Function) else None


def nodes_in_order(function: keras.Function) -> Iterator[Node]:
    """Yields the nodes of a graph, without its inputs, each after those that it needs."""
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


@contextlib.contextmanager
def patch_backend_function(name: str, replacement: Callable) -> Iterator[None]:
    """Replaces a function of NumPy's in Keras's backend, such as "argmax", while the block runs."""
    module = keras_backend.numpy
    original = getattr(module, name)
    setattr(module, name, replacement)
    try:
        yield
    finally:
        setattr(module, name, original)


def input_structure_of(function: keras.Function) -> Tree:
    """Returns the inputs of a graph in the structure in which it takes them; a single input by itself."""
    structure = function._inputs_struct
    return structure if len(function.inputs) != 1 else tree.flatten(structure)[0]


def output_structure_of(function: keras.Function) -> Tree:
    """Returns the outputs of a graph in their structure."""
    return function._outputs_struct


def operation_of(tensor: keras.KerasTensor) -> tuple[Operation, list[keras.KerasTensor]]:
    """Returns the operation that made a symbolic tensor, and the tensors that it took; None and [] if none did."""
    operation, node_index, _ = getattr(tensor, "_keras_history", (None, None, None))
    if operation is None:
        return None, []
    return operation, list(operation._inbound_nodes[node_index].input_tensors)


def output_index_of(tensor: keras.KerasTensor) -> int:
    """Returns the index of a symbolic tensor among the outputs of the operation that made it."""
    return tensor._keras_history.tensor_index


def is_keras_class(cls: type) -> bool:
    """Returns whether a class is Keras's own."""
    return cls.__module__.startswith("keras.")


def half_precision_attributes(layers: Iterable[keras.Layer]) -> list[tuple[Any, str, DType]]:
    """Returns what makes layers compute in half precision: objects, the attribute of each, and its value in float32.

    These are the policies of layers, the inputs of nested functional models, to whose types Keras casts what such a
    model is called on, and casts that are operations.
    """
    attributes: list[tuple[Any, str, DType]] = []
    for layer in layers:
        if layer.compute_dtype in _HALF_PRECISION:
            attributes.append((layer, "dtype_policy", keras.DTypePolicy("float32")))
        function = functional_of(layer)
        if function is None:
            continue
        sources = [(tensor, operation_of(tensor)[0]) for tensor in function.inputs]
        for part in (part for source in sources for part in source):
            if getattr(part, "_dtype", None) in _HALF_PRECISION:
                attributes.append((part, "_dtype", "float32"))
        for node in nodes_in_order(function):
            if type(node.operation).__name__ == "Cast" and node.operation.dtype in _HALF_PRECISION:
                attributes.append((node.operation, "dtype", "float32"))
    return attributes


def quantized_by_keras(model: keras.Layer) -> list[keras.Layer]:
    """Returns the layers of a model that Keras's own `quantize` has changed."""
    return [layer for layer in layers_of(model) if getattr(layer, "quantization_mode", None) is not None]


def is_keras_operation(operation: Operation) -> bool:
    """Returns whether an operation is one of `keras.ops`, and not a layer."""
    return type(operation).__module__.startswith("keras.src.ops.")


def custom_classes_of(model: keras.Layer) -> dict[str, type]:
    """Returns the classes of the layers of a model that are not Keras's own, by name, for `custom_objects`."""
    classes = {type(layer).__name__: type(layer) for layer in layers_of(model)}
    return {name: cls for name, cls in classes.items() if not is_keras_class(cls)}


def owns_loss(layer: keras.Layer, loss: Tensor) -> bool:
    """Returns whether a layer added this very loss by `add_loss`."""
    return id(loss) in layer._loss_ids


def get_mask(tensor: Tensor) -> Tensor | None:
    """Returns the mask that Keras carries beside a tensor; None if there is none."""
    return keras_backend.get_keras_mask(tensor)


def set_mask(tensor: Tensor, mask: Tensor) -> None:
    """Lets a tensor carry a mask, as layers with `supports_masking` do."""
    keras_backend.set_keras_mask(tensor, mask)


def takes_training(layer: keras.Layer) -> bool:
    """Returns whether the `call` of a layer has an argument `training`."""
    return layer._call_has_training_arg
