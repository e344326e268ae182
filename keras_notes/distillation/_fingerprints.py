"""Fingerprints that tell one sample, one teacher and one file from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xxhash

__all__ = ["as_arrays", "file_fingerprint", "model_fingerprint", "sample_fingerprints", "weight_sums"]

_CHUNK_BYTES = 1 << 22


def as_arrays(structure):
    """A structure of tensors or arrays as NumPy arrays in the memory of the host."""
    return keras.tree.map_structure(
        lambda leaf: leaf if isinstance(leaf, np.ndarray) else keras.ops.convert_to_numpy(leaf), structure
    )


def sample_fingerprints(inputs: Any) -> np.ndarray:
    """64 bits for each sample of a batch, from its bytes: uint64 of shape (batch,)."""
    leaves = [np.ascontiguousarray(leaf) for leaf in keras.tree.flatten(inputs)]
    if len(leaves) == 1:
        values = [xxhash.xxh3_64_intdigest(row) for row in _rows(leaves[0])]
    else:
        values = []
        for rows in zip(*map(_rows, leaves), strict=True):
            hasher = xxhash.xxh3_64()
            for row in rows:
                hasher.update(row)
            values.append(hasher.intdigest())
    return np.array(values, "uint64")


def _rows(leaf):
    """The samples of an array as contiguous bytes; its strings, too."""
    if leaf.dtype.kind in "OUS":
        return [str(row.tolist()).encode() for row in leaf]
    return leaf.reshape(len(leaf), -1).view("uint8")


def model_fingerprint(model: keras.Layer) -> str:
    """128 bits of what a model computes: its layers' settings and all its weights, whatever their names."""
    hasher = xxhash.xxh3_128()
    for layer in model._flatten_layers():
        hasher.update(_settings(layer).encode())
    for weight in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        hasher.update(f"{value.shape}{value.dtype}".encode())
        hasher.update(value.tobytes())
    return hasher.hexdigest()


def weight_sums(model: keras.Layer) -> tuple[float, ...]:
    """The sum of each weight, computed where the weights are: a cheap sign that some of them changed."""
    return tuple(float(keras.ops.sum(keras.ops.cast(weight, "float32"))) for weight in model.weights)


def _settings(layer: keras.Layer) -> str:
    """The class and the config of a layer, wiring included, whatever its parts are called."""
    kind = type(layer).__name__
    try:
        config = keras.saving.serialize_keras_object(layer)["config"]
    except (NotImplementedError, TypeError, ValueError):
        return kind  # a class of the user's that Keras cannot save, either
    numbers: dict[str, int] = {}
    _number_names(config, numbers)
    return kind + json.dumps(_kept(config, numbers), sort_keys=True, default=lambda value: type(value).__name__)


def _number_names(value, numbers: dict[str, int]) -> None:
    """Numbers the names in a config, in the order in which they come."""
    if isinstance(value, dict):
        if "DTypePolicy" in str(value.get("class_name")):
            return  # its name is what it does
        if isinstance(value.get("name"), str):
            numbers.setdefault(value["name"], len(numbers))
        for key in sorted(value, key=str):
            _number_names(value[key], numbers)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _number_names(item, numbers)


def _kept(value, numbers: dict[str, int]):
    """A config with numbers for names, and without how the model was trained."""
    if isinstance(value, dict):
        if "DTypePolicy" in str(value.get("class_name")):
            return value["config"]
        left_out = ("name", "trainable", "seed", "build_config", "compile_config", "registered_name", "module")
        return {str(key): _kept(item, numbers) for key, item in value.items() if key not in left_out}
    if isinstance(value, (list, tuple)):
        return [_kept(item, numbers) for item in value]
    return f"#{numbers[value]}" if isinstance(value, str) and value in numbers else value


def file_fingerprint(path: Path) -> str:
    """64 bits of a file's bytes."""
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()
