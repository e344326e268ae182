"""The settings of the quantizer for a file: the recipe of each operator, and the edges that stay in floating point."""

from __future__ import annotations

from keras_notes._litert.model import TfliteFile
from keras_notes.conversion._recipes import RecipeByLayer
from keras_notes.errors import ConversionError

__all__ = ["find_float_edges", "find_recipes_by_operator"]


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
