"""The sections of the report with measurements: errors of the outputs, latency, errors of inner tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from keras_notes.benchmarking import BenchReport, BenchRow
from keras_notes.bundle import Candidate, Choice, Manifest, TensorError, Tolerance
from keras_notes.report._bundle_sections import Section
from keras_notes.report._charts import decibels_text, error_bars, worst_tensors
from keras_notes.report._html import Cell, Html, count, details, element, table
from keras_notes.verification import OutputReport, Report

__all__ = ["candidates", "errors_down_the_graph", "speed", "verification"]

Formatter: TypeAlias = Callable[[float], str]


class _Measure(NamedTuple):
    """A column of the table of errors."""

    heading: str
    field: str
    write: Formatter

    def cell(self, output: OutputReport) -> str | None:
        value = getattr(output, self.field)
        if value is None:
            return None
        return ", ".join(map(self.write, value)) if isinstance(value, tuple) else self.write(value)


_MEASURES = (
    _Measure("Largest, LSB", "max_error_lsb", "{:.2f}".format),
    _Measure("RMS, LSB", "rms_error_lsb", "{:.2f}".format),
    # A mean of -0.001 is 0.00 and not -0.00.
    _Measure("Mean, LSB", "mean_error_lsb", lambda value: f"{round(value, 2) + 0.0:.2f}"),
    _Measure("Largest", "max_error", "{:.3g}".format),
    _Measure("RMS", "rms_error", "{:.3g}".format),
    _Measure("Mean", "mean_error", "{:.3g}".format),
    _Measure("Top-1 agreement", "top1_agreement", "{:.4f}".format),
    _Measure("Equal integers", "agreement", "{:.4f}".format),
    _Measure("Against the float model", "distance", str),
    _Measure("RMS by quarter of the sequence", "rms_error_by_quarter", "{:.3g}".format),
)


def verification(report: Report, tolerance: Tolerance) -> Section:
    """Returns the errors of each output, and the limits that hold for it."""
    measures = [measure for measure in _MEASURES if any(measure.cell(output) is not None for output in report.outputs)]

    def row(output: OutputReport) -> tuple[Cell, ...]:
        name = f"{output.signature}/{output.name}"
        return (name, _result(output), *(measure.cell(output) for measure in measures))

    return (
        element(
            "p",
            f"LiteRT {report.runtime_version} ran {count(report.golden_samples, 'golden sample')} with the "
            f"{report.kernels} kernels; an error is what an output differs by from that of the trained model. Kernel "
            f"sets differ in rounding, so the figures hold for this one. 1 LSB is a step of the output's integer grid.",
        ),
        table(
            "Error over the golden samples",
            ("Output", "Result", *(measure.heading for measure in measures)),
            map(row, report.outputs),
            words=(1,),
        ),
        *_limits(report, tolerance),
        *(element("p", f"{figure}.") for figure in report.figures),
        *(element("p", f"Warning: {warning}.") for warning in report.warnings),
        *(element("p", f"Likely cause: {cause}.") for cause in report.causes),
    )


def candidates(choice: Choice) -> Section:
    """Returns the candidates of the recipe "auto", and the chosen one."""

    def row(index: int, candidate: Candidate) -> tuple[Cell, ...]:
        result = "taken" if index == choice.chosen else candidate.reason or "within the budget"
        return *candidate.cells(), result

    return (
        element(
            "p",
            f"Each recipe that fits the model was converted, and measured in turns on the machine that converted. "
            f"{choice.rule}.",
        ),
        table(
            "Candidates",
            ("Recipe", "Kernels", "Bytes", "p50, ms", "Accuracy", "Loss", "Result"),
            [row(index, candidate) for index, candidate in enumerate(choice.candidates)],
            words=(1, 6),
        ),
    )


def _limits(report: Report, tolerance: Tolerance) -> list[Html]:
    """Returns the limits that hold for these outputs: in steps for those with a grid, if there are such limits."""
    steps = (" in LSB", tolerance.max_error_lsb, tolerance.rms_error_lsb, tolerance.mean_error_lsb)
    relative = (" relative to the largest golden output", tolerance.max_error, tolerance.rms_error, None)
    in_steps = [output.max_error_lsb is not None and tolerance.max_error_lsb is not None for output in report.outputs]
    parts = []
    for unit, *limits in [steps] * any(in_steps) + [relative] * (not all(in_steps)):
        named = zip(("largest", "root mean square", "mean"), limits, strict=True)
        listed = ", ".join(f"{name} {limit:g}" for name, limit in named if limit is not None)
        parts.append(element("p", f"Limits of the error{unit}: {listed or 'none'}."))
    return parts


def speed(report: BenchReport) -> Section:
    """Returns how long loading and running take."""
    header = ("Model", "Threads", "Load, ms", "First, ms", "p50, ms", "p95, ms", "Peak memory, bytes", "File, bytes")
    ratios = (
        (f"{ratio.threads}", f"{ratio.median:.3f}", f"{ratio.lower:.3f} to {ratio.upper:.3f}")
        for ratio in report.ratios
    )
    return (
        element(
            "p",
            f"LiteRT {report.runtime_version} with the {report.kernels} kernels on {report.machine}, "
            f"{count(report.cores, 'core')}: {count(report.rounds, 'round')} of "
            f"{count(report.repeat, 'warm invocation')}, a sample each. These are times of this machine; they compare "
            f"files with one another, and say nothing of a phone.",
        ),
        table("Latency and memory", header, [_bench_row(row, has_two=bool(report.ratios)) for row in report.rows]),
        table("p50 of A / p50 of B", ("Threads", "Median of the rounds", "Quartiles"), ratios) if report.ratios else "",
    )


def errors_down_the_graph(errors: Sequence[TensorError] | None, manifest: Manifest) -> Section:
    """Returns the error of quantization of each inner tensor, which shows where in the graph it arises."""
    if errors is None and manifest.recipe == "float32" and not manifest.exceptions:
        return (element("p", "A float32 file has no error of quantization."),)
    if errors is None:
        remark = "The bundle does not keep the errors of its inner tensors: convert the model again with this version."
        return (element("p", remark),)
    if not errors:
        return (element("p", "No inner tensor of the file has a counterpart in the float32 file."),)
    names, decibels = [error.name for error in errors], [error.sqnr_db for error in errors]
    worst = worst_tensors(decibels)
    lowest = f"the lowest ratio is {decibels_text(decibels[worst[0]])}, at {names[worst[0]]}" if worst else "none errs"
    header = ("Tensor", "SQNR", "Largest error", "Largest value", "Scale", "Values")
    return (
        element(
            "p",
            "Each inner tensor beside that of the same name in the float32 file, over golden samples on the builtin "
            "kernels, as signal-to-quantization-noise ratio: 10 log10(sum of squared values / sum of squared errors). "
            "6 dB are a bit; where the ratio drops from one tensor to the next, the operator between them costs "
            "accuracy.",
        ),
        element(
            "figure",
            error_bars(
                "Signal-to-quantization-noise ratio of each tensor",
                f"{count(len(errors), 'tensor')} in the order of the graph; {lowest}.",
                names,
                decibels,
            ),
            element("figcaption", "In the order of the graph. Orange: the worst. Green: no error at all."),
        ),
        table("The worst tensors", header, [_error_row(errors[place]) for place in worst]) if worst else "",
        details(
            f"All tensors ({len(errors)})",
            table("All tensors in the order of the graph", header, map(_error_row, errors)),
        ),
    )


def _result(output: OutputReport) -> Html:
    return element("span", "FAIL", class_="fail") if output.failures else element("span", "pass", class_="pass")


def _bench_row(row: BenchRow, has_two: bool) -> tuple[Cell, ...]:
    name = f"{row.name}, {row.recipe}"
    times = (f"{value:.4f}" for value in (row.load_ms, row.first_ms, row.p50_ms, row.p95_ms))
    peak = None if row.peak_bytes is None else f"{row.peak_bytes:,}"
    return (f"{row.bundle}: {name}" if has_two else name, row.threads, *times, peak, f"{row.model_bytes:,}")


def _error_row(error: TensorError) -> tuple[Cell, ...]:
    scale = None if error.scale is None else f"{error.scale:.4g}"
    figures = (f"{error.max_error:.4g}", f"{error.max_value:.4g}", scale, f"{error.size:,}")
    return (error.name, decibels_text(error.sqnr_db), *figures)
