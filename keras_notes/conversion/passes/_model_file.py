"""A .tflite file in memory, as the objects that passes change.

A pass is a function `pass(model, ...) -> bool`: it changes the objects of a file in place, and returns whether it did.
Reading and writing a flatbuffer in Python is slow, so each file is read once, whatever the number of passes over it,
and written when its bytes are needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

if TYPE_CHECKING:
    import flatbuffers

__all__ = ["ModelFile", "Pass"]

Pass: TypeAlias = Callable[[schema.ModelT], bool]


class ModelFile:
    """A .tflite file: its objects, and its bytes on demand.

    Args:
        tflite: The bytes of the file.

    Attributes:
        model: The objects of the file. Only passes given to `run_passes` change them.
    """

    def __init__(self, tflite: bytes) -> None:
        # A copy, because the objects hold views of it.
        self.model: schema.ModelT = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
        self._written: bytes | None = None
        self._shares_vectors = False

    def run_passes(self, passes: Iterable[Pass]) -> bool:
        """Runs passes in their order; returns whether any of them changed the file."""
        changes = [run_pass(self.model) for run_pass in passes]
        if any(changes):
            self._written = None
        return any(changes)

    def share_vectors(self) -> None:
        """Has `to_bytes` write equal vectors once: the zero points of a file's channels take a sixth of its bytes."""
        self._shares_vectors, self._written = True, None

    def copy(self) -> ModelFile:
        """Returns a file with objects of its own. The copy shares the data of buffers: passes replace them only."""
        duplicate = copy.copy(self)
        shared_data = {id(buffer.data): buffer.data for buffer in self.model.buffers}
        duplicate.model = copy.deepcopy(self.model, shared_data)
        return duplicate

    def to_bytes(self) -> bytes:
        """Returns the bytes of the file, which are written again only after a change."""
        if self._written is None:
            packable = _SharingModel(self.model) if self._shares_vectors else self.model
            self._written = bytes(flatbuffer_utils.convert_object_to_bytearray(packable))
        return self._written


class _SharingModel:
    """The objects of a file, whose equal vectors are written once; a flatbuffer may refer to a vector many times.

    Args:
        model: The objects of the file.
    """

    def __init__(self, model: schema.ModelT) -> None:
        self._model = model

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        """Writes the objects; returns their offset."""
        return self._model.Pack(_SharingBuilder(builder))


class _SharingBuilder:
    """A flatbuffers builder that writes equal vectors once.

    Args:
        builder: The builder that writes.
    """

    def __init__(self, builder: flatbuffers.Builder) -> None:
        self._builder = builder
        self._offsets: dict[tuple[str, bytes], int] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._builder, name)

    def CreateNumpyVector(self, vector: np.ndarray) -> int:  # noqa: N802
        """Writes a vector unless an equal one of its type is written; returns its offset."""
        key = (vector.dtype.str, vector.tobytes())
        if key not in self._offsets:
            self._offsets[key] = self._builder.CreateNumpyVector(vector)
        return self._offsets[key]
