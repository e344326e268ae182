"""The report of a bundle as one HTML page: the trained model, the errors of the file, its size and its speed.

This module imports neither Keras nor TensorFlow. All text from a bundle is escaped: it is untrusted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_notes import benchmarking
from keras_notes._litert import client as tflite_process
from keras_notes._litert.model import TfliteFile
from keras_notes._litert.sandbox import DEFAULT_LIMITS, Limits
from keras_notes._shared.atomic_files import write_atomically
from keras_notes._shared.checks import received
from keras_notes._shared.types import ArrayLike
from keras_notes.benchmarking import BenchReport, BenchRow
from keras_notes.bundle import MODEL_FILE, Bundle, as_bundle, read_choice, read_tensor_errors
from keras_notes.errors import VerificationError
from keras_notes.report import _bundle_sections as sections
from keras_notes.report import _measurement_sections as measures
from keras_notes.report._class_sections import (
    Confusion,
    classes,
    count_confusions,
    figures,
    has_classes,
    read_labelled_arrays,
)
from keras_notes.report._html import Html, count, definitions, element, join, table
from keras_notes.report._page import page
from keras_notes.verification import Report, verify

__all__ = ["write_report"]

# The default benchmark: enough for a p50, and a few seconds for a model of 10 ms.
_REPEAT, _ROUNDS = 50, 3


def write_report(
    bundle_or_directory: Bundle | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    other: Bundle | str | os.PathLike[str] | None = None,
    verification: Report | None = None,
    bench: BenchReport | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Path:
    """Writes everything that is known about a bundle as one HTML page, which opens offline and loads nothing.

    The page shows whether the file computes what was trained, and its errors; the trained model and its metrics; sizes;
    the operators and their number formats; latencies; the error of quantization by tensor; and inputs and outputs. With
    labelled samples it shows the accuracy, the confusion matrix and the figures of each class. Of two bundles each
    section shows both side by side.

    Args:
        bundle_or_directory: A bundle, or its folder.
        path: File to write, outside of the bundle; it replaces an existing one.
        x: Test inputs of shape (samples, ...), in the units of the trained model; for several inputs a dict by name, or
            a list in the order of the model. Or a dataset of (x, y).
        y: Labels as `verify` takes them; of class ids, and of 0 and 1 for one sigmoid, the confusions are counted. None
            for a dataset.
        other: A second bundle, or its folder, to compare with the first.
        verification: Result of `verify`, or the `.report` of its VerificationError. By default the bundle is verified
            here; a bundle that fails has a page as well, which says so.
        bench: Result of `keras_notes.benchmarking.bench`. By default a short benchmark is run, on 1 and 2 threads.
        limits: Time and memory that the file may use.

    Returns:
        The path of the page.

    Raises:
        BundleError: If the bundle is damaged, LiteRT cannot run it, crashes, or goes over a limit.
        ValueError: If a result is of another bundle, x and y do not fit the model, or `path` is a folder or inside a
            bundle.

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
    bundles = [as_bundle(item) for item in (bundle_or_directory, other) if item is not None]
    target = _check_target(bundles, path)
    data = read_labelled_arrays(bundles[0], x, y)
    if bench is None:
        bench = benchmarking.bench(*bundles, repeat=_REPEAT, rounds=_ROUNDS, limits=limits)
    subjects = [
        _measure(bundle, verification if index == 0 else None, data, bench, index, limits)
        for index, bundle in enumerate(bundles)
    ]
    content = (_page(subjects[0], bench) if other is None else _page_of_two(subjects, bench)).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(target) as page_file:
        page_file.write(content)
    return target


@dataclass(frozen=True)
class _Subject:
    """A bundle and what was measured on it.

    Attributes:
        bundle: The bundle.
        file: Its .tflite file.
        report: Result of its verification.
        confusion: Its predictions for labelled samples, or None.
        speed: Its first row of the benchmark.
    """

    bundle: Bundle
    file: TfliteFile
    report: Report
    confusion: Confusion | None
    speed: BenchRow

    @property
    def title(self) -> str:
        """Name and recipe."""
        return f"{self.report.name}, {self.report.recipe}"


