"""Files that other processes, and a run after a kill, see whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["hidden_beside", "written_whole"]


def hidden_beside(path: Path) -> Path:
    """A name of its own for what is to become `path`, in the same folder, so that a rename brings it there."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when the block has ended and its bytes are on the disk."""
    temporary = hidden_beside(path)
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
