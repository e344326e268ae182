"""A .tflite file seen from outside the process that holds it: what is in it, what it gives, how long it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_notes._litert.model import TfliteFile
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits, run_task
from keras_notes.bundle import SignatureEntry
from keras_notes.errors import BundleError

__all__ = ["describe", "latencies", "outputs", "tensor_errors"]


def describe(path: Path, limits: Limits = DEFAULT_LIMITS) -> TfliteFile:
    """What the file holds.

    Raises:
        BundleError: If it is no .tflite file.
    """
    value, _ = run_task("describe", path, {}, {}, limits)
    try:
        return TfliteFile.from_dict(value)
    except (AttributeError, KeyError, TypeError) as error:  # a damaged file took the process over
        raise BundleError(f"{str(path)!r} made its own process answer what no reader says: {error!r}.") from error


def outputs(
    path: Path,
    signature: SignatureEntry,
    inputs: Mapping[str, np.ndarray],
    kernels: str,
    batch_size: int = 1,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, np.ndarray]:
    """What a signature gives for samples, by output name, in the units of the trained model.

    Raises:
        BundleError: If LiteRT cannot load or run the file.
    """
    arguments = {"signature": dataclasses.asdict(signature), "kernels": kernels, "batch_size": batch_size}
    got = run_task("outputs", path, arguments, inputs, limits)[1]
    count = len(next(iter(inputs.values())))
    for entry in signature.outputs:
        if entry.name not in got or got[entry.name].shape != (count, *entry.shape[1:]):
            raise BundleError(
                f"{str(path)!r} must give {count} samples of shape {entry.shape[1:]} at {entry.name!r}. "
                f"Received: {got[entry.name].shape if entry.name in got else 'nothing'}."
            )
    return got


def latencies(
    path: Path,
    signature: SignatureEntry,
    inputs: Mapping[str, np.ndarray],
    kernels: str,
    threads: int,
    repeat: int,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[dict[str, Any], np.ndarray]:
    """`load_ms`, `first_ms` and `peak_bytes`, and the milliseconds of each of `repeat` warm invocations."""
    arguments = {
        "signature": dataclasses.asdict(signature),
        "kernels": kernels,
        "threads": threads,
        "repeat": repeat,
    }
    value, arrays = run_task("latencies", path, arguments, inputs, limits)
    return value, arrays["warm_ms"]


def tensor_errors(
    path: Path,
    reference: Path,
    signature: SignatureEntry,
    reference_signature: SignatureEntry,
    inputs: Mapping[str, np.ndarray],
    limits: Limits = DEFAULT_LIMITS,
) -> list[dict[str, Any]]:
    """Sums of squares and largest errors of each inner tensor, beside that of the same name in a float file."""
    arguments = {
        "reference": str(reference),
        "signature": dataclasses.asdict(signature),
        "reference_signature": dataclasses.asdict(reference_signature),
    }
    value, _ = run_task("tensor_errors", path, arguments, inputs, limits)
    return value
