"""Fingerprints of samples, teachers and files."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import xxhash

from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import Json, Tree

__all__ = ["as_arrays", "file_fingerprint", "model_fingerprint", "sample_fingerprints", "weight_sums"]

_CHUNK_BYTES = 1 << 22


def as_arrays(structure: Tree) -> Tree:
    """Returns a structure of tensors or arrays as NumPy arrays in the memory of the host."""
    return keras.tree.map_structure(
        lambda leaf: leaf if isinstance(leaf, np.ndarray) else keras.ops.convert_to_numpy(leaf), structure
    )


def sample_fingerprints(inputs: Tree) -> np.ndarray:
    """Returns 64 bits for each sample of a batch, from its bytes: uint64 of shape (batch,)."""
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


def _rows(leaf: np.ndarray) -> np.ndarray | list[bytes]:
    """The samples of an array as contiguous bytes; its strings, too."""
    if leaf.dtype.kind in "OUS":
        return [str(row.tolist()).encode() for row in leaf]
    return leaf.reshape(len(leaf), -1).view("uint8")


def model_fingerprint(model: keras.Layer) -> str:
    """Returns 128 bits of a model's computation: its layers' settings and all its weights, whatever their names."""
    hasher = xxhash.xxh3_128()
    for layer in layers_of(model):
        hasher.update(_settings(layer).encode())
    for weight in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        hasher.update(f"{value.shape}{value.dtype}".encode())
        hasher.update(value.tobytes())
    return hasher.hexdigest()


def weight_sums(model: keras.Layer) -> tuple[float, ...]:
    """Returns the sum of each weight, computed where the weights are: a cheap sign that some of them changed."""
    return tuple(float(keras.ops.sum(keras.ops.cast(weight, "float32"))) for weight in model.weights)


def _settings(layer: keras.Layer) -> str:
    """Returns class and config of a layer, connections included, without the names of its parts."""
    class_name = type(layer).__name__
    try:
        config = keras.saving.serialize_keras_object(layer)["config"]
    except (NotImplementedError, TypeError, ValueError):
        return class_name  # a class of the user's that Keras cannot save
    numbers: dict[str, int] = {}
    _number_names(config, numbers)
    return class_name + json.dumps(
        _anonymize(config, numbers), sort_keys=True, default=lambda value: type(value).__name__
    )


def _number_names(value: Json, numbers: dict[str, int]) -> None:
    """Numbers the names in a config, in their order."""
    if isinstance(value, dict):
        if "DTypePolicy" in str(value.get("class_name")):
            return  # its name says what it does
        if isinstance(value.get("name"), str):
            numbers.setdefault(value["name"], len(numbers))
        for key in sorted(value, key=str):
            _number_names(value[key], numbers)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _number_names(item, numbers)


def _anonymize(value: Json, numbers: dict[str, int]) -> Json:
    """Returns a config with numbers for names, and without the settings of training."""
    if isinstance(value, dict):
        if "DTypePolicy" in str(value.get("class_name")):
            return value["config"]
        left_out = ("name", "trainable", "seed", "build_config", "compile_config", "registered_name", "module")
        return {str(key): _anonymize(item, numbers) for key, item in value.items() if key not in left_out}
    if isinstance(value, (list, tuple)):
        return [_anonymize(item, numbers) for item in value]
    return f"#{numbers[value]}" if isinstance(value, str) and value in numbers else value


def file_fingerprint(path: Path) -> str:
    """Returns 64 bits of a file's bytes."""
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()
