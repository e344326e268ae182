"""The distance of a quantization-aware model, or of its file, to the float model that it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Distance", "distance_between"]


@dataclass(frozen=True)
class Distance:
    """The distance of outputs to those of a float model.

    Attributes:
        max_error: Largest absolute difference.
        rms_error: Root mean square of the difference.
        spread: Standard deviation of the float model's outputs, to measure the differences by.
        top1_agreement: Share of samples with the same largest class, or of equal integers; None without classes.

    Example:
        >>> print(Distance(0.4, 0.1, 2.0, 0.97))
        rms 0.1 (0.050 of the standard deviation), max 0.4, top-1 agreement 0.9700
    """

    max_error: float
    rms_error: float
    spread: float
    top1_agreement: float | None

    def __str__(self) -> str:
        share = self.rms_error / self.spread if self.spread else 0.0
        agreement = "" if self.top1_agreement is None else f", top-1 agreement {self.top1_agreement:.4f}"
        return f"rms {self.rms_error:.3g} ({share:.3f} of the standard deviation), max {self.max_error:.3g}{agreement}"


def distance_between(reference: np.ndarray, outputs: np.ndarray) -> Distance:
    """Returns the distance of outputs to those of a float model.

    Args:
        reference: Outputs of the float model, of shape (samples, ...).
        outputs: Other outputs of the same shape.

    Example:
        >>> distance_between(np.array([[0.0, 2.0]]), np.array([[0.0, 1.0]])).max_error
        1.0
    """
    expected, actual = reference.astype(np.float64), outputs.astype(np.float64)
    error = actual - expected
    agreement = None
    if reference.dtype.kind in "iub":
        agreement = float((expected == actual).mean())
    elif expected.ndim > 1 and expected.shape[-1] > 1:
        agreement = float((expected.argmax(-1) == actual.argmax(-1)).mean())
    return Distance(
        float(np.abs(error).max()), float(np.sqrt(np.square(error).mean())), float(expected.std()), agreement
    )
