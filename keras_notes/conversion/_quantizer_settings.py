"""The settings of the quantizer for a file: the recipe of each operator, and the edges that stay in floating point."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes._litert.model import Operator, Tensor, TfliteFile
from keras_notes._shared.models.layer_patterns import Path, matching_patterns
from keras_notes.conversion._recipes import RecipeByLayer, layers_of_tensor
from keras_notes.conversion._refusals import float_layers_of, refuse
from keras_notes.conversion.grids._comparisons import find_input_comparisons
from keras_notes.conversion.grids._first_layers import LossyLayer, column_spreads, find_lossy_layers
from keras_notes.conversion.grids._fit_ranges import fit_ranges
from keras_notes.conversion.grids._input_ranges import find_odd_images, set_input_ranges
from keras_notes.conversion.passes._schema import TensorRange, name_of, signatures_of, text_of
from keras_notes.conversion.passes._stand_ins import StandIns
from keras_notes.errors import ConversionError

__all__ = [
    "check_fused",
    "find_float_edges",
    "find_recipes_by_operator",
    "fit_to_kernels",
    "is_fused",
]

_log = logging.getLogger(__name__)
_MAX_COLUMNS = 8
# Integer edges of a narrow column are refused below so many steps; above, they only cost precision.
_TOLERABLE_STEPS = 16.0


def fit_to_kernels(
    model: schema.ModelT,
    ranges: Mapping[str, TensorRange],
    recipes: RecipeByLayer,
    edges: str,
    calibration: Mapping[str, Mapping[str, np.ndarray]],
    input_ranges: Mapping[str, tuple[float, float]],
) -> tuple[dict[str, TensorRange], RecipeByLayer]:
    """Returns ranges whose scales every kernel takes, and recipes with operators that must see inputs unrounded.

    Args:
        model: The float file.
        ranges: The range of each tensor over the calibration samples, by name.
        recipes: The recipes of all layers.
        edges: The type of the inputs and outputs.
        calibration: The calibration samples of each input, by signature.
        input_ranges: The ranges that are declared for inputs, by name.

    Raises:
        ConversionError: If the columns of an integer input are too unlike for one grid.
    """

    def activations_of(tensor_name: str) -> str:
        return recipes.recipe_of(tensor_name).activations

    declared = set_input_ranges(model, ranges, input_ranges)
    fitted = fit_ranges(model, declared, activations_of)
    if edges == "uint8":
        _warn_of_odd_images(find_odd_images(model, fitted))
    spreads = {
        name_of(graph.tensors[entry.tensorIndex]): column_spreads(samples[name_of(entry)])
        for number, graph in enumerate(model.subgraphs)
        for signature in signatures_of(model, number)
        if (samples := calibration[text_of(signature.signatureKey)])
        for entry in signature.inputs
    }
    recipes = _add_float_layers(recipes, find_lossy_layers(model, fitted, activations_of, spreads), edges)
    if edges == "float32":
        functions = StandIns(model, fitted, recipes.integers_of, is_trained=False).names_in_functions()
        recipes = _add_float_comparisons(recipes, find_input_comparisons(model, activations_of, functions))
    # Again, because an operator in floating point widens no range.
    return fit_ranges(model, declared, activations_of), recipes


def _add_float_layers(recipes: RecipeByLayer, lossy: Sequence[LossyLayer], edges: str) -> RecipeByLayer:
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


def _add_float_comparisons(recipes: RecipeByLayer, results: Sequence[str]) -> RecipeByLayer:
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


# With so few weights (TFLiteConverter leaves them in float32), and in a depthwise convolution, the kernels that round
# their inputs to integers are slower than those in floating point, and farther from the model: the mini-Xception of
# benchmarks/real_networks was three times as slow for them. So only their weights are rounded: to float16 if they are a
# small part of the file, since int8 would double the error of a MobileNetV2 for 3 % of its bytes; else to int8.
_SMALL_WEIGHTS = 1024
_SMALL_SHARE = 0.25
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

    Operators of "dynamic_int8" with few weights, and depthwise convolutions, compute in floating point: their weights
    are "float16" where they are few of the whole file, else "weight_only_int8".

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
    small, small_recipe = _find_small_operators(file), "weight_only_int8"
    if sum(small.values()) <= _SMALL_SHARE * _count_weights(file):
        small_recipe = "float16"
    for graph in file.graphs:
        for operator in graph.operators:
            scope = ";".join(graph.tensors[index].name for index in operator.outputs if index >= 0)
            result = scope.split(";")[0]
            recipe = recipes.recipe_of(result)
            matched.update(recipes.patterns_of(result))
            if operator.name == "WHILE" and recipe.is_integer:
                loops.append(layers_of_tensor(result))
            if recipe.name == "dynamic_int8" and id(operator) in small:
                by_operator[scope] = small_recipe
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


def _layer_of(tensor_name: str) -> str:
    return "/".join(layers_of_tensor(tensor_name))


def _warn_of_odd_images(images: Mapping[str, tuple[tuple[float, float], tuple[float, float]]]) -> None:
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


def is_fused(recurrent: Mapping[str, Mapping[str, str]]) -> bool:
    """Returns whether a recurrent layer becomes a fused operator, from the forms by signature and path."""
    return any("fused" in forms.values() for forms in recurrent.values())


def check_fused(recipes: RecipeByLayer, batch_size: int | None) -> None:
    """Raises ConversionError if no quantizer makes such a file, or the operator cannot run in it."""
    if batch_size != 1:
        raise ConversionError("`batch_size` must be 1 for a fused LSTM. Received: batch_size=None.")
    if recipes.layers or recipes.default.name not in ("float32", "static_int8"):
        raise ConversionError(
            f"A fused LSTM must have the recipe 'float32' or 'static_int8', without exceptions by layer. "
            f"Received: {recipes.default.name!r}{f' with {sorted(recipes.layers)}' if recipes.layers else ''}. Use the "
            f"lowering 'loop', or 'unrolled' where layers compute in integers."
        )


def _count_weights(file: TfliteFile) -> int:
    """Returns how many values the constant vectors, matrices and kernels of a file hold."""
    constants = {t.buffer: math.prod(t.shape) for graph in file.graphs for t in graph.tensors if t.is_constant}
    return sum(constants.values())


def _find_small_operators(file: TfliteFile) -> dict[int, int]:
    """Returns how many weights each operator has, outside of loops, with few of them or a depthwise kernel of its own.

    The keys are the `id`s of the operators.
    """
    uses = Counter(graph.tensors[index].buffer for graph in file.graphs for o in graph.operators for index in o.inputs)
    graphs = [file.graph(signature) for signature in file.signatures]

    def is_small(operator: Operator, weights: Tensor) -> bool:
        few = operator.name == "DEPTHWISE_CONV_2D" or math.prod(weights.shape) < _SMALL_WEIGHTS
        return few and weights.is_constant and uses[weights.buffer] == 1

    return {
        id(operator): math.prod(weights.shape)
        for graph in graphs
        for operator in graph.operators
        if operator.name in _WEIGHTED and is_small(operator, weights := graph.tensors[operator.inputs[1]])
    }
