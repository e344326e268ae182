"""The content, outputs and latencies of a .tflite file, which a worker process holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_notes._litert.model import TfliteFile
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits, run_task
from keras_notes._shared.types import Config
from keras_notes.bundle import SignatureEntry
from keras_notes.errors import BundleError

__all__ = ["describe", "latencies", "outputs", "tensor_errors"]


def describe(path: Path, limits: Limits = DEFAULT_LIMITS) -> TfliteFile:
    """Returns the content of the file.

    Raises:
        BundleError: If it is not a .tflite file.
    """
    value, _ = run_task("describe", path, {}, {}, limits)
    try:
        return TfliteFile.from_dict(value)
    except (AttributeError, KeyError, TypeError) as error:  # a damaged file took the process over
        raise BundleError(
            f"{str(path)!r} made its worker process give an answer that no reader gives: {error!r}."
        ) from error


def outputs(
    path: Path,
    signature: SignatureEntry,
    inputs: Mapping[str, np.ndarray],
    kernels: str,
    batch_size: int = 1,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, np.ndarray]:
    """Returns the outputs of a signature for samples, by output name, in the units of the trained model.

    Raises:
        BundleError: If LiteRT cannot load or run the file.
    """
    arguments = {"signature": dataclasses.asdict(signature), "kernels": kernels, "batch_size": batch_size}
    results = run_task("outputs", path, arguments, inputs, limits)[1]
    count = len(next(iter(inputs.values())))
    for entry in signature.outputs:
        if entry.name not in results or results[entry.name].shape != (count, *entry.shape[1:]):
            raise BundleError(
                f"{str(path)!r} must give {count} samples of shape {entry.shape[1:]} at {entry.name!r}. "
                f"Received: {results[entry.name].shape if entry.name in results else 'nothing'}."
            )
    return results


def latencies(
    path: Path,
    signature: SignatureEntry,
    inputs: Mapping[str, np.ndarray],
    kernels: str,
    threads: int,
    repeat: int,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Config, np.ndarray]:
    """Returns `load_ms`, `first_ms` and `peak_bytes`, and the milliseconds of each of `repeat` warm invocations."""
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
) -> list[Config]:
    """Returns the fields of a `TensorError` for each inner tensor, against that of the same name in a float file."""
    arguments = {
        "reference": str(reference),
        "signature": dataclasses.asdict(signature),
        "reference_signature": dataclasses.asdict(reference_signature),
    }
    value, _ = run_task("tensor_errors", path, arguments, inputs, limits)
    return value
