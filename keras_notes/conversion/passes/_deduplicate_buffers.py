"""Passes on buffers: each constant once in the file, and apart where the quantizer would take two for the same."""

from __future__ import annotations

import hashlib

from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import WEIGHTED_OPERATORS, code_of

__all__ = ["deduplicate_buffers", "separate_weights"]


def deduplicate_buffers(model: schema.ModelT) -> bool:
    """Lets tensors with the same bytes share one buffer, and removes the other buffers.

    The quantizer writes a constant again for each of its uses that differ, such as an embedding whose rows are looked
    up and multiplied by, and once more for each signature.
    """
    first_buffers: dict[bytes, int] = {}
    duplicates = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or len(data) == 0:
                continue
            shared = first_buffers.setdefault(hashlib.sha256(bytes(data)).digest(), int(tensor.buffer))
            if shared != tensor.buffer:
                duplicates.add(int(tensor.buffer))
                tensor.buffer = shared
    if duplicates:
        _remove_buffers(model, duplicates)
    return bool(duplicates)


def separate_weights(model: schema.ModelT) -> bool:
    """Gives weights whose shapes or axes of channels differ buffers of their own, before the quantizer.

    The converter lets two kernels of equal bytes share a buffer, as kernels of zeros do, whatever their shapes. The
    quantizer gives the tensors of a buffer one set of scales, which fits the channels of only one of them.
    """
    first_forms: dict[int, tuple[tuple[int, ...], int]] = {}
    own_buffers: dict[tuple[int, tuple[tuple[int, ...], int]], int] = {}
    for graph in model.subgraphs:
        axes = _axes_of_channels(model, graph)
        for index, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is None or tensor.type != schema.TensorType.FLOAT32 or len(tensor.shape) < 2:
                continue
            buffer = int(tensor.buffer)
            form = (tuple(map(int, tensor.shape)), axes.get(index, 0))
            if form == first_forms.setdefault(buffer, form):
                continue
            if (buffer, form) not in own_buffers:
                model.buffers.append(schema.BufferT())
                model.buffers[-1].data = data
                own_buffers[buffer, form] = len(model.buffers) - 1
            tensor.buffer = own_buffers[buffer, form]
    return bool(own_buffers)


def _axes_of_channels(model: schema.ModelT, graph: schema.SubGraphT) -> dict[int, int]:
    """Returns the axis of the channels of weights, by the index of their tensor."""
    axes = {}
    for operator in graph.operators:
        places = WEIGHTED_OPERATORS.get(code_of(model, operator))
        if places is not None:
            axes[int(operator.inputs[places.weights])] = places.channels
    return axes


def _remove_buffers(model: schema.ModelT, removed: set[int]) -> None:
    """Removes buffers that no tensor uses; the others move up."""
    kept = [index for index in range(len(model.buffers)) if index not in removed]
    new_indices = {index: place for place, index in enumerate(kept)}
    model.buffers = [model.buffers[index] for index in kept]
    owners = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    for owner in (*owners, *(model.metadata or ())):
        owner.buffer = new_indices[int(owner.buffer)]
