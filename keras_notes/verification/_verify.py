"""Verification: runs a bundle on LiteRT and compares it with the trained model.

Conversion wrote the golden outputs; verification compares with them by the same rules as every runner of `tflite/`. The
file runs in a worker process with limits on time and memory, so that a damaged file is only an error. This module
imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes._litert.model import Signature, TfliteFile
from keras_notes._litert.runtime import KERNELS
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits
from keras_notes._shared.checks import check_choice, one_line
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import Bundle, SignatureEntry, as_bundle
from keras_notes.errors import BundleError, VerificationError
from keras_notes.verification._compare import compare_signature
from keras_notes.verification._labelled_samples import check_labelled_samples
from keras_notes.verification._report import OutputReport, Report

__all__ = ["Limits", "OutputReport", "Report", "verify"]


def verify(
    bundle_or_directory: Bundle | str | os.PathLike[str],
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    kernels: str = "xnnpack",
    limits: Limits = DEFAULT_LIMITS,
) -> Report:
    """Checks that a bundle computes what the trained model computed, within the tolerance of its recipe.

    Checks the hashes, and that the file has the tensors that the manifest describes; then runs every golden sample on
    LiteRT and compares the outputs. Outputs of float files are compared by the largest error, relative to the largest
    golden value; outputs with an integer grid in steps of that grid (LSB), by the largest, the root mean square and the
    mean error.

    Args:
        bundle_or_directory: A bundle, or its folder. Its files are read and hashed again in either case.
        x: Test inputs of shape (samples, ...), in the units of the trained model; for several inputs a dict by name,
            or a list in the order of the model. Or a dataset of (x, y): a `tf.data.Dataset`, a `keras.utils.PyDataset`,
            a `DataLoader`, or a generator, of which the first 10000 samples are used.
        y: Class ids of shape (samples,). With x and y the accuracy of the .tflite file itself is measured. None for a
            dataset.
        kernels: "xnnpack" (LiteRT's default), "builtin" or "reference" (the portable oracle).
        limits: Time and memory that the file may use.

    Returns:
        The `Report`.

    Raises:
        VerificationError: If an error exceeds the tolerance; its `.report` holds every figure.
        BundleError: If the bundle is damaged, or LiteRT cannot run it, crashes, or exceeds a limit.
        ValueError: If x and y do not fit the model, a label is out of range, or `kernels` is unknown.
        TypeError: If x does not hold numbers.

    Example:
        >>> report = verify("tflite/testdata/bars_static_int8")
        >>> report.ok, report.outputs[0].name, report.golden_samples
        (True, 'output', 16)
    """
    check_choice("kernels", kernels, KERNELS)
    bundle = as_bundle(bundle_or_directory)
    samples, labels = check_labelled_samples(bundle.manifest.signatures[0], x, y)
    file = tflite_process.describe(bundle.model_path, limits)
    _check_edges(bundle, file)
    run = functools.partial(tflite_process.outputs, bundle.model_path, kernels=kernels, limits=limits)
    outputs = tuple(
        output for entry in bundle.manifest.signatures for output in compare_signature(bundle, entry, file, run)
    )
    report = Report(
        name=bundle.manifest.name,
        recipe=bundle.manifest.recipe,
        kernels=kernels,
        runtime_version=version("ai-edge-litert"),
        model_bytes=bundle.model_bytes,
        outputs=outputs,
        golden_samples=sum(entry.golden_samples for entry in bundle.manifest.signatures),
        accuracy=None if labels is None else _accuracy(run, bundle.manifest.signatures[0], samples, labels),
        accuracy_samples=0 if labels is None else len(labels),
        operators=file.operator_counts(),
        float_islands=file.float_operators(),
        is_mixed=file.is_mixed,
        failures=tuple(failure for output in outputs for failure in output.failures),
    )
    if not report.ok:
        raise VerificationError(
            f"{report.name!r} is not equal to the trained model: {'; '.join(report.failures)}", report
        )
    return report


def _check_edges(bundle: Bundle, file: TfliteFile) -> None:
    """Raises BundleError unless the file has the tensors that the manifest describes, on the same grids."""
    signatures = {signature.name: signature for signature in file.signatures}
    for entry in bundle.manifest.signatures:
        signature = signatures.get(entry.name)
        for side, tensors in (("inputs", entry.inputs), ("outputs", entry.outputs)):
            actual = set() if signature is None else _edges(file, signature, side)
            expected = {(t.name, t.dtype, t.shape, t.scale, t.zero_point) for t in tensors}
            if actual != expected:
                raise BundleError(
                    f"The model of {str(bundle.directory)!r} must have the {side} that its manifest describes. "
                    f"Received: {one_line(f'{sorted(actual, key=str)} for {sorted(expected, key=str)}')}. "
                    f"Convert the model again."
                )


def _edges(file: TfliteFile, signature: Signature, side: str) -> set[tuple]:
    """Returns name, type, shape and grid of each tensor in the "inputs" or "outputs" of a signature."""
    graph = file.graph(signature)
    grid, indices = (graph.input_grid, signature.inputs) if side == "inputs" else (graph.output_grid, signature.outputs)
    return {
        (name, graph.tensors[i].dtype, graph.tensors[i].shape, grid(i).scale, grid(i).zero_point)
        for name, i in indices.items()
    }


def _accuracy(run: Callable, signature: SignatureEntry, samples: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    outputs = run(signature, samples)[signature.outputs[0].name]
    return float((outputs.argmax(-1) == labels).mean())
