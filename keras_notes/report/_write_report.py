"""The report of a bundle as one HTML page: what was trained, how well the file gives it, how large and how fast it is.

Imports neither Keras nor TensorFlow. Every text of a bundle is escaped: it may come from anywhere.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from keras_notes import benchmarking
from keras_notes._litert import client as tflite_process
from keras_notes._litert.model import TfliteFile
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits
from keras_notes._shared.checks import received
from keras_notes.benchmarking import BenchReport
from keras_notes.bundle import MODEL_FILE, Bundle, open_bundle, read_choice, read_tensor_errors
from keras_notes.errors import VerificationError
from keras_notes.report import _bundle_sections as sections
from keras_notes.report import _measurement_sections as measures
from keras_notes.report._html import Html, count, definitions, element, joined
from keras_notes.report._page import page
from keras_notes.verification import Report, verify

__all__ = ["write_report"]

# Of the benchmark that is run where none is given: enough for a p50, and seconds for a model of 10 ms.
_REPEAT, _ROUNDS = 50, 3


def write_report(
    bundle_or_directory: Bundle | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    verification: Report | None = None,
    bench: BenchReport | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Path:
    """Writes all that is known of a bundle as one HTML page, which opens offline and loads nothing.

    It says whether the file gives what was trained, and by how much it errs; what was trained; metrics; sizes; what
    the graph computes in; latencies; where in the graph the error of quantization arises; and what to feed and read.

    Args:
        bundle_or_directory: A bundle, or where it stands.
        path: The file to write; it replaces one that is there. It must be outside of the bundle.
        verification: What `verify` returned, or the `.report` of its VerificationError. By default it is run: a bundle
            that fails has a page as well, which says so.
        bench: What `keras_notes.benchmarking.bench` returned. By default a short one is run, on 1 and 2 threads.
        limits: The time and memory that the file may use.

    Returns:
        The path.

    Raises:
        BundleError: If the bundle is damaged, LiteRT cannot run it, crashes, or goes over a limit.
        ValueError: If a report is of another bundle, or the page would stand where it may not.

    Example:
        write_report("build/my_bundle", "build/report.html")
    """
    bundle = open_bundle(
        bundle_or_directory.directory if isinstance(bundle_or_directory, Bundle) else bundle_or_directory
    )
    target = _checked_target(bundle, path)
    file = tflite_process.describe(bundle.model_path, limits)
    report = _verified(bundle, limits) if verification is None else verification
    if bench is None:
        bench = benchmarking.bench(bundle, repeat=_REPEAT, rounds=_ROUNDS, limits=limits)
    _check_same(bundle, report, bench)
    _write_whole(target, _page(bundle, file, report, bench))
    return target


def _verified(bundle: Bundle, limits: Limits) -> Report:
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
        ((name, joined([value, element("small", unit)])) for name, value, unit in figures), class_="figures"
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
    for argument, made in (("verification", report), ("bench", bench.rows[0])):
        found = (made.name, made.recipe, made.model_bytes)
        if found != own:
            raise ValueError(
                f"`{argument}` must be of the bundle of the page: name, recipe and bytes {own}. Received: {found}. "
                f"Leave it out to have it made."
            )


def _checked_target(bundle: Bundle, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"`path` must be a file, such as report.html. {received(path=str(target))} It is a directory.")
    if target.resolve().is_relative_to(bundle.directory.resolve()):
        raise ValueError(
            f"`path` must be outside of the bundle, which holds nothing but its own files. {received(path=str(target))}"
        )
    return target


def _write_whole(target: Path, content: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
        written = Path(beside) / target.name
        written.write_text(content, encoding="utf-8")
        os.replace(written, target)
