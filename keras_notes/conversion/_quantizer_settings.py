"""The settings of the quantizer for a file: the recipe of each operator, and the edges that stay in floating point."""

from __future__ import annotations

import math
from collections import Counter

from keras_notes._litert.model import Operator, Tensor, TfliteFile
from keras_notes.conversion._recipes import RecipeByLayer
from keras_notes.errors import ConversionError

__all__ = ["find_float_edges", "find_recipes_by_operator"]

# With so few weights (TFLiteConverter leaves them in float32), and in a depthwise convolution, the kernels that round
# their inputs to integers are slower than those in floating point, and farther from the model: the mini-Xception of
# benchmarks/real_networks was three times as slow for them. So only their weights are integers.
_SMALL_WEIGHTS = 1024
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


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

    Operators of "dynamic_int8" with few weights, and depthwise convolutions, have "weight_only_int8" instead.

    Raises:
        ConversionError: If a loop would compute in integers, or a pattern matches no operator.
    """
    by_operator: dict[str, str] = {}
    matched: set[str] = set()
    small = _find_small_operators(file)
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
            if recipe.name == "dynamic_int8" and id(operator) in small:
                by_operator[scope] = "weight_only_int8"
            elif recipe != recipes.default:
                by_operator[scope] = recipe.name
    if unmatched := sorted(set(recipes.layers) - matched):
        raise ConversionError(
            f"`recipe['layers']` must name layers of the model. Received: {unmatched}, which no operator of it matches."
        )
    return by_operator


def _find_small_operators(file: TfliteFile) -> set[int]:
    """Returns the `id` of each operator, outside of loops, with few weights or a depthwise kernel of its own."""
    uses = Counter(graph.tensors[index].buffer for graph in file.graphs for o in graph.operators for index in o.inputs)
    graphs = [file.graph(signature) for signature in file.signatures]

    def is_small(operator: Operator, weights: Tensor) -> bool:
        few = operator.name == "DEPTHWISE_CONV_2D" or math.prod(weights.shape) < _SMALL_WEIGHTS
        return few and weights.is_constant and uses[weights.buffer] == 1

    return {
        id(operator)
        for graph in graphs
        for operator in graph.operators
        if operator.name in _WEIGHTED and is_small(operator, graph.tensors[operator.inputs[1]])
    }
