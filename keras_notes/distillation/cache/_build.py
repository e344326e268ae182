"""Building a teacher cache: shard by shard, resumable, by one process or several."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from keras_notes._shared.types import Json, Tree
from keras_notes.distillation._fingerprints import as_arrays, sample_fingerprints
from keras_notes.distillation._seeded_batches import check_process
from keras_notes.distillation.cache._cache_settings import FINGERPRINTS, CacheSettings, StorageOptions
from keras_notes.distillation.cache._dataset_shards import Source
from keras_notes.distillation.cache._shards import (
    KEYS,
    ROWS,
    Shard,
    account_of,
    read_json,
    shard_path,
    write_array,
    write_json,
    write_shard,
)
from keras_notes.distillation.recording._teachers import RecordingModel, Teachers

__all__ = ["build_cache"]

_MAXIMUM_SHARD_BYTES = 256 << 20


def build_cache(
    storage: StorageOptions,
    teachers: Teachers,
    source: Source,
    directory: Path,
    *,
    shard_size: int,
    process: tuple[int, int],
    verbose: int | str,
) -> bool:
    """Builds the missing shards of this process; returns whether the cache is complete then.

    Args:
        storage: How the teachers' outputs are stored.
        teachers: The teachers.
        source: The data set.
        directory: Folder of the cache.
        shard_size: Maximum of samples in a shard.
        process: (index, count) of this process.
        verbose: 0 for silence, else a progress bar.

    Raises:
        ValueError: If the folder holds another build, or `process` is out of its range.
    """
    index, count = check_process(process)
    first = source.first()
    recording = RecordingModel(lambda inputs: storage.to_tensors(teachers.record(inputs)), teachers.models)
    specs = recording.compute_output_spec(keras.tree.map_structure(_symbolic, first))
    settings = CacheSettings.of_build(
        teachers,
        storage,
        specs,
        first,
        views=source.views,
        maximum_shard_size=shard_size,
        maximum_shard_bytes=_MAXIMUM_SHARD_BYTES,
    )
    directory.mkdir(parents=True, exist_ok=True)
    _check_same_settings(directory, settings.to_json())
    bar = _Progress(verbose, _count_remaining(source, directory, settings.shard_size, process))
    shards = 0
    for number, batches in source.shards(settings.shard_size):
        shards += 1
        path = shard_path(directory, number)
        if number % count != index:
            continue
        if path.is_dir():
            _check_same_data(path, batches)
        else:
            write_shard(path, _compute_shard(storage, recording, batches, bar))
    return _finish(directory, settings.to_json(), shards)


def _symbolic(leaf: np.ndarray) -> keras.KerasTensor:
    return keras.KerasTensor((None, *leaf.shape[1:]), dtype=keras.backend.standardize_dtype(leaf.dtype))


def _check_same_settings(directory: Path, settings: dict[str, Json]) -> None:
    path = directory / "settings.json"
    if not path.is_file():
        write_json(path, settings)
        return
    earlier = read_json(path, ("teachers",), "Delete the folder and build the cache again.")
    names = {"teachers": "teacher", "inputs": "data set"}
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise ValueError(
                f"`directory` must be new, or hold a build of the same teacher, data set and settings. Received: "
                f"{str(directory)!r}, whose {names.get(name, name)} is another: {earlier.get(name)!r}, not {value!r}. "
                f"Use another folder, or delete this one."
            )


def _check_same_data(path: Path, batches: Iterable[Tree]) -> None:
    """Raises ValueError unless a finished shard holds the samples that it would be built from."""
    shard = Shard(path, check_bytes=True)
    fingerprints = [sample_fingerprints(batch) for batch in batches]
    if not np.array_equal(np.concatenate(fingerprints), shard.arrays[FINGERPRINTS]):
        raise ValueError(
            f"`dataset` must be the one that the build began with, in the same order. Received: another for "
            f"{path.name} of {str(path.parent)!r}. Use another folder, or delete this one."
        )


def _compute_shard(
    storage: StorageOptions, recording: RecordingModel, batches: Iterable[Tree], bar: _Progress
) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    size = 0
    for batch in batches:
        samples = len(keras.tree.flatten(batch)[0])
        # One size for every batch: each new size would be compiled.
        size = size or samples
        padded = keras.tree.map_structure(functools.partial(_pad, size=size), batch)
        arrays = as_arrays(recording.predict_on_batch(padded))
        stored = storage.pack({name: array[:samples] for name, array in arrays.items()})
        for name, array in {**stored, FINGERPRINTS: sample_fingerprints(batch)}.items():
            parts.setdefault(name, []).append(array)
        bar.add(samples)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _pad(leaf: np.ndarray, size: int) -> np.ndarray:
    if len(leaf) >= size:
        return leaf
    return np.concatenate([leaf, np.repeat(leaf[-1:], size - len(leaf), axis=0)])


def _finish(directory: Path, settings: dict[str, Json], shards: int) -> bool:
    """Writes the index and the manifest, if all shards exist; returns whether they do.

    Raises:
        ValueError: If there are more shards than the data set has.
    """
    if shard_path(directory, shards).is_dir():
        raise ValueError(
            f"`dataset` must be the one that the build began with. Received: a smaller one, of {shards} shards, for "
            f"{str(directory)!r}, which has more. `join` takes any part of the data as it is; no build is needed."
        )
    if not all(shard_path(directory, number).is_dir() for number in range(shards)):
        return False
    parts = [Shard(shard_path(directory, n), check_bytes=False).arrays[FINGERPRINTS] for n in range(shards)]
    keys = np.concatenate(parts)
    order = np.argsort(keys, kind="stable")
    write_array(directory / KEYS, keys[order])
    write_array(directory / ROWS, order.astype("int64"))
    index = {name: account_of(directory / name) for name in (KEYS, ROWS)}
    write_json(directory / "cache.json", {"settings": settings, "shards": shards, "samples": len(keys), "index": index})
    return True


def _count_remaining(source: Source, directory: Path, shard_size: int, process: tuple[int, int]) -> int | None:
    """Returns the samples that this process has to run; None if the data set does not know its length."""
    if source.samples is None:
        return None
    starts = range(0, source.samples, shard_size)
    return sum(
        min(shard_size, source.samples - start)
        for number, start in enumerate(starts)
        if number % process[1] == process[0] and not shard_path(directory, number).is_dir()
    )


class _Progress:
    """Keras's progress bar over the remaining samples."""

    def __init__(self, verbose: int | str, samples: int | None) -> None:
        self._bar = keras.utils.Progbar(samples, unit_name="sample") if verbose and samples != 0 else None

    def add(self, samples: int) -> None:
        if self._bar is not None:
            self._bar.add(samples)
