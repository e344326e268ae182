"""Recipes: the number formats that a model can be converted to, and how far each may stray from the trained model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from keras_notes._shared.checks import check_choice, received
from keras_notes._shared.models.layer_patterns import Path, last_match, matching_patterns
from keras_notes._shared.recipe_names import AUTO, EDGES, RECIPES, canonical_recipe
from keras_notes.bundle import SignatureEntry, Tolerance

__all__ = [
    "AUTO",
    "EDGES",
    "RECIPES",
    "InputRange",
    "Recipe",
    "RecipeArgument",
    "RecipeByLayer",
    "candidate_recipes",
    "is_auto",
    "layers_of_tensor",
    "parse_input_range",
    "parse_recipe",
    "tolerance_for",
    "trained_recipe",
    "widen_tolerance",
    "with_own_tolerances",
]

RecipeArgument: TypeAlias = str | Mapping[str, str | Mapping[str, str]]
"""The name of a recipe, or {"default": name, "layers": {pattern: name}}."""

InputRange: TypeAlias = tuple[float, float] | Mapping[str, tuple[float, float]]
"""The smallest and the largest value of the input, or a dict of these by the names of inputs."""


@dataclass(frozen=True)
class Recipe:
    """A number format.

    Attributes:
        name: The name that `convert` takes.
        weights: The types that the weights of matrix products and convolutions may have in the file.
        activations: The type of the values between layers; integers need calibration data.
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


def _relative(max_error: float, rms_error: float, agreement: float) -> Tolerance:
    return Tolerance(max_error, rms_error, None, None, None, agreement)


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
# A bidirectional LSTM of 40 steps (russtress of benchmarks/real_networks), 0.97 of whose classes are the model's, errs
# by up to 0.102 in dynamic_int8.
# The last limit of each is the share of equal class ids, for outputs of integers.
#
# Those figures are of small networks. Of sound larger ones the outputs are farther off: R-Net's boxes by 4.5 LSB (root
# mean square), the scores of a NASNetMobile by 6.5, with 1.00 and 0.94 of the classes of the model, and the files of
# TensorFlow's own converter no less. So the limits in steps are raised to a share of what the output varies by in the
# model: sound files of benchmarks/real_networks are off by 0.06 to 0.31 of it (in the mean by up to 0.09), those that
# the task calls bad by 0.36 or more. P-Net's 23,104 scores are off by 4.7 LSB, and the worst of them by 75: of so many,
# only half of the grid is too much.
_STATIC_INT8 = Tolerance(0.25, 0.05, 60.0, 2.0, 1.0, 0.95)
_RMS_SHARE, _MEAN_SHARE = 1 / 3, 1 / 8
# An output that is off by a constant of 2 LSB fails all the same; P-Net's boxes are by 1.5.
_LARGEST_MEAN_LSB = 1.75
_MANY_VALUES, _HALF_A_GRID = 10_000, 128.0
_RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("float32", ("float32",), "float32", ("float32",), _relative(1e-4, 2e-5, 0.999)),
        Recipe("float16", ("float16",), "float32", ("float32",), _relative(5e-3, 1e-3, 0.99)),
        Recipe("dynamic_int8", ("int8", "float16"), "float32", ("float32",), _relative(0.2, 0.015, 0.95)),
        Recipe("static_int8", ("int8",), "int8", ("float32", "uint8", "int8"), _STATIC_INT8),
        Recipe("int16x8", ("int8",), "int16", ("float32", "int16"), _relative(0.25, 0.015, 0.98)),
        Recipe("weight_int4", ("int4", "int8"), "float32", ("float32",), _relative(0.5, 0.15, 0.8)),
    )
}


