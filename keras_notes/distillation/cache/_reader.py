"""Reader of the files of a complete teacher cache: arrays by fingerprint, over all shards, memory-mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_notes._shared.types import Json
from keras_notes.distillation.cache._shards import FORMAT_VERSION, KEYS, ROWS, Shard, check_file, read_json, shard_path

__all__ = ["CacheFiles"]


class CacheFiles:
    """The shards and the index of a cache.

    Args:
        directory: Folder of the cache.
        check_bytes: Whether the bytes of all files are checked, and not their sizes alone.

    Raises:
        ValueError: If there is no cache, its build was not finished, or a file is not as it was written.
    """

    def __init__(self, directory: Path, *, check_bytes: bool) -> None:
        if not (directory / "cache.json").is_file():
            is_begun = (directory / "settings.json").is_file()
            raise ValueError(
                f"`directory` must hold a complete teacher cache. Received: {str(directory)!r}, "
                + ("whose build was not finished: run `build` again." if is_begun else "which holds none.")
            )
        remedy = "Delete cache.json and build again; the shards are kept."
        keys = ("settings", "shards", "index")
        manifest = read_json(directory / "cache.json", keys, remedy)
        if manifest["settings"].get("format") != FORMAT_VERSION:
            raise ValueError(
                f"{directory} must have the format {FORMAT_VERSION}. Received: "
                f"format={manifest['settings'].get('format')!r}, of another version of keras_notes. Build it again."
            )
        for name, account in manifest["index"].items():
            check_file(directory / name, account, remedy, check_bytes=check_bytes)
        self.settings: dict[str, Json] = manifest["settings"]
        self._shards = [Shard(shard_path(directory, i), check_bytes=check_bytes) for i in range(manifest["shards"])]
        self._starts = np.cumsum([0, *(shard.samples for shard in self._shards)])
        # Class ids may be narrower in one shard than in another.
        names = self._shards[0].arrays
        self._dtypes = {name: np.result_type(*(shard.arrays[name].dtype for shard in self._shards)) for name in names}
        self.samples: int = int(self._starts[-1])
        self._keys = np.load(directory / KEYS, mmap_mode="r", allow_pickle=False)
        self._rows = np.load(directory / ROWS, mmap_mode="r", allow_pickle=False)
        if not len(self._keys) == len(self._rows) == self.samples:
            raise ValueError(
                f"{directory} must have an index of all its samples. Received: {len(self._keys)} of "
                f"{self.samples}. Delete cache.json and build again; the shards are kept."
            )

    def find(self, fingerprints: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns the stored arrays of samples, and which of the samples are missing (their arrays mean nothing)."""
        places = np.minimum(np.searchsorted(self._keys, fingerprints), len(self._keys) - 1)
        return self._gather(np.asarray(self._rows[places])), self._keys[places] != fingerprints

    def first(self, count: int) -> dict[str, np.ndarray]:
        """Returns the stored arrays of the first samples, at most `count` of them."""
        return self._gather(np.arange(min(count, self.samples)))

    def _gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        arrays: dict[str, np.ndarray] = {}
        for owner in np.unique(owners):
            chosen = np.flatnonzero(owners == owner)
            for name, array in self._shards[owner].arrays.items():
                if name not in arrays:
                    arrays[name] = np.empty((len(rows), *array.shape[1:]), self._dtypes[name])
                arrays[name][chosen] = array[rows[chosen] - self._starts[owner]]
        return arrays
