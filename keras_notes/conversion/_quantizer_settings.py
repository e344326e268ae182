"""The settings of the quantizer for a file: the recipe of each operator, and the edges that stay in floating point."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from keras_notes._litert.model import Operator, Tensor, TfliteFile
from keras_notes._shared.layer_patterns import Path, matching_patterns
from keras_notes.conversion._recipes import RecipeByLayer, layers_of_tensor
from keras_notes.conversion._refusals import float_layers_of, refuse
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


def find_recipes_by_operator(
    file: TfliteFile,
    recipes: RecipeByLayer,
    known_paths: Sequence[Path],
    *,
    trained: bool = False,
    loop_forms: Sequence[str] = ("unrolled",),
) -> dict[str, str]:
    """Returns the recipe of each operator whose recipe is not the default, by the names of its results.

    Operators of "dynamic_int8" with few weights, and depthwise convolutions, have "weight_only_int8" instead.

    Args:
        file: The description of the float file.
        recipes: The recipes.
        known_paths: Paths of the layers and operations of the model: one may have no operator, such as a dropout.
        trained: Whether the model is quantization-aware, so that `skip` was checked when it was made.
        loop_forms: Lowerings with which all loops of the model compute in integers.

    Raises:
        ConversionError: If loops would compute in integers, or a pattern matches no layer.
    """
    by_operator: dict[str, str] = {}
    matched = {pattern for path in known_paths for pattern in matching_patterns(recipes.layers, path)}
    loops: list[Path] = []
    small = _find_small_operators(file)
    for graph in file.graphs:
        for operator in graph.operators:
            scope = ";".join(graph.tensors[index].name for index in operator.outputs if index >= 0)
            result = scope.split(";")[0]
            recipe = recipes.recipe_of(result)
            matched.update(recipes.patterns_of(result))
            if operator.name == "WHILE" and recipe.is_integer:
                loops.append(layers_of_tensor(result))
            if recipe.name == "dynamic_int8" and id(operator) in small:
                by_operator[scope] = "weight_only_int8"
            elif recipe != recipes.default:
                by_operator[scope] = recipe.name
    unmatched = sorted(set(recipes.layers) - matched)
    if unmatched and not trained:
        names = ", ".join(dict.fromkeys("/".join(path) for path in known_paths))
        raise ConversionError(
            f"`recipe['layers']` must name layers of the model: {names}. Received: {unmatched}, which no operator of "
            f"it matches."
        )
    if loops:
        _refuse_loops(loops, recipes, loop_forms)
    return by_operator


def _refuse_loops(loops: Sequence[Path], recipes: RecipeByLayer, forms: Sequence[str]) -> None:
    names = ", ".join(dict.fromkeys("/".join(path) for path in loops))
    exceptions = float_layers_of(loops, "dynamic_int8")
    problem = (
        f"A loop must not compute in integers: nothing can see the ranges in it. Received: {names!r} with the recipe "
        f"{recipes.default.name!r}."
    )
    raise refuse([problem], recipes, exceptions, lowerings=[dict.fromkeys(exceptions, form) for form in forms])


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
