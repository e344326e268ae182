"""The audit: what the file really holds, against what was asked for."""

from __future__ import annotations

from keras_notes._tflite_file import TfliteFile
from keras_notes.conversion._recipes import Recipe
from keras_notes.errors import ConversionError

__all__ = ["audit"]


def audit(file: TfliteFile, model_name: str, recipe: Recipe) -> None:
    """Checks a converted file.

    Raises:
        ConversionError: If it holds an operator outside the built-ins, unfrozen weights, or, for an integer recipe,
            an operator that computes in floating point.
    """
    subject = f"The model {model_name!r} converted with the recipe {recipe.name!r} must"
    if custom := file.custom_operators():
        raise ConversionError(
            f"{subject} hold built-in operators only, or it runs in no stock runtime. Received: {_list(custom)}."
        )
    if resources := file.resource_operators():
        raise ConversionError(f"{subject} hold its weights as constants. Received: {_list(resources)}.")
    islands = file.float_islands()
    if recipe.is_integer and islands:
        raise ConversionError(
            f"{subject} compute in integers throughout. Received: {_list(islands)} in floating point. Replace that "
            f"layer, or use the recipe 'float32'."
        )


def _list(items: tuple[str, ...], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
