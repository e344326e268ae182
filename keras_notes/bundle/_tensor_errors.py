"""The errors of quantization down the graph, as conversion measured them: tensors.json of a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_notes.bundle._bundle import Bundle
from keras_notes.errors import BundleError

__all__ = ["TENSORS_FILE", "TensorError", "read_tensor_errors"]

TENSORS_FILE = "tensors.json"


@dataclass(frozen=True)
class TensorError:
    """How far an inner tensor of the file is from that of the same name in the float32 file, over golden samples.

    Attributes:
        scale: Size of its step; None where it has more than one, or is in floating point.
        size: Number of values.
        error_squares: Sum of the squares of the errors.
        squares: Sum of the squares of the float values.
        max_error: Largest absolute error.
        max_value: Largest absolute float value.
    """

    name: str
    scale: float | None
    size: int
    error_squares: float
    squares: float
    max_error: float
    max_value: float

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio: 10 log10(squares / error_squares) in decibels.

        6 dB are one bit. Infinite without an error; NaN where it says nothing: all values 0, or one not finite.
        """
        if not (0 < self.squares < math.inf and self.error_squares < math.inf):
            return math.nan
        # Not of the quotient, which may be larger than any float.
        return math.inf if self.error_squares == 0 else 10 * (math.log10(self.squares) - math.log10(self.error_squares))


def read_tensor_errors(bundle: Bundle) -> tuple[TensorError, ...] | None:
    """The errors in the order of the graph; None if the bundle does not keep them.

    Raises:
        BundleError: If the file is malformed.
    """
    if TENSORS_FILE not in bundle.manifest.files:
        return None
    path = bundle.directory / TENSORS_FILE
    try:
        entries = json.loads(path.read_bytes())
        if not isinstance(entries, list):
            raise TypeError("no list")
        return tuple(map(_tensor_error, entries))
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise BundleError(
            f"{str(path)!r} must be a JSON list with the errors of each tensor. Received: {error!r}. "
            f"Convert the model again."
        ) from error


def _tensor_error(entry: Mapping[str, Any]) -> TensorError:
    def number(key: str) -> float:
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ValueError(f"{key}={value!r}")
        return float(value)

    if not isinstance(entry["name"], str):
        raise ValueError(f"name={entry['name']!r}")
    return TensorError(
        name=entry["name"],
        scale=None if entry["scale"] is None else number("scale"),
        size=int(number("size")),
        error_squares=number("error_squares"),
        squares=number("squares"),
        max_error=number("max_error"),
        max_value=number("max_value"),
    )