@dataclass(frozen=True)
class RecipeByLayer:
    """A recipe, and other recipes for the layers whose names match a pattern; the last match counts.

    Attributes:
        default: The recipe of all layers without another one.
        layers: The other recipes, by pattern.
        float_operators: The names of the results of operators that compute in float32, whatever their layer does:
            integers do not serve them.
    """

    default: Recipe
    layers: dict[str, Recipe]
    float_operators: frozenset[str] = frozenset()

    @property
    def needs_calibration(self) -> bool:
        """Whether any layer computes in integers, whose ranges come from samples."""
        return any(recipe.is_integer for recipe in (self.default, *self.layers.values()))

    @property
    def exceptions(self) -> dict[str, str]:
        """The names of the other recipes, by pattern and by the layer of an operator in float32."""
        layers = {"/".join(layers_of_tensor(name)): "float32" for name in sorted(self.float_operators)}
        return {**{pattern: recipe.name for pattern, recipe in self.layers.items()}, **layers}

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance of the default, widened to the widest of the exceptions."""
        tolerance = self.default.tolerance
        for recipe in self.layers.values():
            wider = {
                field.name: (min if field.name == "agreement" else max)(limit, other)
                for field in dataclasses.fields(Tolerance)
                if (limit := getattr(tolerance, field.name)) is not None
                and (other := getattr(recipe.tolerance, field.name)) is not None
            }
            tolerance = dataclasses.replace(tolerance, **wider)
        return tolerance

    def recipe_of(self, tensor_name: str) -> Recipe:
        """Returns the recipe of the operator that gives a tensor named "layer/.../operation"."""
        if tensor_name in self.float_operators:
            return _RECIPES["float32"]
        return self.recipe_at(layers_of_tensor(tensor_name))

    def integers_of(self, tensor_name: str) -> str | None:
        """Returns the integer type in which the operator that gives a tensor computes; None for floating point."""
        recipe = self.recipe_of(tensor_name)
        return recipe.activations if recipe.is_integer else None

    def recipe_at(self, path: Path) -> Recipe:
        """Returns the recipe of the layer at a path."""
        pattern = last_match(self.layers, path)
        return self.default if pattern is None else self.layers[pattern]

    def patterns_of(self, tensor_name: str) -> list[str]:
        """Returns the patterns that match a tensor's layers, or its operation if that belongs to no layer."""
        return matching_patterns(self.layers, layers_of_tensor(tensor_name))


def candidate_recipes(recipe: RecipeArgument, edges: str, *, has_calibration: bool) -> list[RecipeByLayer]:
    """Returns the recipes that "auto" stands for: all that fit.

    Args:
        recipe: "auto", or a dict with "auto" as the default of exceptions by layer.
        edges: The type of the inputs and outputs.
        has_calibration: Whether there are calibration samples.

    Raises:
        ValueError: If no recipe fits.
    """
    exceptions = {} if isinstance(recipe, str) else recipe.get("layers", {})
    candidates = [parse_recipe({"default": name, "layers": exceptions}) for name in RECIPES]
    fitting = [
        candidate
        for candidate in candidates
        if edges in candidate.default.edges and (has_calibration or not candidate.needs_calibration)
    ]
    if not fitting:
        raise ValueError(
            f"`calibration` must hold typical inputs for a recipe with edges={edges!r}. Received: calibration=None."
        )
    return fitting


def trained_recipe(
    recipe: RecipeArgument, trained: str, floats: Sequence[str], only: Sequence[str] = ()
) -> RecipeByLayer:
    """Returns the recipe of a quantization-aware model.

    Args:
        recipe: The argument of `convert`.
        trained: The name of the recipe that the model was trained for.
        floats: Patterns of the layers that it left in floating point.
        only: Patterns of the layers that it was trained for; empty for all.

    Raises:
        ValueError: If the argument names another recipe.
    """
    if canonical_recipe(recipe) != trained:
        raise ValueError(
            f"`recipe` must be the one that the quantization-aware model was trained for, {trained!r}; its exceptions "
            f"are those of `skip`. {received(recipe=recipe)}"
        )
    layers = {"*": "float32", **dict.fromkeys(only, trained)} if only else {}
    return parse_recipe({"default": trained, "layers": {**layers, **dict.fromkeys(floats, "float32")}})


def is_auto(recipe: RecipeArgument) -> bool:
    """Returns whether the recipe is to be chosen by measurements."""
    return (recipe.get("default") if isinstance(recipe, Mapping) else recipe) == AUTO


def parse_recipe(recipe: RecipeArgument) -> RecipeByLayer:
    """Returns the recipes by layer that `convert`'s argument stands for; for "auto" use `candidate_recipes`.

    Raises:
        ValueError: If a name is not that of a recipe; the message lists them all.
        TypeError: If the argument is neither a name nor such a dictionary.
    """
    if isinstance(recipe, str):
        return RecipeByLayer(_recipe_named("recipe", recipe, (*RECIPES, AUTO)), {})
    if not isinstance(recipe, Mapping) or set(recipe) - {"default", "layers"} or "default" not in recipe:
        raise TypeError(
            "`recipe` must be a name, or a dict such as {'default': 'static_int8', 'layers': {'head': 'float32'}}. "
            f"{received(recipe=recipe)}"
        )
    layers = recipe.get("layers", {})
    if not isinstance(layers, Mapping) or not all(isinstance(pattern, str) for pattern in layers):
        raise TypeError(f"`recipe['layers']` must be a dict of recipes by layer name. {received(layers=layers)}")
    return RecipeByLayer(
        _recipe_named("recipe['default']", recipe["default"], (*RECIPES, AUTO)),
        {pattern: _recipe_named(f"recipe['layers'][{pattern!r}]", name) for pattern, name in layers.items()},
    )


