"""The audit: compares what a converted file holds with its recipe."""

from __future__ import annotations

from collections.abc import Iterator

from keras_notes._litert.model import FLOAT_DTYPES, Graph, Operator, TfliteFile
from keras_notes._shared.models.layer_patterns import Path
from keras_notes.conversion._recipes import RecipeByLayer, layers_of_tensor
from keras_notes.conversion._refusals import float_layers_of, refuse
from keras_notes.errors import ConversionError

__all__ = ["audit"]

# The place of an operator's weights among its inputs.
_WEIGHTS = {
    "BATCH_MATMUL": 1,
    "CONV_2D": 1,
    "CONV_3D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "EMBEDDING_LOOKUP": 1,
    "FULLY_CONNECTED": 1,
    "GATHER": 0,
    "TRANSPOSE_CONV": 1,
}


def audit(file: TfliteFile, model_name: str, recipes: RecipeByLayer, *, trained: bool = False) -> None:
    """Checks a converted file.

    Args:
        file: The description of the file.
        model_name: The name of the model, for the error message.
        recipes: The recipes that it was converted by.
        trained: Whether the model is quantization-aware.

    Raises:
        ConversionError: If the file holds an operator outside the built-ins or unfrozen weights; or, unless the recipe
            says so for its layer, an operator that computes in floating point or a weight of another type. Of these
            it names all.
    """
    subject = f"The model {model_name!r} converted with the recipe {recipes.default.name!r} must"
    if custom := file.custom_operators():
        raise ConversionError(
            f"{subject} hold built-in operators only, or it runs in no stock runtime. Received: {_list(custom)}."
        )
    if resources := file.resource_operators():
        raise ConversionError(f"{subject} hold its weights as constants. Received: {_list(resources)}.")
    paths: list[Path] = []
    problems: list[str] = []
    if islands := [(result, name) for result, name in file.float_results() if recipes.recipe_of(result).is_integer]:
        paths += [layers_of_tensor(result) for result, _ in islands]
        names = _list(tuple(name for _, name in islands))
        problems.append(f"{subject} compute in integers throughout. Received: {names} in floating point.")
    if weights := tuple(_other_weights(file, recipes)):
        paths += [layers_of_tensor(result) for result, _ in weights]
        names = _list(tuple(name for _, name in weights))
        problems.append(f"{subject} hold its weights in the type of the recipe. Received: {names}.")
    if problems:
        raise refuse(problems, recipes, float_layers_of(paths), trained=trained)


def _other_weights(file: TfliteFile, recipes: RecipeByLayer) -> Iterator[tuple[str, str]]:
    for graph in file.graphs:
        for operator in graph.operators:
            if (place := _WEIGHTS.get(operator.name)) is not None:
                yield from _wrong_type(graph, operator, operator.inputs[place], recipes)


def _wrong_type(graph: Graph, operator: Operator, index: int, recipes: RecipeByLayer) -> Iterator[tuple[str, str]]:
    weight, result = graph.tensors[index], graph.tensors[operator.outputs[0]].name
    allowed = recipes.recipe_of(result).weights
    if operator.name == "GATHER" and len(weight.shape) < 2:  # a list of numbers, not a table
        return
    is_float = weight.dtype in FLOAT_DTYPES
    if weight.is_constant and is_float and weight.dtype not in allowed:
        yield result, f"{operator.name} {result} with {weight.dtype} weights"


def _list(items: tuple[str, ...], maximum: int = 5) -> str:
    more = f" and {len(items) - maximum} more" if len(items) > maximum else ""
    return ", ".join(items[:maximum]) + more