def _measure(
    bundle: Bundle,
    verification: Report | None,
    data: tuple[ArrayLike, ArrayLike] | None,
    bench: BenchReport,
    index: int,
    limits: Limits,
) -> _Subject:
    file = tflite_process.describe(bundle.model_path, limits)
    report = _run_verification(bundle, data, limits) if verification is None else verification
    rows = [row for row in bench.rows if row.bundle == "AB"[index]] or bench.rows
    _check_same(bundle, report, rows[0])
    confusion = None
    if data is not None and has_classes(bundle, data[1]):
        confusion = count_confusions(bundle, *data, kernels=report.kernels, limits=limits)
    return _Subject(bundle, file, report, confusion, rows[0])


def _run_verification(bundle: Bundle, data: tuple[ArrayLike, ArrayLike] | None, limits: Limits) -> Report:
    try:
        return verify(bundle, *(data or (None, None)), limits=limits)
    except VerificationError as error:
        return error.report


def _parts(subject: _Subject, bench: BenchReport) -> dict[str, tuple[str, sections.Section]]:
    """Returns title and content of each section, by its name."""
    bundle, report = subject.bundle, subject.report
    parts = {"verification": ("Verification", measures.verification(report, bundle.manifest.tolerance))}
    labelled = figures(report) + (() if subject.confusion is None else classes(subject.confusion))
    if labelled:
        parts["labelled"] = ("Labelled samples", labelled)
    parts |= {
        "model": ("What was trained", sections.training(bundle, report)),
        "size": ("Size", sections.sizes(bundle, subject.file)),
        "operators": ("Operators", sections.operators(report)),
        "speed": ("Speed", measures.speed(bench)),
    }
    if (choice := read_choice(bundle)) is not None:
        parts["candidates"] = ("Candidates", measures.candidates(choice))
    tensor_errors = measures.errors_down_the_graph(read_tensor_errors(bundle), bundle.manifest)
    parts["errors"] = ("Error down the graph", tensor_errors)
    parts["signatures"] = ("Signatures", sections.signatures(bundle))
    return parts


def _page(subject: _Subject, bench: BenchReport) -> str:
    parts = _parts(subject, bench)
    return page(
        f"{subject.report.name}: {_verdict(subject.report)}",
        _header(subject.bundle, subject.report),
        _failures(subject.report),
        _key_figures(subject),
        _links({name: title for name, (title, _) in parts.items()}),
        element("main", *(_section(name, *part) for name, part in parts.items())),
        _footer(subject.bundle),
    )


def _page_of_two(subjects: Sequence[_Subject], bench: BenchReport) -> str:
    """Returns a page on which each section has both bundles side by side; on a phone one below the other."""
    both = [_parts(subject, bench) for subject in subjects]
    titles = {"comparison": "Comparison"} | {name: title for parts in both for name, (title, _) in parts.items()}
    contents: dict[str, sections.Section] = {"comparison": (_comparison(subjects),)}
    for name in list(titles)[1:]:
        if name == "speed":
            contents[name] = both[0][name][1]
            continue
        columns = [
            element("div", element("h3", f"{letter}: {subject.title}"), *_with_own_ids(letter, parts[name][1]))
            if name in parts
            else element("div", element("h3", f"{letter}: {subject.title}"), element("p", "Nothing of the kind."))
            for letter, subject, parts in zip("AB", subjects, both, strict=True)
        ]
        contents[name] = (element("div", *columns, class_="pair"),)
    headers = [
        element("div", _header(subject.bundle, subject.report), _failures(subject.report)) for subject in subjects
    ]
    return page(
        " and ".join(f"{subject.title}: {_verdict(subject.report)}" for subject in subjects),
        element("div", *headers, class_="pair"),
        _links(titles),
        element("main", *(_section(name, titles[name], contents[name]) for name in titles)),
        *(_footer(subject.bundle) for subject in subjects),
    )