def tolerance_for(tolerance: Tolerance, signatures: Sequence[SignatureEntry]) -> Tolerance:
    """Returns the tolerance with a smallest agreement if there are outputs of integers.

    It is 3 standard errors below that of the recipe: so far a share that is measured on these few samples may be off.

    Args:
        tolerance: The tolerance of the recipe.
        signatures: The signatures of the file.
    """
    has_ids = any(
        entry.scale is None and np.dtype(entry.golden_dtype).kind in "iub" for s in signatures for entry in s.outputs
    )
    if not has_ids or (share := tolerance.agreement) is None:
        return dataclasses.replace(tolerance, agreement=None)
    samples = min(signature.golden_samples for signature in signatures)
    return dataclasses.replace(tolerance, agreement=share - 3 * math.sqrt(share * (1 - share) / samples))


def with_own_tolerances(
    signature: SignatureEntry, tolerance: Tolerance, golden: Mapping[str, np.ndarray]
) -> SignatureEntry:
    """Returns a signature whose outputs have tolerances of their own where that of the recipe is too narrow.

    Args:
        signature: The signature.
        tolerance: The tolerance of the recipe.
        golden: What the trained model gives, by output name.
    """
    if signature.states or tolerance.max_error_lsb is None:  # the error of a state grows from step to step
        return signature
    outputs = tuple(
        entry
        if entry.scale is None
        else dataclasses.replace(entry, tolerance=widen_tolerance(tolerance, golden[entry.name], entry.scale))
        for entry in signature.outputs
    )
    return dataclasses.replace(signature, outputs=outputs)


def widen_tolerance(tolerance: Tolerance, golden: np.ndarray, scale: float) -> Tolerance | None:
    """Returns the tolerance of an output that varies by many steps in the trained model; None for the recipe's own.

    Args:
        tolerance: The tolerance of the recipe, with limits in steps.
        golden: What the trained model gives, of shape (samples, ..., channels).
        scale: The size of a step.
    """
    values = golden.astype(np.float64)
    channels = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    # Not of all values at once: what is the same in all samples is no variation.
    spread = math.sqrt(channels.var(axis=0).mean()) / scale
    limits = {"rms_error_lsb": _RMS_SHARE * spread, "mean_error_lsb": min(_MEAN_SHARE * spread, _LARGEST_MEAN_LSB)}
    if values.size > _MANY_VALUES:
        limits["max_error_lsb"] = _HALF_A_GRID
    wider = {
        name: limit for name, limit in limits.items() if (own := getattr(tolerance, name)) is not None and limit > own
    }
    return dataclasses.replace(tolerance, **wider) if wider else None


def parse_input_range(input_range: InputRange | None, names: Collection[str]) -> dict[str, tuple[float, float]]:
    """Returns the declared ranges of inputs, by name.

    Args:
        input_range: The argument of `convert`.
        names: The names of all inputs.

    Raises:
        ValueError: If a name is not that of an input, or a range does not hold 0 or has no width.
        TypeError: If a range is not a pair of numbers.
    """
    if input_range is None:
        return {}
    if not isinstance(input_range, Mapping) and len(names) > 1:
        raise ValueError(
            f"`input_range` must be a dict by the names of inputs for a model with several, {sorted(names)}. "
            f"{received(input_range=input_range)}"
        )
    declared = dict(input_range) if isinstance(input_range, Mapping) else dict.fromkeys(names, input_range)
    if unknown := sorted(set(declared) - set(names)):
        raise ValueError(f"`input_range` must name inputs of the model, {sorted(names)}. Received: {unknown}.")
    return {name: _checked_range(values) for name, values in declared.items()}


def _checked_range(values: object) -> tuple[float, float]:
    ends = tuple(values) if isinstance(values, (tuple, list)) else ()
    if len(ends) != 2 or not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends):
        raise TypeError(f"`input_range` must be a pair of numbers, such as (0.0, 1.0). {received(input_range=values)}")
    minimum, maximum = map(float, ends)
    if not (-math.inf < minimum <= 0.0 <= maximum < math.inf and minimum < maximum):
        raise ValueError(f"`input_range` must hold 0 and have a width: a grid has 0. {received(input_range=values)}")
    return minimum, maximum


def layers_of_tensor(tensor_name: str) -> Path:
    """Returns the path of the layer or operation that computes a tensor named "layer/.../operation"."""
    return tuple(tensor_name.split("/")[:-1]) or (tensor_name,)


def _recipe_named(argument: str, name: object, choices: tuple[str, ...] = RECIPES) -> Recipe:
    return _RECIPES[check_choice(argument, canonical_recipe(name), choices)]
