"""The files of a teacher cache: shards of `.npy` arrays, each with an account of itself, written all or not at all.

settings.json     settings of the build; written first
shard-00000/      one array a tensor, and shard.json: samples, and each file's size and fingerprint
index-keys.npy    the fingerprints of all samples, sorted;  index-rows.npy  the row of each
cache.json        written last: a folder without it is an unfinished build
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from keras_notes._shared.atomic_files import hidden_beside, write_atomically
from keras_notes._shared.types import Json
from keras_notes.distillation._fingerprints import file_fingerprint

__all__ = [
    "FORMAT_VERSION",
    "KEYS",
    "ROWS",
    "Shard",
    "account_of",
    "check_file",
    "read_json",
    "shard_path",
    "write_array",
    "write_json",
    "write_shard",
]

# Version of the files described above; `CacheFiles` opens no other.
FORMAT_VERSION = 1
KEYS, ROWS = "index-keys.npy", "index-rows.npy"
_ACCOUNT = "shard.json"


def shard_path(directory: Path, index: int) -> Path:
    """Returns the folder of one shard."""
    return directory / f"shard-{index:05d}"


def read_json(path: Path, keys: tuple[str, ...], remedy: str) -> dict[str, Json]:
    """Returns the contents of a JSON file.

    Raises:
        ValueError: If the file does not hold an object with these keys; the message ends with the remedy.
    """
    try:
        content = json.loads(path.read_text())
        missing = sorted(set(keys) - set(content)) if isinstance(content, dict) else type(content).__name__
        problem = missing and f"nothing of {missing}"
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{path} must hold JSON that the build wrote. Received: {problem}. {remedy}")
    return content


def account_of(file: Path) -> dict[str, Json]:
    """Returns the size and fingerprint of a file, by which a change of it is noticed later."""
    return {"bytes": file.stat().st_size, "xxh3_64": file_fingerprint(file)}


def check_file(file: Path, account: dict[str, Json], remedy: str, *, check_bytes: bool) -> None:
    """Raises ValueError unless a file has the size and fingerprint of its account; the message ends with the remedy."""
    size = file.stat().st_size if file.is_file() else None
    if size != account["bytes"]:
        actual = "no such file" if size is None else f"{size} bytes"
        raise ValueError(f"{file} must have {account['bytes']} bytes. Received: {actual}. {remedy}")
    if check_bytes and file_fingerprint(file) != account["xxh3_64"]:
        raise ValueError(f"{file} must hold what was written. Received: other bytes. {remedy}")


def write_json(path: Path, content: Json) -> None:
    """Writes a file that other processes see whole or not at all."""
    with write_atomically(path) as file:
        file.write(json.dumps(content, indent=1, sort_keys=True).encode())


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array that other processes see whole or not at all."""
    with write_atomically(path) as file:
        np.save(file, array, allow_pickle=False)


def write_shard(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays of one shard into a folder that appears when it is complete."""
    temporary = hidden_beside(path)
    temporary.mkdir()
    files = {}
    for name, array in arrays.items():
        file = temporary / f"{name}.npy"
        write_array(file, array)
        files[file.name] = account_of(file)
    write_json(temporary / _ACCOUNT, {"samples": len(next(iter(arrays.values()))), "files": files})
    try:
        temporary.rename(path)
    except OSError:
        # Another process was asked for the same shard and came first.
        if not path.is_dir():
            raise
        shutil.rmtree(temporary)


class Shard:
    """One complete shard, its arrays memory-mapped.

    Raises:
        ValueError: If a file is missing, or is not as it was written.
    """

    def __init__(self, path: Path, *, check_bytes: bool) -> None:
        self.path = path
        if not path.is_dir():
            raise ValueError(f"{path.parent} must hold {path.name}. Received: no such folder. Build the cache again.")
        remedy = f"Delete {path.name} and build again; the other shards are kept."
        account = read_json(path / _ACCOUNT, ("samples", "files"), remedy)
        self.samples: int = account["samples"]
        for name, file_account in account["files"].items():
            check_file(path / name, file_account, remedy, check_bytes=check_bytes)
        self.arrays = {
            name.removesuffix(".npy"): np.load(path / name, mmap_mode="r", allow_pickle=False)
            for name in account["files"]
        }
