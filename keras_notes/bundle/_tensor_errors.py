"""The quantization errors of inner tensors, as conversion measured them: tensors.json of a bundle."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_notes._shared.types import Config
from keras_notes.bundle._bundle import Bundle
from keras_notes.bundle._schema import read_table

__all__ = ["TENSORS_FILE", "TensorError", "read_tensor_errors"]

TENSORS_FILE = "tensors.json"
_SCHEMA = "tensors.schema.json"
_CONTENT = "a JSON list with the errors of each tensor"


@dataclass(frozen=True)
class TensorError:
    """The error of an inner tensor against the tensor of the same name in the float32 file, over golden samples.

    Attributes:
        name: Name of the tensor in both files.
        scale: Size of a step of its integer grid; None for a float tensor, or one with more than one scale.
        size: Number of values, over all samples.
        error_squares: Sum of the squared errors.
        squares: Sum of the squared values in the float32 file.
        max_error: Largest absolute error.
        max_value: Largest absolute value in the float32 file.

    Example:
        >>> TensorError("conv", 0.02, 64, 0.1, 1000.0, 0.03, 4.1).sqnr_db
        40.0
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

        6 dB are one bit. Infinite without an error; NaN if all values are 0, or one is not finite.
        """
        if not (0 < self.squares < math.inf and self.error_squares < math.inf):
            return math.nan
        # Not of the quotient, which may be larger than any float.
        return math.inf if self.error_squares == 0 else 10 * (math.log10(self.squares) - math.log10(self.error_squares))


def read_tensor_errors(bundle: Bundle) -> tuple[TensorError, ...] | None:
    """Reads the errors of a bundle's inner tensors.

    Args:
        bundle: The bundle.

    Returns:
        The errors in the order of the graph, or None if the bundle does not hold them.

    Raises:
        BundleError: If tensors.json does not follow `tflite/tensors.schema.json`.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> errors = read_tensor_errors(open_bundle("tflite/testdata/bars_static_int8"))
        >>> for error in errors:
        ...     print(f"{error.name}: {error.sqnr_db:.1f} dB")
        conv2d/Relu#2: 40.5 dB
        max_pooling2d/MaxPool2d: 41.6 dB
        flatten/Reshape: 41.6 dB
        dense/StatefulPartitionedCall:0: 39.8 dB
    """
    if TENSORS_FILE not in bundle.manifest.files:
        return None
    return tuple(map(_tensor_error, read_table(bundle.directory / TENSORS_FILE, _SCHEMA, _CONTENT)))


def _tensor_error(entry: Config) -> TensorError:
    # Each by its name: a later version may write further ones. JSON may hold a float without its point.
    return TensorError(
        name=entry["name"],
        scale=None if entry["scale"] is None else float(entry["scale"]),
        size=entry["size"],
        error_squares=float(entry["error_squares"]),
        squares=float(entry["squares"]),
        max_error=float(entry["max_error"]),
        max_value=float(entry["max_value"]),
    )