def _comparison(subjects: Sequence[_Subject]) -> Html:
    """Returns the key figures of both bundles, a row a figure."""
    first, second = ({name: (value, unit) for name, value, unit in _figures(subject)} for subject in subjects)

    def cell(figure: tuple[str, str] | None) -> Html | None:
        return None if figure is None else join([figure[0], element("small", f" {figure[1]}")])

    rows = [(name, cell(first.get(name)), cell(second.get(name))) for name in {**first, **second}]
    header = ("Figure", *(f"{letter}: {subject.title}" for letter, subject in zip("AB", subjects, strict=True)))
    return table("Key figures", header, rows)


def _with_own_ids(letter: str, content: sections.Section) -> sections.Section:
    """Returns content whose charts have identifiers of their own, where the page has each chart twice."""
    pattern = r'(id|aria-labelledby|aria-describedby)="((?:bar|errors)-(?:title|description))"'
    return tuple(
        Html(re.sub(pattern, rf'\1="{letter}-\2"', part)) if isinstance(part, Html) else part for part in content
    )


def _links(titles: Mapping[str, str]) -> Html:
    links = (element("li", element("a", title, href=f"#{name}")) for name, title in titles.items())
    return element("nav", element("ul", *links), aria_label="Sections")


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


def _key_figures(subject: _Subject) -> Html:
    return definitions(
        ((name, join([value, element("small", unit)])) for name, value, unit in _figures(subject)), class_="figures"
    )


def _figures(subject: _Subject) -> list[tuple[str, str, str]]:
    """Returns name, value and unit of each key figure."""
    report, own = subject.report, subject.speed
    entries = [
        ("File", f"{subject.bundle.model_bytes:,}", "bytes"),
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
        entries.append(("Top-1 agreement", f"{min(agreements):.4f}", "with the trained model"))
    if subject.confusion is not None:
        samples = count(subject.confusion.samples, "sample")
        entries.append(("Accuracy", f"{subject.confusion.accuracy:.4f}", f"on {samples}"))
    elif report.accuracy is not None:
        entries.append(("Accuracy", f"{report.accuracy:.4f}", f"on {count(report.accuracy_samples, 'sample')}"))
    return entries


def _largest_error(report: Report) -> tuple[str, str, str]:
    in_steps = [output.max_error_lsb for output in report.outputs if output.max_error_lsb is not None]
    if in_steps:
        # Not max() of the builtins, which lets a NaN fall behind.
        return ("Largest error", f"{np.max(in_steps):.2f}", "LSB, steps of the output")
    return ("Largest error", f"{np.max([output.max_error for output in report.outputs]):.3g}", "of any output")


def _footer(bundle: Bundle) -> Html:
    digest = bundle.manifest.files[MODEL_FILE].sha256
    return element("footer", "SHA-256 of model.tflite: ", element("code", digest))


def _check_same(bundle: Bundle, report: Report, bench: BenchRow) -> None:
    """Raises ValueError unless both reports are of this bundle."""
    own = (bundle.manifest.name, bundle.manifest.recipe, bundle.model_bytes)
    for argument, result in (("verification", report), ("bench", bench)):
        actual = (result.name, result.recipe, result.model_bytes)
        if actual != own:
            raise ValueError(
                f"`{argument}` must be of the bundle of the page: name, recipe and bytes {own}. Received: {actual}. "
                f"Leave it out, and it is measured."
            )


def _check_target(bundles: Sequence[Bundle], path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"`path` must be a file, such as report.html. {received(path=str(target))} It is a directory.")
    if any(target.resolve().is_relative_to(bundle.directory.resolve()) for bundle in bundles):
        raise ValueError(
            f"`path` must be outside of the bundle, which holds nothing but its own files. {received(path=str(target))}"
        )
    return target
