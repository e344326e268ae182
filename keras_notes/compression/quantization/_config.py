"""The configuration of quantization-aware training: the recipe, and the choices of `quantize_aware`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from keras_notes._shared.checks import check_choice
from keras_notes._shared.models.layer_patterns import matches_any
from keras_notes._shared.types import Config
from keras_notes.compression.quantization._affine import INT8, INT16, IntegerFormat

__all__ = ["RECIPES", "QuantizationConfig", "check_recipe"]

# Format of activations, bits of weights, and the name of the recipe in `convert`.
RECIPES: dict[str, tuple[IntegerFormat | None, int, str]] = {
    "int8": (INT8, 8, "static_int8"),
    "int16x8": (INT16, 8, "int16x8"),
    "weight_int4": (None, 4, "weight_int4"),
}


@dataclass(frozen=True)
class QuantizationConfig:
    """The choices of `quantize_aware`, which documents them.

    Attributes:
        recipe: Name of the recipe, a key of `RECIPES`.
        skip: Patterns of layer names or paths that stay in floating point.
        batch_norm: "live" or "frozen" statistics of batch normalization in training.
        learned: Whether ranges are trained by gradient; otherwise they are moving averages.
        momentum: Part of the old range that stays at each step.
        freeze_after: Number of training steps after which ranges stay; None for never.
        calibrated: Whether the ranges start from calibration data.
        only: Patterns of the only layers that compute in integers; empty for all.
    """

    recipe: str
    skip: tuple[str, ...]
    batch_norm: str
    learned: bool
    momentum: float
    freeze_after: int | None
    calibrated: bool
    only: tuple[str, ...] = ()

    @property
    def format(self) -> IntegerFormat | None:
        """The format of activations; None for floating point."""
        return RECIPES[self.recipe][0]

    @property
    def bits(self) -> int:
        """The size of weights in bits, where LiteRT has the operator for it."""
        return RECIPES[self.recipe][1]

    @property
    def conversion_recipe(self) -> str:
        """The name of the recipe in `convert`."""
        return RECIPES[self.recipe][2]

    def is_float(self, path: tuple[str, ...]) -> bool:
        """Whether `skip` matches the layer at the end of a path, or a layer around it, or `only` matches neither."""
        return matches_any(self.skip, path) or (bool(self.only) and not matches_any(self.only, path))

    def to_config(self) -> Config:
        """Returns the configuration as JSON."""
        return {**dataclasses.asdict(self), "skip": list(self.skip), "only": list(self.only)}

    @classmethod
    def from_config(cls, config: Config) -> QuantizationConfig:
        """Returns the configuration that `to_config` wrote."""
        return cls(**{**config, "skip": tuple(config["skip"]), "only": tuple(config.get("only", ()))})


def check_recipe(recipe: str) -> str:
    """Returns a key of `RECIPES` for the name of a recipe, which may be that in `convert`.

    Raises:
        ValueError: If there is no such recipe.
    """
    return check_choice("recipe", "int8" if recipe == "static_int8" else recipe, tuple(RECIPES))
