"""Initializers, seeds and types of options of layers that consist of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np

from keras_notes._shared.types import Config

__all__ = ["Activation", "Constraint", "Initializer", "Regularizer", "clone_initializer", "derive_seeds"]

Activation: TypeAlias = str | Config | Callable
"""An activation: its name, its configuration or the function."""

Constraint: TypeAlias = str | Config | keras.constraints.Constraint
"""A constraint of weights: its name, its configuration or the object."""

Initializer: TypeAlias = str | Config | keras.initializers.Initializer
"""An initializer: its name, its configuration or the object."""

Regularizer: TypeAlias = str | Config | keras.regularizers.Regularizer
"""A regularizer of weights: its name, its configuration or the object."""


def clone_initializer(initializer: Initializer) -> Initializer:
    """Returns a copy, because a single object would give equal values to all kernels."""
    return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer


def derive_seeds(seed: int | None, count: int) -> list[int | None]:
    """Returns a seed for each of several layers, so that they drop different places; Nones if `seed` is None."""
    if seed is None:
        return [None] * count
    return [int(state >> 1) for state in np.random.SeedSequence(seed).generate_state(count)]  # of 31 bits
