"""Refusals of a conversion: errors that say what stands in the way, and with which arguments the model converts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from keras_notes._shared.models.layer_patterns import Path, shortest_patterns
from keras_notes._shared.types import Json
from keras_notes.conversion._recipes import RecipeByLayer, parse_recipe
from keras_notes.errors import ConversionError

__all__ = ["complete_remedy", "float_layers_of", "refuse"]

_log = logging.getLogger(__name__)
# What the forms of a recurrent layer cost.
_FORMS = {
    "fused": "the smallest, whose state the runtime must reset",
    "unrolled": "which takes memory for each step and rounds at each",
}


def float_layers_of(paths: Iterable[Path], recipe: str = "float32") -> dict[str, str]:
    """Returns a recipe for the layers and operations at some paths, by pattern, the outer layers first."""
    return dict.fromkeys(shortest_patterns(paths), recipe)


def refuse(
    problems: Sequence[str],
    recipes: RecipeByLayer,
    exceptions: Mapping[str, str],
    *,
    trained: bool = False,
    lowerings: Sequence[Mapping[str, str]] = (),
) -> ConversionError:
    """Returns the error of a model that converts with exceptions by layer.

    Args:
        problems: What stands in the way, a sentence each.
        recipes: The recipes that were asked for; their exceptions stay.
        exceptions: Further exceptions, recipes by pattern.
        trained: Whether the model is quantization-aware: its exceptions are those that it was trained with.
        lowerings: Values of `lowering` with which the model converts too.
    """
    declared = {pattern: recipe.name for pattern, recipe in recipes.layers.items() if pattern not in exceptions}
    if trained:
        skip = [*declared, *exceptions]
        advice = f"Replace that layer, or leave it in floating point when you train: quantize_aware(..., skip={skip})."
        return ConversionError(f"{' '.join(problems)} {advice}", [{"skip": skip}], problems)
    # The last match counts.
    recipe: Json = {"default": recipes.default.name, "layers": {**declared, **exceptions}}
    remedies = [{"recipe": recipe}, *({"lowering": dict(lowering)} for lowering in lowerings)]
    alternatives = "".join(
        f" Or choose another form, {_FORMS[next(iter(lowering.values()))]}: lowering={dict(lowering)}."
        for lowering in lowerings
    )
    advice = f"Replace that layer, or declare it: recipe={recipe}.{alternatives}"
    return ConversionError(f"{' '.join(problems)} {advice}", remedies, problems)


def complete_remedy(error: ConversionError, convert: Callable[[RecipeByLayer], object]) -> ConversionError:
    """Returns an error whose remedy holds every exception that a model needs, which is found by trying.

    Args:
        error: The error, with a remedy.
        convert: Function that converts the model by other recipes.
    """
    problems = list(error.problems)
    further = error
    while further.remedy is not None:
        _log.info("trying the remedy %s", further.remedy)
        recipes = parse_recipe(further.remedy["recipe"])
        try:
            convert(recipes)
        except ConversionError as next_error:
            if next_error.remedy == further.remedy:
                break
            problems += next_error.problems
            further = next_error
            continue
        if further is error:
            return error
        exceptions = {pattern: recipe.name for pattern, recipe in recipes.layers.items()}
        return refuse(problems, RecipeByLayer(recipes.default, {}), exceptions)
    return ConversionError(" ".join(problems), problems=problems)
