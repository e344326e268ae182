"""Messages between a process and its worker: a length, so many bytes of JSON, then the arrays that it names.

Not pickle: what comes back was made by a process that read an untrusted file.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

__all__ = ["read_message", "write_message"]

_LENGTH = struct.Struct(">Q")
_LONGEST = 2**30
_KINDS = "biuf"


def write_message(stream: BinaryIO, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Sends a JSON object and arrays by name."""
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({"content": content, "arrays": described}).encode()
    _write(stream, _LENGTH.pack(len(text)) + text)
    for array in arrays.values():
        _write(stream, np.ascontiguousarray(array).tobytes())
    stream.flush()


def read_message(stream: BinaryIO, most_bytes: float = math.inf) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Receives a JSON object and arrays by name, which may hold `most_bytes` together.

    Raises:
        EOFError: If the other side is gone.
        ValueError: If it did not send a message.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    if length > _LONGEST:
        raise ValueError(f"A message must have at most {_LONGEST} bytes. Received: length={length}.")
    content, described = _parsed(_read(stream, length))
    size = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in described)
    if size > most_bytes:
        raise ValueError(f"The arrays of a message must have at most {most_bytes} bytes. Received: {size}.")
    return content, {name: _read_array(stream, dtype, shape) for name, dtype, shape in described}


def _parsed(text: bytes | bytearray) -> tuple[dict[str, Any], list[tuple[str, np.dtype, list[int]]]]:
    """The content of a message, and name, type and shape of its arrays."""
    try:
        message = json.loads(text)
        content = message["content"]
        described = [(name, np.dtype(dtype), shape) for name, dtype, shape in message["arrays"]]
        sizes = [size for _, _, shape in described for size in shape]
        is_message = (
            isinstance(content, dict)
            and all(isinstance(name, str) and dtype.kind in _KINDS for name, dtype, _ in described)
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
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        # An unbuffered stream gives what is there, which may be less.
        count = stream.readinto(rest)
        if not count:
            raise EOFError("The other process ended.")
        rest = rest[count:]
    return data


def _write(stream: Any, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
