"""Rules for the ranges of inputs that the user declares, and for the grids of images in uint8."""

from __future__ import annotations

from collections.abc import Mapping

from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.grids._fit_ranges import MOVES
from keras_notes.conversion.passes._schema import TensorRange, code_of, name_of, signatures_of

__all__ = ["find_odd_images", "set_input_ranges"]

# What the pixels of an image are commonly made to: as they are, or normalized.
_PIXEL_RANGES = ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))
# Calibration images need not hold the very brightest pixel.
_TOLERANCE = 0.01
_CHANNELS = (1, 3, 4)


def set_input_ranges(
    model: schema.ModelT, ranges: Mapping[str, TensorRange], declared: Mapping[str, tuple[float, float]]
) -> dict[str, TensorRange]:
    """Returns ranges with those that are declared for inputs, also behind operators that only move values.

    Args:
        model: The float file.
        ranges: The range of each tensor over the calibration samples, by name.
        declared: The smallest and the largest value of inputs, by the names of the inputs.
    """
    changed = dict(ranges)
    for number, graph in enumerate(model.subgraphs):
        names = _input_names(model, number)
        moved = {index: declared[name] for index, name in names.items() if name in declared}
        for operator in graph.operators:
            sources = [index for index in operator.inputs if index in moved]
            if code_of(model, operator) in MOVES and sources:
                moved.update(dict.fromkeys(operator.outputs, moved[sources[0]]))
        for index, (minimum, maximum) in moved.items():
            tensor = name_of(graph.tensors[index])
            if tensor in changed:
                changed[tensor] = changed[tensor]._replace(minimum=minimum, maximum=maximum)
    return changed


def find_odd_images(
    model: schema.ModelT, ranges: Mapping[str, TensorRange]
) -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
    """Returns the range of each image whose integers are not its pixels, and the range that pixels are likely to have.

    Args:
        model: The float file.
        ranges: The range of each tensor, by name.
    """
    odd = {}
    for number, graph in enumerate(model.subgraphs):
        for index, name in _input_names(model, number).items():
            tensor = graph.tensors[index]
            measured = ranges.get(name_of(tensor))
            if measured is None or tensor.shape is None or len(tensor.shape) != 4 or tensor.shape[-1] not in _CHANNELS:
                continue
            actual = (min(measured.minimum, 0.0), max(measured.maximum, 0.0))
            if not any(_is_near(actual, pixels) for pixels in _PIXEL_RANGES):
                odd[name] = actual, _likely_range(actual)
    return odd


def _likely_range(actual: tuple[float, float]) -> tuple[float, float]:
    """Returns the narrowest of the ranges of pixels that holds a range; the range itself if none does."""
    holding = [
        (low, high)
        for low, high in _PIXEL_RANGES
        if low - _TOLERANCE <= actual[0] and actual[1] <= high * (1 + _TOLERANCE)
    ]
    return min(holding, key=lambda pixels: pixels[1] - pixels[0], default=actual)


def _is_near(actual: tuple[float, float], pixels: tuple[float, float]) -> bool:
    width = pixels[1] - pixels[0]
    return all(abs(end - expected) <= _TOLERANCE * width for end, expected in zip(actual, pixels, strict=True))


def _input_names(model: schema.ModelT, graph_number: int) -> dict[int, str]:
    """Returns the name of each input of the signatures that run a graph, by tensor."""
    return {
        int(entry.tensorIndex): name_of(entry)
        for signature in signatures_of(model, graph_number)
        for entry in signature.inputs
    }
