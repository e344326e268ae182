"""Patterns that name layers of a model: by name, or by a path of names from an outer layer to an inner one.

A pattern has the wildcards of file names: "conv_*". It matches a layer if it matches the layer's name, the name of a
layer around it, or any part of the path "outer/.../inner" to it: "block" and "block/*" both name what is in a layer
"block". Operations are at the end of a path: "exp" matches each operation of that name, "exp#2" the second one of a
graph.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import keras

from keras_notes._shared.checks import received

__all__ = [
    "Path",
    "check_skip",
    "last_match",
    "layers_by_path",
    "matches",
    "matches_any",
    "matching_patterns",
    "pattern_of",
    "shortest_patterns",
    "skip_patterns",
]

# The names of the layers from the outermost to the innermost.
Path: TypeAlias = tuple[str, ...]
# The number of an operation: "#2" of "exp#2".
_NUMBER = re.compile(r"#\d+(?=/|$)")


def matches(pattern: str, path: Path) -> bool:
    """Whether a pattern matches the layer at a path."""
    return bool(matching_patterns([pattern], path))


def matches_any(patterns: Iterable[str], path: Path) -> bool:
    """Whether at least one of some patterns matches the layer at a path."""
    return bool(matching_patterns(patterns, path))


def matching_patterns(patterns: Iterable[str], path: Path) -> list[str]:
    """The patterns that match the layer at a path, in their order."""
    parts = {"/".join(path[start:end]) for end in range(1, len(path) + 1) for start in range(end)}
    parts |= {_NUMBER.sub("", part) for part in parts}
    return [pattern for pattern in patterns if any(fnmatchcase(part, pattern) for part in parts)]


def pattern_of(path: Path) -> str:
    """Returns the pattern that names the layer or operation at a path, and what is in it."""
    return glob.escape("/".join(path))


def shortest_patterns(paths: Iterable[Path], declared: Iterable[str] = ()) -> list[str]:
    """Returns patterns that match each of some paths: those that were declared before, and as few others as needed."""
    patterns = list(dict.fromkeys(declared))
    for path in sorted(dict.fromkeys(paths), key=lambda path: (len(path), "#" in path[-1])):
        if not matches_any(patterns, path):
            patterns.append(pattern_of(path))
    return patterns


def last_match(patterns: Iterable[str], *paths: Path) -> str | None:
    """The last pattern that matches a layer, or None; a layer that is shared has several paths."""
    matching = [pattern for pattern in patterns if any(matches(pattern, path) for path in paths)]
    return matching[-1] if matching else None


def layers_by_path(model: keras.Layer) -> Iterator[tuple[Path, keras.Layer]]:
    """Yields each layer of a model with its path, nested ones too; a layer that is shared with each of its paths."""
    return _layers_in(model, (), ())


def _layers_in(layer: keras.Layer, path: Path, around: tuple[keras.Layer, ...]) -> Iterator[tuple[Path, keras.Layer]]:
    if path:
        yield path, layer
    for inner in layer._layers:
        if inner is not layer and inner not in around:
            yield from _layers_in(inner, (*path, inner.name), (*around, layer))


def skip_patterns(skip: Sequence[str], argument: str = "skip") -> tuple[str, ...]:
    """Returns the patterns of an argument such as `skip`.

    Raises:
        TypeError: If they are not a sequence of strings.
    """
    if isinstance(skip, str) or not all(isinstance(pattern, str) for pattern in skip):
        raise TypeError(f"`{argument}` must be a sequence of patterns of layer names. {received(**{argument: skip})}")
    return tuple(skip)


def check_skip(
    patterns: Sequence[str], paths: Iterable[Path], candidates: str = "layers of the model", argument: str = "skip"
) -> None:
    """Checks that each pattern of an argument such as `skip` matches a layer.

    Args:
        patterns: Patterns of the argument. One with a typing error would have no effect, which nobody would notice
            before the model runs on the device.
        paths: Paths of the layers that can be skipped.
        candidates: Name of these layers in the error message.
        argument: Name of the argument.

    Raises:
        ValueError: If a pattern matches none of the layers.
    """
    known_paths = list(paths)
    for pattern in patterns:
        if not any(matches(pattern, path) for path in known_paths):
            names = ", ".join(dict.fromkeys("/".join(path) for path in known_paths))
            raise ValueError(f"`{argument}` must name {candidates}: {names}. {received(**{argument: pattern})}")
