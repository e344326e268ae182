"""The audit: what the file really holds, against what was asked for."""

from __future__ import annotations

from collections.abc import Iterator

from keras_notes._litert.model import FLOAT_DTYPES, Graph, Operator, TfliteFile
from keras_notes.conversion._recipes import Plan
from keras_notes.errors import ConversionError

__all__ = ["audit"]

# Where an operator's weights stand among its inputs.
_WEIGHTS = {
    "BATCH_MATMUL": 1,
    "CONV_2D": 1,
    "CONV_3D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "EMBEDDING_LOOKUP": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
}


def audit(file: TfliteFile, model_name: str, plan: Plan) -> None:
    """Checks a converted file.

    Raises:
        ConversionError: If it holds an operator outside the built-ins, unfrozen weights, an operator that computes in
            floating point or a weight of another type, each unless the plan says so for its layer.
    """
    subject = f"The model {model_name!r} converted with the recipe {plan.default.name!r} must"
    if custom := file.custom_operators():
        raise ConversionError(
            f"{subject} hold built-in operators only, or it runs in no stock runtime. Received: {_list(custom)}."
        )
    if resources := file.resource_operators():
        raise ConversionError(f"{subject} hold its weights as constants. Received: {_list(resources)}.")
    islands = tuple(name for layer, name in file.float_results() if plan.recipe_of(layer).is_integer)
    if islands:
        raise ConversionError(
            f"{subject} compute in integers throughout. Received: {_list(islands)} in floating point. Replace that "
            f"layer, or declare it: recipe={{'default': {plan.default.name!r}, 'layers': "
            f"{{{_layer_of(islands[0])!r}: 'float32'}}}}."
        )
    if weights := tuple(_other_weights(file, plan)):
        raise ConversionError(
            f"{subject} hold its weights in the type of the recipe. Received: {_list(weights)}. Declare that layer: "
            f"recipe={{'default': {plan.default.name!r}, 'layers': {{{_layer_of(weights[0])!r}: 'float32'}}}}."
        )


def _other_weights(file: TfliteFile, plan: Plan) -> Iterator[str]:
    for graph in file.graphs:
        for operator in graph.operators:
            if (place := _WEIGHTS.get(operator.name)) is not None:
                yield from _wrong_type(graph, operator, operator.inputs[place], plan)


def _wrong_type(graph: Graph, operator: Operator, index: int, plan: Plan) -> Iterator[str]:
    weight, result = graph.tensors[index], graph.tensors[operator.outputs[0]].name
    wanted = plan.recipe_of(result).weights
    is_float = weight.dtype in FLOAT_DTYPES
    if weight.is_constant and is_float and weight.dtype not in wanted:
        yield f"{operator.name} {result} with {weight.dtype} weights"


def _layer_of(listed: str) -> str:
    """The layer of what is listed as "OPERATOR layer/.../operation ..."."""
    path = listed.split(" ")[1] if " " in listed else listed
    return path.rsplit("/", 1)[0] if "/" in path else path


def _list(items: tuple[str, ...], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
