"""The report of a bundle as one HTML page: the trained model, the errors of the file, its size and its speed.

This module imports neither Keras nor TensorFlow. All text from a bundle is escaped: it is untrusted.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from keras_notes import benchmarking
from keras_notes._litert import client as tflite_process
from keras_notes._litert.model import TfliteFile
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits
from keras_notes._shared.atomic_files import write_atomically
from keras_notes._shared.checks import received
from keras_notes.benchmarking import BenchReport
from keras_notes.bundle import MODEL_FILE, Bundle, as_bundle, read_choice, read_tensor_errors
from keras_notes.errors import VerificationError
from keras_notes.report import _bundle_sections as sections
from keras_notes.report import _measurement_sections as measures
from keras_notes.report._html import Html, count, definitions, element, join
from keras_notes.report._page import page
from keras_notes.verification import Report, verify

__all__ = ["write_report"]

# The default benchmark: enough for a p50, and a few seconds for a model of 10 ms.
_REPEAT, _ROUNDS = 50, 3


def write_report(
    bundle_or_directory: Bundle | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    verification: Report | None = None,
    bench: BenchReport | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Path:
    """Writes everything that is known about a bundle as one HTML page, which opens offline and loads nothing.

    The page shows whether the file computes what was trained, and its errors; the trained model and its metrics; sizes;
    the operators and their number formats; latencies; the error of quantization by tensor; and inputs and outputs.

    Args:
        bundle_or_directory: A bundle, or its folder.
        path: File to write, outside of the bundle; it replaces an existing one.
        verification: Result of `verify`, or the `.report` of its VerificationError. By default the bundle is verified
            here; a bundle that fails has a page as well, which says so.
        bench: Result of `keras_notes.benchmarking.bench`. By default a short benchmark is run, on 1 and 2 threads.
        limits: Time and memory that the file may use.

    Returns:
        The path of the page.

    Raises:
        BundleError: If the bundle is damaged, LiteRT cannot run it, crashes, or goes over a limit.
        ValueError: If a result is of another bundle, or `path` is a folder or inside the bundle.

    Example:
        >>> import tempfile
        >>> from keras_notes.benchmarking import bench
        >>> bundle = "tflite/testdata/bars_static_int8"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     times = bench(bundle, threads=[1], repeat=5, rounds=1)
        ...     page = write_report(bundle, f"{folder}/report.html", bench=times).read_text()
        >>> "bars: PASS" in page
        True
    """
    bundle = as_bundle(bundle_or_directory)
    target = _check_target(bundle, path)
    file = tflite_process.describe(bundle.model_path, limits)
    report = _run_verification(bundle, limits) if verification is None else verification
    if bench is None:
        bench = benchmarking.bench(bundle, repeat=_REPEAT, rounds=_ROUNDS, limits=limits)
    _check_same(bundle, report, bench)
    content = _page(bundle, file, report, bench).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(target) as page_file:
        page_file.write(content)
    return target


def _run_verification(bundle: Bundle, limits: Limits) -> Report:
    try:
        return verify(bundle, limits=limits)
    except VerificationError as error:
        return error.report


def _page(bundle: Bundle, file: TfliteFile, report: Report, bench: BenchReport) -> str:
    parts: tuple[tuple[str, str, sections.Section], ...] = (
        ("verification", "Verification", measures.verification(report, bundle.manifest.tolerance)),
        ("model", "What was trained", sections.training(bundle, report)),
        ("size", "Size", sections.sizes(bundle, file)),
        ("operators", "Operators", sections.operators(report)),
        ("speed", "Speed", measures.speed(bench)),
        ("errors", "Error down the graph", measures.errors_down_the_graph(read_tensor_errors(bundle), bundle.manifest)),
        ("signatures", "Signatures", sections.signatures(bundle)),
    )
    if (choice := read_choice(bundle)) is not None:
        parts = (*parts[:5], ("candidates", "Candidates", measures.candidates(choice)), *parts[5:])
    links = (element("li", element("a", title, href=f"#{name}")) for name, title, _ in parts)
    return page(
        f"{report.name}: {_verdict(report)}",
        _header(bundle, report),
        _failures(report),
        _key_figures(bundle, report, bench),
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", *(_section(*part) for part in parts)),
        _footer(bundle),
    )


def _section(name: str, title: str, content: sections.Section) -> Html:
    heading = element("h2", title, id=f"{name}-heading")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-heading")


def _verdict(report: Report) -> str:
    return "PASS" if report.ok else "FAIL"


def _header(bundle: Bundle, report: Report) -> Html:
    finding = "gives what the trained model gives, within" if report.ok else "strays from the trained model, beyond"
    return element(
        "header",
        element("h1", report.name),
        element("span", _verdict(report), class_="verdict" if report.ok else "verdict not"),
        element("p", f"A {bundle.manifest.recipe} file that {finding} the limits of the bundle."),
    )


def _failures(report: Report) -> Html | str:
    if report.ok:
        return ""
    reasons = element("ul", *(element("li", failure) for failure in report.failures))
    return element("div", element("p", "Why it fails"), reasons, class_="failures")


def _key_figures(bundle: Bundle, report: Report, bench: BenchReport) -> Html:
    own = bench.rows[0]
    figures = [
        ("File", f"{bundle.model_bytes:,}", "bytes"),
        _largest_error(report),
        ("Latency, p50", f"{own.p50_ms:.4f}", f"ms with {count(own.threads, 'thread')}"),
        (
            "In floating point",
            f"{len(report.float_islands)}",
            f"of {count(sum(report.operators.values()), 'operator')}",
        ),
    ]
    agreements = [output.top1_agreement for output in report.outputs if output.top1_agreement is not None]
    if agreements:
        figures.append(("Top-1 agreement", f"{min(agreements):.4f}", "with the trained model"))
    if report.accuracy is not None:
        figures.append(("Accuracy", f"{report.accuracy:.4f}", f"on {count(report.accuracy_samples, 'sample')}"))
    return definitions(
        ((name, join([value, element("small", unit)])) for name, value, unit in figures), class_="figures"
    )


def _largest_error(report: Report) -> tuple[str, str, str]:
    in_steps = [output.max_error_lsb for output in report.outputs if output.max_error_lsb is not None]
    if in_steps:
        # Not max() of the builtins, which lets a NaN fall behind.
        return ("Largest error", f"{np.max(in_steps):.2f}", "LSB, steps of the output")
    return ("Largest error", f"{np.max([output.max_error for output in report.outputs]):.3g}", "of any output")


def _footer(bundle: Bundle) -> Html:
    digest = bundle.manifest.files[MODEL_FILE].sha256
    return element("footer", "SHA-256 of model.tflite: ", element("code", digest))


def _check_same(bundle: Bundle, report: Report, bench: BenchReport) -> None:
    """Raises ValueError unless both reports are of this bundle."""
    own = (bundle.manifest.name, bundle.manifest.recipe, bundle.model_bytes)
    for argument, result in (("verification", report), ("bench", bench.rows[0])):
        actual = (result.name, result.recipe, result.model_bytes)
        if actual != own:
            raise ValueError(
                f"`{argument}` must be of the bundle of the page: name, recipe and bytes {own}. Received: {actual}. "
                f"Leave it out, and it is measured."
            )


def _check_target(bundle: Bundle, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"`path` must be a file, such as report.html. {received(path=str(target))} It is a directory.")
    if target.resolve().is_relative_to(bundle.directory.resolve()):
        raise ValueError(
            f"`path` must be outside of the bundle, which holds nothing but its own files. {received(path=str(target))}"
        )
    return target
