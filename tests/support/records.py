"""Records of saved models: the arrays that stand beside a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Record:
    """The arrays beside a saved model: one, or lists or dicts of them."""

    inputs: Any
    targets: Any = None
    outputs: Any = None

    def write(self, path: Path) -> None:
        """Writes a .npz file."""
        arrays = {}
        for part, structure in vars(self).items():
            for name, array in named(structure).items():
                arrays[f"{part}/{name}"] = np.asarray(array)
        np.savez_compressed(path, **arrays)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Reads what `write` wrote."""
        parts: dict[str, dict[str, np.ndarray]] = {"inputs": {}, "targets": {}, "outputs": {}}
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                part, _, name = key.partition("/")
                parts[part][name] = file[key]
        return cls(**{part: _structure(arrays) for part, arrays in parts.items()})


def named(structure: Any) -> dict[str, Any]:
    """The arrays of a structure by name: a list by number, and a single one as ""."""
    if structure is None:
        return {}
    if isinstance(structure, Mapping):
        return dict(structure)
    return {str(i): array for i, array in enumerate(structure)} if isinstance(structure, list) else {"": structure}


def _structure(arrays: dict[str, np.ndarray]) -> Any:
    if not arrays:
        return None
    if list(arrays) == [""]:
        return arrays[""]
    return list(arrays.values()) if all(name.isdigit() for name in arrays) else arrays
