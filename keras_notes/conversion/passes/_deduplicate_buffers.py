"""A pass that keeps each constant once in the file."""

from __future__ import annotations

import hashlib

from ai_edge_litert import schema_py_generated as schema

__all__ = ["deduplicate_buffers"]


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


def _remove_buffers(model: schema.ModelT, removed: set[int]) -> None:
    """Removes buffers that no tensor uses; the others move up."""
    kept = [index for index in range(len(model.buffers)) if index not in removed]
    new_indices = {index: place for place, index in enumerate(kept)}
    model.buffers = [model.buffers[index] for index in kept]
    owners = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    for owner in (*owners, *(model.metadata or ())):
        owner.buffer = new_indices[int(owner.buffer)]
