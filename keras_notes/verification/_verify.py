"""Verification: runs a bundle on LiteRT and compares it with the trained model.

Conversion wrote the golden outputs; verification compares with them by the same rules as every runner of `tflite/`. The
file runs in a worker process with limits on time and memory, so that a damaged file is only an error. This module
imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

import functools
import os
from importlib.metadata import version

from keras_notes._litert import client as tflite_process
from keras_notes._litert.grid_fit import describe_misfits
from keras_notes._litert.model import Signature, TfliteFile
from keras_notes._litert.runtime import KERNELS
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits
from keras_notes._shared.checks import check_choice, one_line
from keras_notes._shared.task_metrics import MetricArgument
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import Bundle, as_bundle
from keras_notes.errors import BundleError, VerificationError
from keras_notes.verification._causes import find_causes
from keras_notes.verification._compare import compare_signature, distance_warnings, stray_warnings
from keras_notes.verification._labelled_samples import check_labelled_samples
from keras_notes.verification._report import OutputReport, Report
from keras_notes.verification._task_figures import chance_warnings, measure_task, task_failures

__all__ = ["Limits", "OutputReport", "Report", "verify"]


def verify(
    bundle_or_directory: Bundle | str | os.PathLike[str],
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    metric: MetricArgument = None,
    kernels: str = "xnnpack",
    limits: Limits = DEFAULT_LIMITS,
) -> Report:
    """Checks that a bundle computes what the trained model computed, within the tolerance of its recipe.

    Checks the hashes, and that the file has the tensors that the manifest describes; then runs every golden sample on
    LiteRT and compares the outputs. Outputs of float files are compared by the largest error, relative to the largest
    golden value; outputs with an integer grid in steps of that grid (LSB), by the largest, the root mean square and the
    mean error; outputs of integers, such as class ids, by the share that agrees. Of the root mean square and the mean,
    3 standard errors over the samples are allowed, so that the verdict does not depend on the draw of the samples. A
    channel that varies in the trained model and not in the file fails. The limits of an output of "static_int8" grow
    with what it varies by in the trained model (`tolerance` of its entry in the manifest); an error that only these
    accept is a warning.

    Args:
        bundle_or_directory: A bundle, or its folder. Its files are read and hashed again in either case.
        x: Test inputs of shape (samples, ...), in the units of the trained model; for several inputs a dict by name,
            or a list in the order of the model. Or a dataset of (x, y): a `tf.data.Dataset`, a `keras.utils.PyDataset`,
            a `DataLoader`, or a generator, of which the first 10000 samples are used.
            Without `y`, only whether x lies on the grid of the inputs is said.
        y: Labels of x, with which the file itself is measured: class ids of shape (samples,), or of each pixel; one-hot
            labels; 0 and 1 for single labels; or numbers of the output's shape. For several outputs a dict by output
            name, of those that have labels. None for a dataset.
        metric: "accuracy" (largest class on the last axis), "binary_accuracy" (single labels; from 0.5 of a
            probability or 0 of a logit), "mae" or "rmse"; or a function of labels and outputs. Defaults to the accuracy
            that labels and output allow, or "mae" for other numbers. Its 95 % interval is that of Wilson for a share of
            samples, else from 1000 bootstrap draws of samples. If the bundle knows the trained model's figure on the
            same data (`validation_data` of `convert`), a loss of more than one point that is beyond chance is a
            failure: each sample is compared with itself, and the 95 % interval of the loss must lie above 0. A point is
            0.01 of accuracy, or of the variance of the labels, by which the square of an error grew.
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
    file = tflite_process.describe(bundle.model_path, limits)
    _check_edges(bundle, file)
    samples, metrics = check_labelled_samples(bundle.manifest, file, x, y, metric)
    run = functools.partial(tflite_process.outputs, bundle.model_path, kernels=kernels, limits=limits)
    signature = bundle.manifest.signatures[0]
    outputs = tuple(
        output for entry in bundle.manifest.signatures for output in compare_signature(bundle, entry, file, run)
    )
    figures = measure_task(bundle, samples, metrics, run(signature, samples)) if metrics else ()
    misfits = describe_misfits(file, signature, {"`x`": samples, "the golden samples": bundle.golden(signature)[0]})
    failures = [failure for output in outputs for failure in output.failures] + list(task_failures(figures))
    strays = [] if figures else list(stray_warnings(bundle, outputs))
    warnings = [*chance_warnings(figures), *distance_warnings(outputs), *strays]
    # Labels of samples that the file cannot take tell nothing, unless the trained model's answers are known for them.
    is_proven = bool(figures) and all(figure.loss is not None for figure in figures)
    (failures if figures and not is_proven else warnings).extend(misfits)
    accuracy = next((f for f in figures if f.metric in ("accuracy", "binary_accuracy")), None)
    report = Report(
        name=bundle.manifest.name,
        recipe=bundle.manifest.recipe,
        kernels=kernels,
        runtime_version=version("ai-edge-litert"),
        model_bytes=bundle.model_bytes,
        outputs=outputs,
        golden_samples=sum(entry.golden_samples for entry in bundle.manifest.signatures),
        accuracy=None if accuracy is None else accuracy.value,
        accuracy_samples=0 if accuracy is None else accuracy.samples,
        operators=file.operator_counts(),
        float_islands=file.float_operators(),
        is_mixed=file.is_mixed,
        failures=tuple(failures),
        figures=figures,
        warnings=tuple(warnings),
        causes=tuple(find_causes(bundle, file)) if failures or strays else (),
    )
    if not report.ok:
        raise VerificationError(f"{report.name!r} is not equal to the trained model: {_reasons(report)}", report)
    return report


def _reasons(report: Report) -> str:
    causes = "".join(f". Likely cause: {cause}" for cause in report.causes)
    return "; ".join(report.failures) + causes


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
