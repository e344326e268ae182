"""A network of the benchmark: a model with calibration and test data."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True)
class Network:
    """A model, and data of its task.

    Attributes:
        model: The Keras model, of one input.
        calibration: Inputs for the ranges.
        test: Other inputs, on which errors are measured.
        classes: The size of the last axis of the output that holds classes; None without one.
    """

    model: keras.Model
    calibration: np.ndarray
    test: np.ndarray
    classes: int | None
