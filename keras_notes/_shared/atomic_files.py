"""Files and folders that appear complete or not at all, to other processes and to a run after a kill.

Every file is on the disk (`os.fsync`) before it takes its place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["hidden_beside", "move_directory", "write_atomically", "write_synced"]


def hidden_beside(path: Path) -> Path:
    """Returns a unique hidden name in the folder of `path`, so that a rename moves what is written there to `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


@contextlib.contextmanager
def write_atomically(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Opens a file to write to; it replaces `path` when the block ends without an error.

    Args:
        path: The file to create or replace.
        temporary: The file in the same folder that is written first, and that a kill leaves behind; a file of that name
            is replaced. By default a unique hidden one.
    """
    temporary = hidden_beside(path) if temporary is None else temporary
    temporary.unlink(missing_ok=True)
    try:
        # "x": a link of that name may point to a file that is not ours.
        with temporary.open("xb") as file:
            yield file
            _sync(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file, and returns when its bytes are on the disk."""
    with path.open("xb") as file:
        file.write(content)
        _sync(file)


def move_directory(source: Path, target: Path) -> None:
    """Renames a folder to `target` and deletes the one that was there; after an error the old one is still there."""
    if not target.exists():
        source.rename(target)
        return
    old = source.with_name(f"{source.name}.old")
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
