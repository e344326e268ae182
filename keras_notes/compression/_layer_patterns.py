"""Which layers a `skip` names: by name, or by a path of names from an outer layer to an inner one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_notes._shared.checks import received
from keras_notes._shared.layer_patterns import matches

__all__ = ["check_skip", "is_skipped", "skip_patterns"]


def skip_patterns(skip: Any) -> tuple[str, ...]:
    """The patterns that were given.

    Raises:
        TypeError: If they are no sequence of strings.
    """
    if isinstance(skip, str) or not all(isinstance(pattern, str) for pattern in skip):
        raise TypeError(f"`skip` must be a sequence of patterns of layer names. {received(skip=skip)}")
    return tuple(skip)


def is_skipped(path: tuple[str, ...], patterns: Sequence[str]) -> bool:
    """Whether a layer, or one around it, fits a pattern.

    Args:
        path: The names of the layers down to it, from the outermost.
        patterns: "conv_*", or "block/*" for what is in a layer.
    """
    return any(matches(pattern, path) for pattern in patterns)


def check_skip(patterns: Sequence[str], paths: Iterable[tuple[str, ...]], kinds: str = "layers of the model") -> None:
    """Raises ValueError if a pattern fits none of the layers: a mistake that would else show on the device only."""
    known = list(paths)
    for pattern in patterns:
        if not any(matches(pattern, path) for path in known):
            names = ", ".join(dict.fromkeys("/".join(path) for path in known))
            raise ValueError(f"`skip` must name {kinds}: {names}. {received(skip=pattern)}")
