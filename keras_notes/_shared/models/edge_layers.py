"""The first layers of a model that must stay in floating point: those that bring unlike columns to a common range.

A grid has the same step for all columns. Where the columns of a table have unlike ranges, such as an age in years
beside an income, that step is too wide for the narrow columns, and a `Normalization` behind it widens the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import tree

from keras_notes._shared.keras_internals import functional_of, nodes_in_order
from keras_notes._shared.models.layer_patterns import Path, layers_by_path, matches

__all__ = ["find_float_first_layers"]

_LAYERS = keras.layers
_AFFINE = (_LAYERS.Normalization, _LAYERS.BatchNormalization, _LAYERS.Rescaling)
_MOVING = (_LAYERS.Concatenate, _LAYERS.Flatten, _LAYERS.Reshape, _LAYERS.Identity)
# Samples that are looked at.
_SAMPLES = 256
# The largest error of a column before the layer, in steps of the grid behind it. Of like columns it is about 1.
_LARGEST_ERROR = 2.0
_STEPS = 255


class _Value(NamedTuple):
    """A tensor that only affine and moving layers have computed from the inputs.

    Attributes:
        array: Samples of shape (samples, ..., columns).
        paths: Paths of the layers that computed it since the last layer that stays in floating point.
    """

    array: np.ndarray
    paths: tuple[Path, ...]


def find_float_first_layers(model: keras.Model, samples: Sequence[np.ndarray]) -> list[str]:
    """Returns the paths, "block/norm", of first layers that lose unlike columns if their inputs are rounded.

    A layer is such a layer if it computes a multiple and an offset for each column (`Normalization`,
    `BatchNormalization`, `Rescaling`), nothing but such layers, joins and reshapes comes before it, and the step of the
    grid of all of its inputs is more than two steps of the grid of its outputs in some column. The layers before it are
    returned too.

    Args:
        model: Functional or sequential model, nested ones too; for others nothing is returned.
        samples: Typical inputs, an array for each input of the model in flat order.
    """
    function = functional_of(model)
    if function is None:
        return []
    values = [
        _Value(np.asarray(array[:_SAMPLES], "float32"), ()) if "float" in tensor.dtype else None
        for tensor, array in zip(function.inputs, samples, strict=True)
    ]
    paths: list[Path] = []
    _walk(function, values, (), paths)
    layers = [path for path, _ in layers_by_path(model)]
    names = ["/".join(path) for path in dict.fromkeys(paths)]
    # A pattern that names other layers too would put these in floating point as well.
    return [name for name in names if sum(matches(name, path) for path in layers) == 1]


def _walk(
    function: keras.Function, values: Sequence[_Value | None], path: Path, float_paths: list[Path]
) -> list[_Value | None]:
    """Computes the first layers of a graph; returns the values of its outputs, None for those of other layers."""
    known = dict(zip(map(id, function.inputs), values, strict=True))
    for node in nodes_in_order(function):
        inputs = [known.get(id(tensor)) for tensor in node.input_tensors]
        sources = [value for value in inputs if value is not None]
        if not sources or len(sources) < len(inputs):
            continue
        operation, own = node.operation, (*path, node.operation.name)
        inner = functional_of(operation)
        if inner is not None:
            known.update(zip(map(id, node.outputs), _walk(inner, sources, own, float_paths), strict=True))
        elif isinstance(operation, (*_AFFINE, *_MOVING)):
            known[id(node.outputs[0])] = _compute(operation, sources, own, float_paths)
    return [known.get(id(tensor)) for tensor in function.outputs]


def _compute(layer: keras.Layer, sources: Sequence[_Value], path: Path, float_paths: list[Path]) -> _Value:
    """Computes a layer, and notes it and those before it if it must stay in floating point."""
    arrays = [source.array for source in sources]
    result = layer(arrays if isinstance(layer, _LAYERS.Concatenate) else arrays[0])
    array = keras.ops.convert_to_numpy(tree.flatten(result)[0])
    paths = (*(before for source in sources for before in source.paths), path)
    if isinstance(layer, _AFFINE) and _largest_error(arrays[0], array) > _LARGEST_ERROR:
        float_paths.extend(paths)
        return _Value(array, ())
    return _Value(array, paths)


def _largest_error(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the step of the grid of x, times the factor of the worst column, in steps of the grid of y."""
    columns = tuple(range(x.ndim - 1))
    x_extents, y_extents = (np.ptp(array, axis=columns).astype("float64") for array in (x, y))
    moving = x_extents > 0
    if not moving.any() or not np.ptp(y):
        return 0.0
    return float((y_extents[moving] / x_extents[moving]).max() * _step(x) / _step(y))


def _step(array: np.ndarray) -> float:
    """Returns the step of the grid that holds 0 and all values of an array."""
    return (max(float(array.max()), 0.0) - min(float(array.min()), 0.0)) / _STEPS
