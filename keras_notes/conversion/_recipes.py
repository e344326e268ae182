"""Recipes: the number formats that a model can be converted to, and how far each may stray from the trained model."""

from __future__ import annotations

from dataclasses import dataclass

from keras_notes._checks import check_choice
from keras_notes.bundle import Tolerance

__all__ = ["EDGES", "RECIPES", "Recipe", "recipe_named"]

EDGES = ("float32", "uint8", "int8")


@dataclass(frozen=True)
class Recipe:
    """A number format.

    Attributes:
        name: The name that `convert` takes.
        is_integer: Whether weights and activations are integers, which needs calibration data.
        tolerance: The largest error against the trained model, in the golden samples, that verification accepts.
    """

    name: str
    is_integer: bool
    tolerance: Tolerance


# The one home of the thresholds; a bundle carries its own copy for the runners.
#
# float32: the same operations in another order. Deep nets lose a few units in the last place per layer.
# static_int8: quantization after training moves single outputs by several steps. Over eight sound networks the largest
# error was 16 LSB (a softmax; 8 for logits), the largest root mean square 1.2, the largest mean 0.16
# (tests/benchmarks/tolerance.py). The limits leave half as much again; that of the mean is what catches an output that
# is off by a constant: by 2 LSB it always fails.
_RECIPES = (
    Recipe("float32", False, Tolerance(max_error=1e-4, max_error_lsb=None, rms_error_lsb=None, mean_error_lsb=None)),
    Recipe("static_int8", True, Tolerance(max_error=None, max_error_lsb=24.0, rms_error_lsb=2.0, mean_error_lsb=1.0)),
)


RECIPES = tuple(recipe.name for recipe in _RECIPES)


def recipe_named(name: str) -> Recipe:
    """The recipe of that name, or a ValueError that lists them all."""
    return _RECIPES[RECIPES.index(check_choice("recipe", name, RECIPES))]
