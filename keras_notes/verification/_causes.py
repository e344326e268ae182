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


def find_causes(bundle: Bundle, file: TfliteFile) -> Iterator[str]:
    """Yields sentences that say why the file of a bundle strays, each with a remedy.

    Args:
        bundle: The bundle; its golden samples and errors of tensors are read.
        file: The content of its file.
    """
    signature = bundle.manifest.signatures[0]
    yield from _columns_within_a_step(bundle, file, signature)
    errors = [error for error in read_tensor_errors(bundle) or () if not math.isnan(error.sqnr_db)]
    if (first := next((error for error in errors if error.sqnr_db < _BAD_DB), None)) is not None:
        yield _describe_tensor(bundle, first)
    elif errors and (worst := min(errors, key=lambda error: error.sqnr_db)).sqnr_db < _SOUND_DB:
        yield _describe_tensor(bundle, worst)


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
            yield (
                f"columns {numbers} of the input {name!r} vary by at most {widths[narrow].max():.3g}, and a step of "
                f"its grid is {grid.scale:.3g}, since column {int(widths.argmax())} varies by {widths.max():.3g}: the "
                f"file sees constants. Give the model columns of one size, or use {_finer_recipe(bundle)}"
            )


def _describe_tensor(bundle: Bundle, error: TensorError) -> str:
    layer = error.name.rsplit("/", 1)[0]
    place = f"the first tensor that is wrong is that of the layer {layer!r} ({error.name}, {error.sqnr_db:.0f} dB)"
    in_float = f"{{'default': {bundle.manifest.recipe!r}, 'layers': {{{layer!r}: 'float32'}}}}"
    step = "" if error.scale is None else f", in steps of {error.scale:.3g}"
    if error.max_value >= _MASKED:
        return (
            f"{place}: its values reach {error.max_value:.3g}, as a mask writes them, and take the grid from all "
            f"others. Mask by a number just below the scores, or keep that layer in float: recipe={in_float}"
        )
    if error.scale is not None and error.max_value < error.scale:
        return (
            f"{place}: its values are at most {error.max_value:.3g}{step}, so that the file computes 0. The layer is "
            f"dead, or shares its grid with a larger one. Remove it, or keep it in float: recipe={in_float}"
        )
    remedy = f"Keep that layer in float, recipe={in_float}, or use {_finer_recipe(bundle)}"
    return f"{place}: its values reach {error.max_value:.3g}{step}. {remedy}"


def _finer_recipe(bundle: Bundle) -> str:
    """Returns the words for a recipe with more bits than that of the bundle."""
    if bundle.manifest.recipe == "static_int8":
        return "recipe='int16x8'"
    return "recipe='dynamic_int8'" if bundle.manifest.recipe == "weight_int4" else "recipe='float16'"
