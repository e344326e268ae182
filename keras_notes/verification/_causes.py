"""Reasons why a file strays from its model: data that do not fit its grids, and the first tensor that is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from keras_notes._litert.grid_fit import fit_to_grid
from keras_notes._litert.model import TfliteFile
from keras_notes.bundle import Bundle, SignatureEntry, TensorError, read_tensor_errors

__all__ = ["find_causes"]

# Below this ratio the noise of quantization has more than a tenth of the signal's power; above the other it is that of
# 8 bits on a tensor that uses them.
_BAD_DB, _SOUND_DB = 10.0, 25.0
# Masks write such values into scores: -1e9, or the lowest number of a type.
_MASKED = 1e6
# 16 steps are left for the smaller values.
_RATIO_IN_16_BITS = 2**16 / 16


def find_causes(bundle: Bundle, file: TfliteFile) -> Iterator[str]:
    """Yields sentences that say why the file of a bundle strays, each with a remedy.

    Args:
        bundle: The bundle; its golden samples and errors of tensors are read.
        file: The content of its file.
    """
    signature = bundle.manifest.signatures[0]
    yield from _columns_within_a_step(bundle, file, signature)
    errors = [error for error in read_tensor_errors(bundle) or () if not math.isnan(error.sqnr_db)]
    bad = [index for index, error in enumerate(errors) if error.sqnr_db < _BAD_DB]
    if not bad and errors:
        worst = min(range(len(errors)), key=lambda index: errors[index].sqnr_db)
        bad = [worst] if errors[worst].sqnr_db < _SOUND_DB else []
    if bad:
        layers = [_layer_of(error) for error in errors[: bad[0] + 1]]
        before = next((layer for layer in reversed(layers) if layer != layers[-1]), None)
        yield _describe_tensor(bundle, errors[bad[0]], before)


def _columns_within_a_step(bundle: Bundle, file: TfliteFile, signature: SignatureEntry) -> Iterator[str]:
    """Yields a sentence for each input with columns whose values lie within a step of the grid of all columns."""
    entry = next(item for item in file.signatures if item.name == signature.name)
    graph = file.graph(entry)
    for name, values in bundle.golden(signature)[0].items():
        grid = graph.input_grid(entry.inputs[name])
        if fit_to_grid(values, grid) is None or grid.scale is None or values.ndim < 2 or values.shape[-1] < 2:
            continue
        columns = values.reshape(-1, values.shape[-1])
        widths = columns.max(axis=0) - columns.min(axis=0)
        if (narrow := np.flatnonzero((widths > 0) & (widths < grid.scale))).size:
            numbers = ", ".join(map(str, narrow[:5])) + (f" and {narrow.size - 5} more" if narrow.size > 5 else "")
            ratio = float(widths.max() / widths[narrow].min())
            yield (
                f"columns {numbers} of the input {name!r} vary by at most {widths[narrow].max():.3g}, and a step of "
                f"its grid is {grid.scale:.3g}, since column {int(widths.argmax())} varies by {widths.max():.3g}: the "
                f"file sees constants. Give the model columns of one size, or use {_finer_recipe(bundle, ratio)}"
            )


def _layer_of(error: TensorError) -> str:
    return error.name.rsplit("/", 1)[0]


def _describe_tensor(bundle: Bundle, error: TensorError, before: str | None) -> str:
    """Returns the words for the first tensor that is wrong, its layer and a remedy; `before` is the layer before."""
    layer = _layer_of(error)
    place = f"the first tensor that is wrong is that of the layer {layer!r} ({error.name}, {error.sqnr_db:.0f} dB)"
    layers = {name: "float32" for name in (before, layer) if name is not None}
    in_float = f"recipe={ {'default': bundle.manifest.recipe, 'layers': layers} }"
    step = "" if error.scale is None else f", in steps of {error.scale:.3g}"
    if error.max_value >= _MASKED:
        return (
            f"{place}: its values reach {error.max_value:.3g}, as a mask writes them, and take the grid from all "
            f"others. Mask by a number just below the scores, or keep the layer in float: {in_float}"
        )
    if error.scale is not None and error.max_value < error.scale:
        return (
            f"{place}: its values are at most {error.max_value:.3g}{step}, so that the file computes 0. The layer is "
            f"dead, or shares its grid with a larger one. Remove it, or keep it in float: {in_float}"
        )
    return (
        f"{place}: its values reach {error.max_value:.3g}{step}; its inputs may have channels of unlike size, which "
        f"share a grid. Use {_finer_recipe(bundle, 1.0)}, or keep these layers in float: {in_float}; for channels of "
        f"convolutions and dense layers `keras_notes.compression.equalize` makes them alike"
    )


def _finer_recipe(bundle: Bundle, ratio: float) -> str:
    """Returns the words for a recipe that tells values apart which are unlike by a ratio."""
    if bundle.manifest.recipe == "static_int8" and ratio < _RATIO_IN_16_BITS:
        return "recipe='int16x8'"
    return "recipe='dynamic_int8'" if bundle.manifest.recipe == "weight_int4" else "recipe='float16'"
