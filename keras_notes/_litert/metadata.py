"""Metadata inside a .tflite file: a description as JSON, and the labels in an appended zip archive.

LiteRT ignores both: a flatbuffer's metadata, and bytes behind its end. `unzip model.tflite` gives labels.txt, which is
how TFLite's own metadata keeps associated files (https://www.tensorflow.org/lite/models/convert/metadata).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from keras_notes._shared.types import Json

__all__ = ["DESCRIPTION", "add_description", "append_labels"]

DESCRIPTION = "keras_notes"
LABELS_FILE = "labels.txt"
# The first time that a zip archive can hold, so that equal files have equal bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def add_description(model: schema.ModelT, description: Json) -> bool:
    """Adds a description to the metadata of a file; returns True, since that changes the file."""
    buffer = schema.BufferT()
    buffer.data = list(json.dumps(description, separators=(",", ":")).encode())
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = DESCRIPTION, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return True


def append_labels(tflite: bytes, labels: Sequence[str]) -> bytes:
    """Appends labels to the bytes of a file."""
    return tflite + _zip_labels(labels)


def _zip_labels(labels: Sequence[str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, _NO_TIME), "".join(f"{label}\n" for label in labels))
    return stream.getvalue()
