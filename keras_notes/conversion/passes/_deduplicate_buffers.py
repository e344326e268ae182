"""Constants of the same bytes, once in the file."""

from __future__ import annotations

import hashlib

from ai_edge_litert.tools import flatbuffer_utils

__all__ = ["share_buffers"]


def share_buffers(tflite: bytes) -> bytes:
    """The file with each constant once.

    The quantizer writes a constant anew for each of its uses that differ, such as an embedding whose rows are looked up
    and multiplied by, and once more for each signature.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    first: dict[bytes, int] = {}
    replaced = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or len(data) == 0:
                continue
            shared = first.setdefault(hashlib.sha256(bytes(data)).digest(), tensor.buffer)
            if shared != tensor.buffer:
                replaced.add(tensor.buffer)
                tensor.buffer = shared
    for number in replaced:
        model.buffers[number].data = None  # emptied and not removed, so that the others keep their numbers
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if replaced else tflite
