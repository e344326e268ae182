"""Fit of data to the integer grid of an input: values outside of it, and values that use next to nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_notes._litert.model import INTEGER_DTYPES, Tensor, TfliteFile
from keras_notes.bundle import SignatureEntry

__all__ = ["GridFit", "describe_misfits", "fit_to_grid"]

# Values within fewer steps than this tell no more than 3 bits: data of 0..1 on a grid for 0..255 use a single step.
_FEWEST_STEPS = 8.0
# A few values beyond the calibrated range are usual: ranges of images or noise end somewhere.
_SHARE_OUTSIDE = 0.05


@dataclass(frozen=True)
class GridFit:
    """How data lie on the grid of an input.

    Attributes:
        low: The lowest value of the grid.
        high: The highest.
        minimum: The smallest value of the data.
        maximum: The largest.
        steps: Number of steps of the grid between both.
        outside: Share of the values that lie outside of the grid, by more than a step.
    """

    low: float
    high: float
    minimum: float
    maximum: float
    steps: float
    outside: float

    def describe_misfit(self, data: str, name: str) -> str | None:
        """Returns what is wrong, with its remedy, as a sentence; None if the data fit.

        Args:
            data: The words for the data, such as "the golden samples".
            name: Name of the input.
        """
        grid = f"the grid of the input {name!r}, which covers {self.low:.4g} to {self.high:.4g},"
        remedy = "Calibrate with samples in the scale that the model was trained on and is used with"
        if self.outside > _SHARE_OUTSIDE:
            return (
                f"{data} must lie on {grid} from the calibration samples. Received: {self.minimum:.4g} to "
                f"{self.maximum:.4g}, {100 * self.outside:.1f} % of the values outside. {remedy}"
            )
        if 0 < self.steps < _FEWEST_STEPS:
            share = (self.maximum - self.minimum) / (self.high - self.low)
            return (
                f"{data} must use {grid} from the calibration samples. Received: {self.minimum:.4g} to "
                f"{self.maximum:.4g}, {100 * share:.2g} % of it, {self.steps:.2g} steps. {remedy}"
            )
        return None


def fit_to_grid(values: np.ndarray, grid: Tensor) -> GridFit | None:
    """Returns how values lie on a grid; None without an integer grid."""
    if grid.dtype not in INTEGER_DTYPES or not grid.scale or grid.zero_point is None or values.dtype.kind not in "fiub":
        return None
    ends = np.iinfo(grid.dtype)
    low, high = ((end - grid.zero_point) * grid.scale for end in (ends.min, ends.max))
    numbers = values.astype(np.float64)
    minimum, maximum = float(numbers.min()), float(numbers.max())
    outside = float(((numbers < low - grid.scale) | (numbers > high + grid.scale)).mean())
    return GridFit(low, high, minimum, maximum, (maximum - minimum) / grid.scale, outside)


def describe_misfits(
    file: TfliteFile, signature: SignatureEntry, data: Mapping[str, Mapping[str, np.ndarray]]
) -> list[str]:
    """Returns a sentence for each input whose data do not fit its grid.

    Args:
        file: The content of the file.
        signature: The signature.
        data: Samples by input name, by the words for them, such as "the golden samples".
    """
    entry = next(item for item in file.signatures if item.name == signature.name)
    graph = file.graph(entry)
    misfits = []
    for words, samples in data.items():
        for name, values in samples.items():
            fit = fit_to_grid(values, graph.input_grid(entry.inputs[name]))
            if fit is not None and (sentence := fit.describe_misfit(words, name)) is not None:
                misfits.append(sentence)
    return misfits
