"""Building a teacher cache: shard by shard, resumable, by one process or several."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_notes.distillation._fingerprints import as_arrays, sample_fingerprints
from keras_notes.distillation._seeded_batches import check_process
from keras_notes.distillation.cache._dataset_shards import Source
from keras_notes.distillation.cache._record_layout import FINGERPRINTS, RecordLayout
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

__all__ = ["FORMAT_VERSION", "build_cache"]

_LARGEST_SHARD_BYTES = 256 << 20
FORMAT_VERSION = 1


def build_cache(
    layout: RecordLayout,
    teachers: Teachers,
    source: Source,
    directory: Path,
    *,
    shard_size: int,
    process: tuple[int, int],
    verbose: Any,
) -> bool:
    """Builds this process's shards that are missing; returns whether the cache is complete then.

    Raises:
        ValueError: If the folder holds another build, or `process` is out of its range.
    """
    index, count = check_process(process)
    first = source.first()
    recording = RecordingModel(lambda inputs: layout.arrays(teachers.record(inputs)), teachers.models)
    specs = recording.compute_output_spec(keras.tree.map_structure(_symbolic, first))
    bytes_per_sample = layout.learn_shapes(specs, first)
    shard_size = max(1, min(shard_size, _LARGEST_SHARD_BYTES // bytes_per_sample))
    layout.settings.update(format=FORMAT_VERSION, views=source.views, shard_size=shard_size)
    directory.mkdir(parents=True, exist_ok=True)
    _check_same_settings(directory, layout.settings)
    bar = _Progress(verbose, _remaining(source, directory, shard_size, process))
    shards = 0
    for number, batches in source.shards(shard_size):
        shards += 1
        path = shard_path(directory, number)
        if number % count != index:
            continue
        if path.is_dir():
            _check_same_data(path, batches)
        else:
            write_shard(path, _computed(layout, recording, batches, bar))
    return _finish(directory, layout.settings, shards)


def _symbolic(leaf):
    return keras.KerasTensor((None, *leaf.shape[1:]), dtype=keras.backend.standardize_dtype(leaf.dtype))


def _check_same_settings(directory: Path, settings: dict) -> None:
    path = directory / "settings.json"
    if not path.is_file():
        write_json(path, settings)
        return
    found = read_json(path, ("teachers",), "Delete the folder and build the cache anew.")
    names = {"teachers": "teacher", "inputs": "data set"}
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"`directory` must be new, or hold a build of the same teacher, data set and settings. Received: "
                f"{str(directory)!r}, whose {names.get(name, name)} is another: {found.get(name)!r}, not {value!r}. "
                f"Use another folder, or delete this one."
            )


def _check_same_data(path: Path, batches) -> None:
    """Raises ValueError unless a shard that is there holds the samples that it would be built from."""
    shard = Shard(path, check_bytes=True)
    now = [sample_fingerprints(batch) for batch in batches]
    if not np.array_equal(np.concatenate(now), shard.arrays[FINGERPRINTS]):
        raise ValueError(
            f"`dataset` must be the one that the build began with, in the same order. Received: another for "
            f"{path.name} of {str(path.parent)!r}. Use another folder, or delete this one."
        )


def _computed(layout: RecordLayout, recording, batches, bar: _Progress) -> dict[str, np.ndarray]:
    parts: dict[str, list] = {}
    size = 0
    for batch in batches:
        samples = len(keras.tree.flatten(batch)[0])
        # One size for every batch: another would be compiled anew.
        size = size or samples
        padded = keras.tree.map_structure(functools.partial(_padded, size=size), batch)
        arrays = as_arrays(recording.predict_on_batch(padded))
        stored = layout.packed({name: array[:samples] for name, array in arrays.items()})
        for name, array in {**stored, FINGERPRINTS: sample_fingerprints(batch)}.items():
            parts.setdefault(name, []).append(array)
        bar.add(samples)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _padded(leaf: np.ndarray, size: int) -> np.ndarray:
    if len(leaf) >= size:
        return leaf
    return np.concatenate([leaf, np.repeat(leaf[-1:], size - len(leaf), axis=0)])


def _finish(directory: Path, settings: dict, shards: int) -> bool:
    """Writes the index and the manifest, if all shards are there.

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


def _remaining(source: Source, directory: Path, shard_size: int, process: tuple[int, int]) -> int | None:
    """Samples that this process has to run, where the data set knows."""
    if source.samples is None:
        return None
    starts = range(0, source.samples, shard_size)
    return sum(
        min(shard_size, source.samples - start)
        for number, start in enumerate(starts)
        if number % process[1] == process[0] and not shard_path(directory, number).is_dir()
    )


class _Progress:
    """Keras's progress bar over the samples that are left."""

    def __init__(self, verbose: Any, samples: int | None) -> None:
        self._bar = keras.utils.Progbar(samples, unit_name="sample") if verbose and samples != 0 else None

    def add(self, samples: int) -> None:
        if self._bar is not None:
            self._bar.add(samples)
