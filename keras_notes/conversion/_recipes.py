"""Recipes: the number formats that a model can be converted to, and how far each may stray from the trained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_notes._shared.checks import check_choice, received
from keras_notes._shared.layer_patterns import Path, last_match, matching_patterns
from keras_notes.bundle import Tolerance

__all__ = ["AUTO", "EDGES", "RECIPES", "Plan", "Recipe", "is_auto", "plan_of", "plans_of", "trained_plan"]

# Not a format, but the best of them.
AUTO = "auto"
EDGES = ("float32", "uint8", "int8", "int16")


@dataclass(frozen=True)
class Recipe:
    """A number format.

    Attributes:
        name: The name that `convert` takes.
        weights: The types that the weights of matrix products and convolutions may have in the file.
        activations: The type of what is computed in between; integers need calibration data.
        edges: The types that inputs and outputs may have.
        tolerance: The largest error against the trained model, in the golden samples, that verification accepts.
    """

    name: str
    weights: tuple[str, ...]
    activations: str
    edges: tuple[str, ...]
    tolerance: Tolerance

    @property
    def is_integer(self) -> bool:
        """Whether activations are integers throughout."""
        return self.activations != "float32"


def _relative(max_error: float, rms_error: float) -> Tolerance:
    return Tolerance(max_error, rms_error, max_error_lsb=None, rms_error_lsb=None, mean_error_lsb=None)


# The one home of the thresholds; a bundle carries its own copy for the runners.
#
# float32: the same operations in another order. Deep nets lose a few units in the last place per layer.
# static_int8: quantization after training moves single outputs by several steps. Over eleven small networks the largest
# error was 16 LSB (a softmax; 9 for logits), the largest root mean square 1.5, the largest mean 0.16; of a MobileNetV2
# with its 52 convolutions 38, 1.85 and 0.05, at an agreement of 0.98 (benchmarks/conversion/tolerance.py). The largest
# error is that of the rarest sample, so its limit leaves half as much again; that of the mean is what catches an output
# that is off by a constant: by 2 LSB it always fails. Where a layer that is declared to be float gives the output, the
# relative limits hold.
# The others, as a share of the largest golden output: what the nets of benchmarks/conversion/engines.py and that
# MobileNetV2 show (largest error and root mean square: float16 0.002 and 0.0003, dynamic_int8 0.051 and 0.005, int16x8
# 0.15 and 0.009, weight_int4 0.44 and 0.06), and half as much again or more, but for the largest error of weight_int4.
_RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("float32", ("float32",), "float32", ("float32",), _relative(1e-4, 2e-5)),
        Recipe("float16", ("float16",), "float32", ("float32",), _relative(5e-3, 1e-3)),
        Recipe("dynamic_int8", ("int8",), "float32", ("float32",), _relative(0.1, 0.015)),
        Recipe("static_int8", ("int8",), "int8", ("float32", "uint8", "int8"), Tolerance(0.25, 0.05, 60.0, 2.0, 1.0)),
        Recipe("int16x8", ("int8",), "int16", ("float32", "int16"), _relative(0.25, 0.015)),
        Recipe("weight_int4", ("int4", "int8"), "float32", ("float32",), _relative(0.5, 0.15)),
    )
}

RECIPES = tuple(_RECIPES)


@dataclass(frozen=True)
class Plan:
    """A recipe, and other recipes for the layers whose names match a pattern; the last one that matches counts."""

    default: Recipe
    layers: dict[str, Recipe]

    @property
    def needs_calibration(self) -> bool:
        return any(recipe.is_integer for recipe in self._all())

    @property
    def tolerance(self) -> Tolerance:
        """That of the default, widened to the widest of the exceptions."""
        tolerance = self.default.tolerance
        for recipe in self.layers.values():
            wider = {
                field.name: max(one, other)
                for field in dataclasses.fields(Tolerance)
                if (one := getattr(tolerance, field.name)) is not None
                and (other := getattr(recipe.tolerance, field.name)) is not None
            }
            tolerance = dataclasses.replace(tolerance, **wider)
        return tolerance

    def recipe_of(self, tensor_name: str) -> Recipe:
        """The recipe of the operator that gives a tensor named "layer/.../operation"."""
        return self.recipe_at(_layers_of(tensor_name))

    def recipe_at(self, path: Path) -> Recipe:
        """The recipe of the layer with these names, from the outermost."""
        pattern = last_match(self.layers, path)
        return self.default if pattern is None else self.layers[pattern]

    def patterns_of(self, tensor_name: str) -> list[str]:
        """The patterns that match a layer of it, the path of several, or an operation that belongs to no layer."""
        return matching_patterns(self.layers, _layers_of(tensor_name))

    def _all(self) -> tuple[Recipe, ...]:
        return (self.default, *self.layers.values())


def plans_of(recipe: str | Mapping[str, Any], edges: str, has_calibration: bool) -> list[Plan]:
    """The plans that "auto" stands for, as a name or as the default of exceptions by layer: all that fit.

    Raises:
        ValueError: If none does.
    """
    exceptions = recipe.get("layers", {}) if isinstance(recipe, Mapping) else {}
    plans = [plan_of({"default": name, "layers": exceptions}) for name in RECIPES]
    fitting = [
        plan for plan in plans if edges in plan.default.edges and (has_calibration or not plan.needs_calibration)
    ]
    if not fitting:
        raise ValueError(
            f"`calibration` must hold typical inputs for a recipe with edges={edges!r}. Received: calibration=None."
        )
    return fitting


def trained_plan(recipe: Any, trained: str, floats: Sequence[str]) -> Plan:
    """The plan of a quantization-aware model.

    Args:
        recipe: What was asked for.
        trained: The name of the recipe that the model was trained for.
        floats: Patterns of the layers that it left in floating point.

    Raises:
        ValueError: If another recipe was asked for.
    """
    if recipe != trained:
        raise ValueError(
            f"`recipe` must be the one that the quantization-aware model was trained for, {trained!r}; its exceptions "
            f"are those of `skip`. {received(recipe=recipe)}"
        )
    return plan_of({"default": trained, "layers": dict.fromkeys(floats, "float32")})


def is_auto(recipe: Any) -> bool:
    """Whether the recipe is to be chosen by what was measured."""
    return (recipe.get("default") if isinstance(recipe, Mapping) else recipe) == AUTO


def plan_of(recipe: str | Mapping[str, Any]) -> Plan:
    """The plan that `convert`'s argument stands for; that of "auto" is `plans_of`.

    Raises:
        ValueError: If it names a recipe that there is not; the message lists them all.
        TypeError: If it is neither a name nor such a dictionary.
    """
    if isinstance(recipe, str):
        return Plan(_named("recipe", recipe, (*RECIPES, AUTO)), {})
    if not isinstance(recipe, Mapping) or set(recipe) - {"default", "layers"} or "default" not in recipe:
        raise TypeError(
            "`recipe` must be a name, or a dict such as {'default': 'static_int8', 'layers': {'head': 'float32'}}. "
            f"{received(recipe=recipe)}"
        )
    layers = recipe.get("layers", {})
    if not isinstance(layers, Mapping) or not all(isinstance(pattern, str) for pattern in layers):
        raise TypeError(f"`recipe['layers']` must be a dict of recipes by layer name. {received(layers=layers)}")
    return Plan(
        _named("recipe['default']", recipe["default"], (*RECIPES, AUTO)),
        {pattern: _named(f"recipe['layers'][{pattern!r}]", name) for pattern, name in layers.items()},
    )


def _layers_of(tensor_name: str) -> Path:
    return tuple(tensor_name.split("/")[:-1]) or (tensor_name,)


def _named(argument: str, name: Any, choices: tuple[str, ...] = RECIPES) -> Recipe:
    return _RECIPES[check_choice(argument, name, choices)]
