"""Damage to a bundle, drawn from a seed: to the bytes of model.tflite and model.json, and to what they mean."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ai_edge_litert.tools import flatbuffer_utils

from tests.support.bundles import MODEL_FILE, append_operator, contents

__all__ = ["damage"]

_MANIFEST = "model.json"
_OWN_HASH = re.compile(rb'("manifest_sha256":\s*")([0-9a-f]{64})(")')
_NO_HASH = b"0" * 64
# Sizes, offsets and indices that a careless reader follows: none, back, too far, and all that an int32 or uint32 holds.
_WORDS = (0, 1, 2, 3, 4, 8, 127, 255, 65535, 0x10000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_NUMBERS = (-1, 0, 1, 2, 3, 7, 100, 255, 1 << 16, 1 << 24, (1 << 31) - 1, -(1 << 31))
# JSON that `json.dumps` does not write, by the text that stands for it.
_RAW = {
    "<nan>": "NaN",
    "<infinity>": "-Infinity",
    "<overflow>": "1e400",
    "<float for an integer>": "16.0",
    "<20 digits>": "9" * 20,
    "<4000 digits>": "9" * 4000,
    "<5000 digits>": "9" * 5000,
    "<deep list>": "[" * 900 + "]" * 900,
    "<deeper list>": "[" * 200_000 + "]" * 200_000,
    "<deep object>": '{"a":' * 900 + "1" + "}" * 900,
}
_STRINGS = ("", "a\nb", "\ud800", "\0", "x" * 100_000, "golden/x\n.bin", "golden/\0.bin", f"golden/{'x' * 5000}.bin")
_OUTSIDE = ("../model.tflite", "/etc/passwd", "golden/../../model.tflite")
_VALUES = (
    *(None, True, -1, 0, 3.5, 2**31, 10**9, 1e300, [], {}, [1] * 5000, {"a\nb": 1}),
    *(*_STRINGS, *_OUTSIDE, *_RAW),
)

_SMALL_BUFFER = 64
# Operators that a reader looks through, and tensors that leave nothing to look at: too few, too many, or none.
_EDGES = ("QUANTIZE", "DEQUANTIZE", "CAST")
_BROKEN_EDGES = (([], []), ([0], []), ([], [0]), ([0, 0], [0]), ([0], [0, 0]), ([-1], [0]), ([0], [-1]), ([0], None))

Draw = random.Random


def damage(source: Path, directory: Path, seed: int) -> str:
    """Writes a damaged copy of a bundle, the same for the same seed; returns what was done to it."""
    draw = Draw(seed)
    (mutation,) = draw.choices(list(_MUTATIONS), weights=[weight for weight, _ in _MUTATIONS.values()])
    is_repaired = draw.random() < 0.5
    files = dict(_files(source))
    change = _MUTATIONS[mutation][1]
    names = [change(draw, files)]
    if draw.random() < 0.25:
        # What is no flatbuffer or no JSON anymore has no structure to change.
        with contextlib.suppress(Exception):
            names.append(change(draw, files))
    if is_repaired:
        _repair(files)
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    if mutation == "directory":
        names = [_change_directory(draw, directory)]
    return f"{mutation}: {', '.join(names)}{', hashes repaired' if is_repaired else ''}"


@functools.cache
def _files(source: Path) -> dict[str, bytes]:
    return contents(source)


@functools.lru_cache(maxsize=4)
def _model(content: bytes):
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def _repair(files: dict[str, bytes]) -> None:
    """Makes sizes and hashes right again, where the manifest is still one, so that what is read next is reached."""
    content = files[_MANIFEST]
    try:
        manifest = json.loads(content)
        for name, entry in manifest["files"].items():
            old = (entry["bytes"], entry["sha256"])
            new = (len(files[name]), hashlib.sha256(files[name]).hexdigest())
            pattern = rf'("bytes":\s*){re.escape(str(old[0]))}(,\s*"sha256":\s*"){re.escape(str(old[1]))}"'
            content = re.sub(pattern.encode(), rf'\g<1>{new[0]}\g<2>{new[1]}"'.encode(), content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    content = _OWN_HASH.sub(rb"\g<1>" + _NO_HASH + rb"\g<3>", content)
    digest = hashlib.sha256(content).hexdigest().encode()
    files[_MANIFEST] = content.replace(_NO_HASH, digest, 1)


# Bytes


def _flip_bits(draw: Draw, data: bytearray) -> bytearray:
    for _ in range(draw.randint(1, draw.choice((1, 4, 64)))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def _truncate(draw: Draw, data: bytearray) -> bytearray:
    return data[: draw.randrange(len(data))]


def _insert(draw: Draw, data: bytearray) -> bytearray:
    place, size = draw.randrange(len(data) + 1), draw.choice((1, 3, 4, 16, 1000))
    return data[:place] + draw.randbytes(size) + data[place:]


def _swap_blocks(draw: Draw, data: bytearray) -> bytearray:
    size = draw.choice((4, 16, 64, 256))
    first, second = (draw.randrange(max(1, len(data) - size)) // 4 * 4 for _ in range(2))
    block, other = data[first : first + size], data[second : second + size]
    data[first : first + size], data[second : second + size] = other, block
    return data


def _overwrite_words(draw: Draw, data: bytearray) -> bytearray:
    for _ in range(draw.choice((1, 1, 2, 8))):
        word = draw.choice((*_WORDS, draw.getrandbits(32), draw.randrange(len(data)), len(data) * 4))
        place = draw.randrange(max(1, len(data) - 4)) // 4 * 4
        data[place : place + 4] = word.to_bytes(4, "little")
    return data


def _repeat(draw: Draw, data: bytearray) -> bytearray:
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.choice((4, 64, 1000)))
    return data[:end] + data[start:end] * draw.choice((1, 2, 100)) + data[end:]


_BYTES = (_flip_bits, _truncate, _insert, _swap_blocks, _overwrite_words, _overwrite_words, _repeat)


def _change_bytes(name: str, draw: Draw, files: dict[str, bytes]) -> str:
    change = draw.choice(_BYTES)
    files[name] = bytes(change(draw, bytearray(files[name]))) if files[name] else b"\0"
    return change.__name__.strip("_")


def _change_golden(draw: Draw, files: dict[str, bytes]) -> str:
    name = draw.choice(sorted(set(files) - {MODEL_FILE, _MANIFEST}))
    return f"{name} {_change_bytes(name, draw, files)}"


# What the bytes mean

Place = tuple[Any, Any]


def _places(node: Any) -> list[Place]:
    """Every (container, key) below an object of dictionaries, lists and attributes."""
    container = node if isinstance(node, (dict, list)) else vars(node)
    places: list[Place] = []
    for key, value in container.items() if isinstance(container, dict) else enumerate(container):
        places.append((container, key))
        if isinstance(value, (dict, list)) or hasattr(value, "__dict__"):
            places.extend(_places(value))
    return places


def _change_fields(draw: Draw, files: dict[str, bytes]) -> str:
    """Other numbers in a flatbuffer that stays one: shapes, types, indices, operator codes and options."""
    model = copy.deepcopy(_model(files[MODEL_FILE]))
    # Weights are most of the numbers, and the least telling; what is small can be a shape, an axis or a loop's end.
    buffers = [buffer for buffer in model.buffers if buffer.data is not None and len(buffer.data) <= _SMALL_BUFFER]
    parts = [_plain(part) for part in (*model.subgraphs, *model.operatorCodes, *model.signatureDefs, *buffers)]
    places = [(c, k) for part in parts for c, k in _places(part) if isinstance(c[k], (int, float, list))]
    changed = []
    for container, key in draw.choices(places, k=draw.choice((1, 1, 2, 5))):
        value = container[key] or 0
        if isinstance(value, list):
            container[key] = draw.choice(([], value * 2, value[1:], value[::-1], None))
        else:
            container[key] = draw.choice((*_NUMBERS, draw.randrange(200), -value, value + 1, value * 1000))
        changed.append(str(key))
    try:
        files[MODEL_FILE] = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    except Exception as error:  # numbers that the field cannot hold
        return f"none, as {'/'.join(changed)} cannot be written ({type(error).__name__})"
    return "/".join(changed)


def _add_edge(draw: Draw, files: dict[str, bytes]) -> str:
    """An operator between floats and integers that lacks a tensor, or has one too many."""
    model = copy.deepcopy(_model(files[MODEL_FILE]))
    name, (inputs, outputs) = draw.choice(_EDGES), draw.choice(_BROKEN_EDGES)
    append_operator(model, name, inputs, outputs)
    files[MODEL_FILE] = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return f"{name} from {inputs} to {outputs}"


def _plain(node: Any) -> Any:
    """Turns arrays into lists, which can hold any number."""
    for name, value in vars(node).items():
        if hasattr(value, "tolist"):
            setattr(node, name, value.tolist())
        elif isinstance(value, list):
            for item in value:
                if hasattr(item, "__dict__"):
                    _plain(item)
        elif hasattr(value, "__dict__"):
            _plain(value)
    return node


def _change_manifest(draw: Draw, files: dict[str, bytes]) -> str:
    """Another structure: keys gone, new or renamed, other types, numbers and names."""
    manifest = json.loads(files[_MANIFEST])
    changed = []
    for _ in range(draw.choice((1, 1, 2, 4))):
        places = _places(manifest)
        if not places:
            break
        container, key = draw.choice(places)
        value, way = draw.choice(_VALUES), draw.choice(("replace", "replace", "replace", "delete", "rename", "add"))
        value = list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
        if way == "replace":
            container[key] = value
        elif way == "delete":
            del container[key]
        elif isinstance(container, list):
            container.append(value)
        else:
            name = value if isinstance(value, str) else "another"
            container[name] = container.pop(key) if way == "rename" else container[key]
        changed.append(f"{way} {key} {str(value)[:20]!r}")
    if draw.random() < 0.1:
        _ask_for_much(draw, manifest)
        changed.append("many golden samples")
    text = json.dumps(manifest, indent=draw.choice((2, None)))
    for name, raw in _RAW.items():
        text = text.replace(json.dumps(name), raw)
    files[_MANIFEST] = text.encode()
    return "; ".join(changed)


def _ask_for_much(draw: Draw, manifest: Any) -> None:
    """Golden samples without end, and the sizes that would fit them."""
    samples = draw.choice((10**6, 2**31, 10**18, 10**4000))
    places = [(container, key) for container, key in _places(manifest) if key in ("golden_samples", "bytes")]
    for container, key in places:
        if isinstance(container[key], int):
            container[key] *= samples


def _change_directory(draw: Draw, directory: Path) -> str:
    """Something else than a file in the place of one."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    path = draw.choice(sorted(files))
    content = path.read_bytes()
    path.unlink()
    way = draw.choice(list(_IN_ITS_PLACE))
    _IN_ITS_PLACE[way](path, content)
    return f"{way} as {path.relative_to(directory)}"


def _linked(path: Path, content: bytes) -> None:
    outside = path.parent / "outside"
    outside.write_bytes(content)
    path.symlink_to(outside)


_IN_ITS_PLACE: dict[str, Callable[[Path, bytes], Any]] = {
    "nothing": lambda path, content: None,
    "an empty file": lambda path, content: path.touch(),
    "a directory": lambda path, content: path.mkdir(),
    "a link to a copy": _linked,
    "a link to a device": lambda path, content: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path, content: path.symlink_to("nowhere"),
    "a link to itself": lambda path, content: path.symlink_to(path.name),
    "a pipe": lambda path, content: os.mkfifo(path),
}

_MUTATIONS: dict[str, tuple[int, Callable[[Draw, dict[str, bytes]], str]]] = {
    "model bytes": (35, functools.partial(_change_bytes, MODEL_FILE)),
    "model fields": (20, _change_fields),
    # Not a "model ..." that goes to LiteRT unread: only the reader has to refuse it.
    "edge operator": (2, _add_edge),
    "manifest": (25, _change_manifest),
    "manifest bytes": (10, functools.partial(_change_bytes, _MANIFEST)),
    "golden": (3, _change_golden),
    "directory": (5, lambda draw, files: ""),
}
