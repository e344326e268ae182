"""How a model computes in integers: the recipe, and the choices of quantization-aware training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from keras_notes._shared.layer_patterns import matches_any
from keras_notes.compression.quantization._affine import INT8, INT16, Format

__all__ = ["RECIPES", "Scheme"]

# Format of activations, bits of weights, and what `convert` calls it.
RECIPES: dict[str, tuple[Format | None, int, str]] = {
    "int8": (INT8, 8, "static_int8"),
    "int16x8": (INT16, 8, "int16x8"),
    "weight_int4": (None, 4, "weight_int4"),
}


@dataclass(frozen=True)
class Scheme:
    """The choices of `quantize_aware`, which explains them."""

    recipe: str
    skip: tuple[str, ...]
    batch_norm: str
    learned: bool
    momentum: float
    freeze_after: int | None
    calibrated: bool

    @property
    def format(self) -> Format | None:
        """The format of activations; None for floating point."""
        return RECIPES[self.recipe][0]

    @property
    def bits(self) -> int:
        """The size of weights, where LiteRT has the operator for it."""
        return RECIPES[self.recipe][1]

    @property
    def conversion_recipe(self) -> str:
        """What `convert` calls the recipe."""
        return RECIPES[self.recipe][2]

    @property
    def ranges(self) -> dict[str, Any]:
        """The arguments of `Ranges`."""
        names = ("learned", "momentum", "freeze_after", "calibrated")
        return {name: getattr(self, name) for name in names}

    def is_float(self, path: tuple[str, ...]) -> bool:
        """Whether the layer at the end of a path, or one around it, was asked to stay in floating point."""
        return matches_any(self.skip, path)

    def to_config(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "skip": list(self.skip)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scheme:
        """From JSON."""
        return cls(**{**config, "skip": tuple(config["skip"])})
