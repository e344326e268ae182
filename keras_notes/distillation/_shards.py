"""The files of a teacher cache: shards of `.npy` arrays, each with an account of itself, written all or not at all.

settings.json     what was asked for; written first
shard-00000/      one array a tensor, and shard.json: samples, and each file's size and fingerprint
index-keys.npy    the fingerprints of all samples, sorted;  index-rows.npy  where each of them stands
cache.json        written last: a folder without it is an unfinished build
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from keras_notes.distillation._fingerprints import file_fingerprint

__all__ = ["KEYS", "ROWS", "Shard", "read_json", "shard_path", "write_array", "write_json", "write_shard"]

KEYS, ROWS = "index-keys.npy", "index-rows.npy"
_ACCOUNT = "shard.json"


def shard_path(directory: Path, index: int) -> Path:
    """The folder of one shard."""
    return directory / f"shard-{index:05d}"


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        ValueError: If the file is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} must hold JSON. Received: {error}. Delete the folder and build the cache anew."
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Writes a file that other processes see whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
    _to_disk(temporary)
    temporary.replace(path)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array that other processes see whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    _to_disk(temporary)
    temporary.replace(path)


def write_shard(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays of one shard into a folder that appears when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    files = {}
    for name, array in arrays.items():
        file = temporary / f"{name}.npy"
        write_array(file, array)
        files[file.name] = {"bytes": file.stat().st_size, "xxh3_64": file_fingerprint(file)}
    write_json(temporary / _ACCOUNT, {"samples": len(next(iter(arrays.values()))), "files": files})
    try:
        temporary.rename(path)
    except OSError:
        # Another process was asked for the same shard and came first.
        if not path.is_dir():
            raise
        shutil.rmtree(temporary)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


class Shard:
    """One complete shard, its arrays memory-mapped.

    Raises:
        ValueError: If a file is missing, or is not as it was written.
    """

    def __init__(self, path: Path, *, check_bytes: bool) -> None:
        self.path = path
        if not path.is_dir():
            raise ValueError(f"{path.parent} must hold {path.name}. Received: no such folder. Build the cache again.")
        account = read_json(path / _ACCOUNT)
        self.samples: int = account["samples"]
        for name, wanted in account["files"].items():
            self._check(path / name, wanted, check_bytes)
        self.arrays = {
            name.removesuffix(".npy"): np.load(path / name, mmap_mode="r", allow_pickle=False)
            for name in account["files"]
        }

    def _check(self, file: Path, wanted: dict, check_bytes: bool) -> None:
        size = file.stat().st_size if file.is_file() else None
        if size != wanted["bytes"]:
            found = "no such file" if size is None else f"{size} bytes"
            raise ValueError(
                f"{file} must have {wanted['bytes']} bytes. Received: {found}. Delete {self.path.name} and build "
                f"again; the other shards are kept."
            )
        if check_bytes and file_fingerprint(file) != wanted["xxh3_64"]:
            raise ValueError(
                f"{file} must hold what was written. Received: other bytes. Delete {self.path.name} and build again; "
                f"the other shards are kept."
            )
