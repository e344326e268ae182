"""Messages between a process and its worker: a length, that many bytes of JSON, then the raw arrays that it names.

This is nearly the format of safetensors. It is not pickle, because the process that answers has read an untrusted file.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from keras_notes._shared.types import Config

__all__ = ["read_message", "write_message"]

_LENGTH = struct.Struct(">Q")
_MAX_LENGTH = 2**30
_NUMERIC_KINDS = "biuf"


def write_message(stream: BinaryIO, content: Config, arrays: Mapping[str, np.ndarray]) -> None:
    """Sends a JSON object and arrays by name."""
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({"content": content, "arrays": described}).encode()
    _write(stream, _LENGTH.pack(len(text)) + text)
    for array in arrays.values():
        _write(stream, np.ascontiguousarray(array).tobytes())
    stream.flush()


def read_message(stream: BinaryIO, max_bytes: float = math.inf) -> tuple[Config, dict[str, np.ndarray]]:
    """Receives a JSON object and arrays by name.

    Args:
        stream: Stream to read from.
        max_bytes: Largest size of all arrays together.

    Raises:
        EOFError: If the other process ended.
        ValueError: If it sent something other than a message.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    if length > _MAX_LENGTH:
        raise ValueError(f"A message must have at most {_MAX_LENGTH} bytes. Received: length={length}.")
    content, described = _parse(_read(stream, length))
    size = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in described)
    if size > max_bytes:
        raise ValueError(f"The arrays of a message must have at most {max_bytes} bytes. Received: {size}.")
    return content, {name: _read_array(stream, dtype, shape) for name, dtype, shape in described}


def _parse(text: bytes | bytearray) -> tuple[Config, list[tuple[str, np.dtype, list[int]]]]:
    """Returns the content of a message, and name, type and shape of each array."""
    try:
        message = json.loads(text)
        content = message["content"]
        described = [(name, np.dtype(dtype), shape) for name, dtype, shape in message["arrays"]]
        sizes = [size for _, _, shape in described for size in shape]
        is_message = (
            isinstance(content, dict)
            and all(isinstance(name, str) and dtype.kind in _NUMERIC_KINDS for name, dtype, _ in described)
            and all(isinstance(size, int) and size >= 0 for size in sizes)
        )
        if not is_message:
            raise ValueError("A message must hold an object, and arrays of numbers.")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("A message must hold an object, and arrays of numbers.") from error
    return content, described


def _read_array(stream: BinaryIO, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    data = _read(stream, math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _read(stream: Any, size: int) -> bytearray:
    # Any: `BinaryIO` does not declare `readinto`, which every binary stream has.
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        # An unbuffered stream may give fewer bytes than asked for.
        count = stream.readinto(rest)
        if not count:
            raise EOFError("The other process ended.")
        rest = rest[count:]
    return data


def _write(stream: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
