"""The settings of the quantizer for a file: the recipe of each operator, and the edges that stay in floating point."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from keras_notes._litert.model import TfliteFile
from keras_notes.conversion._recipes import RecipeByLayer
from keras_notes.conversion.passes._first_layers import LossyLayer
from keras_notes.errors import ConversionError

__all__ = [
    "add_float_comparisons",
    "add_float_layers",
    "find_float_edges",
    "find_recipes_by_operator",
    "warn_of_odd_images",
]

_log = logging.getLogger(__name__)
_MAX_COLUMNS = 8
# Integer edges of a narrow column are refused below so many steps; above, they only cost precision.
_TOLERABLE_STEPS = 16.0


def add_float_layers(recipes: RecipeByLayer, lossy: Sequence[LossyLayer], edges: str) -> RecipeByLayer:
    """Returns the recipes with first layers in float32.

    Args:
        recipes: The recipes of all layers.
        lossy: The first layers that the grid of their input would ruin.
        edges: The type of the inputs.

    Raises:
        ConversionError: If inputs are integers, so that nothing can compute before they are rounded.
    """
    if not lossy:
        return recipes
    results = [result for layer in lossy for result in layer.results]
    worst = min(lossy, key=lambda layer: layer.steps)
    columns = ", ".join(map(str, worst.columns[:_MAX_COLUMNS])) + (", ..." if worst.columns[_MAX_COLUMNS:] else "")
    reason = (
        f"the values of the columns {columns} of the input {worst.input!r} lie within {worst.steps:.2g} steps of the "
        f"grid that all columns share, which the layer {_layer_of(worst.results[-1])!r} makes large"
    )
    if edges != "float32" and worst.steps >= _TOLERABLE_STEPS:
        _log.warning("%s: edges='float32' would let it compute before the input is rounded", reason)
        return recipes
    if edges != "float32":
        raise ConversionError(
            f"The columns of an input must have like ranges for `edges`={edges!r}. Received: {reason}. Normalize the "
            f"columns before the model, in the training data too, and leave the layer out; or use edges='float32', "
            f"with which the layer computes in float32."
        )
    layers = list(dict.fromkeys(map(_layer_of, results)))
    _log.warning("%s: %s compute in float32, before the input is rounded", reason, layers)
    return _with_float(recipes, results)


def add_float_comparisons(recipes: RecipeByLayer, results: Sequence[str]) -> RecipeByLayer:
    """Returns the recipes with comparisons of the input in float32, which see no rounding there.

    Args:
        recipes: The recipes of all layers.
        results: The names of the results of such comparisons, and of the operators before them.
    """
    if not results:
        return recipes
    layers = list(dict.fromkeys(map(_layer_of, results)))
    _log.info("%s compare the input in float32, before it is rounded", layers)
    return _with_float(recipes, results)


def _with_float(recipes: RecipeByLayer, results: Sequence[str]) -> RecipeByLayer:
    return dataclasses.replace(recipes, float_operators=recipes.float_operators | frozenset(results))


def _layer_of(tensor_name: str) -> str:
    return tensor_name.rsplit("/", 1)[0] if "/" in tensor_name else tensor_name


def find_float_edges(file: TfliteFile, recipes: RecipeByLayer) -> list[str]:
    """Returns which of "INPUT" and "OUTPUT" stay in floating point, because an operator there does."""
    sides = set()
    for signature in file.signatures:
        graph = file.graph(signature)
        for operator in graph.operators:
            if recipes.recipe_of(graph.tensors[operator.outputs[0]].name).is_integer:
                continue
            if {*signature.inputs.values()} & {*operator.inputs}:
                sides.add("INPUT")
            if {*signature.outputs.values()} & {*operator.outputs}:
                sides.add("OUTPUT")
    return sorted(sides)


def find_recipes_by_operator(file: TfliteFile, recipes: RecipeByLayer) -> dict[str, str]:
    """Returns the recipe of each operator whose recipe is not the default, by the names of its results.

    Raises:
        ConversionError: If a loop would compute in integers, or a pattern matches no operator.
    """
    by_operator: dict[str, str] = {}
    matched: set[str] = set()
    for graph in file.graphs:
        for operator in graph.operators:
            scope = ";".join(graph.tensors[index].name for index in operator.outputs if index >= 0)
            result = scope.split(";")[0]
            recipe = recipes.recipe_of(result)
            matched.update(recipes.patterns_of(result))
            if operator.name == "WHILE" and recipe.is_integer:
                layer = scope.split("/")[0]
                raise ConversionError(
                    f"A loop must not compute in integers: nothing can see the ranges in it. Received: {scope!r} with "
                    f"the recipe {recipe.name!r}. Declare the layer, recipe={{'default': {recipes.default.name!r}, "
                    f"'layers': {{{layer!r}: 'dynamic_int8'}}}}, or write its steps out, lowering={{{layer!r}: "
                    f"'unrolled'}}, which takes memory for each."
                )
            if recipe != recipes.default:
                by_operator[scope] = recipe.name
    if unmatched := sorted(set(recipes.layers) - matched):
        raise ConversionError(
            f"`recipe['layers']` must name layers of the model. Received: {unmatched}, which no operator of it matches."
        )
    return by_operator


def warn_of_odd_images(images: Mapping[str, tuple[tuple[float, float], tuple[float, float]]]) -> None:
    """Warns of uint8 images whose integers are not their pixels.

    Args:
        images: The range of each such input, and the range that its pixels are likely to have.
    """
    for name, (actual, likely) in images.items():
        _log.warning(
            "the integers 0..255 of the image %r stand for %.4g..%.4g, the range of the calibration images: as pixels "
            "they would mean something else. Give the range of the pixels, such as input_range=%s",
            name,
            *actual,
            likely,
        )
