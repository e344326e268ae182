"""Initializers and seeds of layers that are made of layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

__all__ = ["another", "seeds_from"]


def another(initializer: Any) -> Any:
    """A copy, for one object would give all kernels the same values."""
    return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer


def seeds_from(seed: int | None, count: int) -> list[int | None]:
    """A seed for each of several layers, so that they do not drop the same places; None for chance."""
    if seed is None:
        return [None] * count
    return [int(state >> 1) for state in np.random.SeedSequence(seed).generate_state(count)]  # of 31 bits
