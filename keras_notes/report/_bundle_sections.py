"""The sections of the report that describe a bundle: the model, its size, its operators, its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from keras_notes._litert.model import Tensor, TfliteFile
from keras_notes.benchmarking import bundle_bytes
from keras_notes.bundle import Bundle, SignatureEntry, TensorEntry
from keras_notes.report._charts import colour_of, stacked_bar
from keras_notes.report._html import NONE, Cell, Content, Html, count, definitions, details, element, join, table
from keras_notes.verification import Report

__all__ = ["Section", "operators", "signatures", "sizes", "training"]

Section: TypeAlias = tuple[Content, ...]
"""The content of a section below its heading."""

_MAX_WEIGHTS = 10
_MAX_LABELS = 20


def training(bundle: Bundle, report: Report) -> Section:
    """Returns what the manifest says about the model, and figures that were measured on the file."""
    manifest = bundle.manifest
    exceptions = join((f"{layer}: {recipe}" for layer, recipe in manifest.exceptions.items()), "\n")
    entries = (
        ("Name", manifest.name),
        ("Recipe", manifest.recipe),
        ("Exceptions", exceptions or "none: every layer follows the recipe"),
        ("Edges", f"{manifest.edges}, the type of inputs and outputs"),
        ("Batch size", "any" if manifest.batch_size is None else manifest.batch_size),
        ("Preprocessing", manifest.preprocessing or "not stated"),
        ("Labels", _labels(manifest.labels)),
        ("Made by", join((f"{name} {number}" for name, number in manifest.versions.items()), "\n")),
    )
    metrics = [(name, f"{value:g}") for name, value in manifest.metrics.items()]
    if report.accuracy is not None:
        samples = count(report.accuracy_samples, "sample")
        metrics.append((f"accuracy on {samples}, {report.kernels} kernels", f"{report.accuracy:.4f}"))
    if not metrics:
        remark = "The manifest holds no metrics. bundle.with_metrics({...}) records what was measured on the file."
        return definitions(entries), element("p", remark)
    return definitions(entries), table("Metrics of the .tflite file", ("Metric", "Value"), metrics)


def sizes(bundle: Bundle, file: TfliteFile) -> Section:
    """Returns the size of the file, by number format and by weight."""
    weights = _weights(file)
    total = sum(weight.bytes for weight in weights)
    by_dtype: dict[str, list[Tensor]] = {}
    for weight in weights:
        by_dtype.setdefault(weight.dtype, []).append(weight)
    bytes_of = {dtype: sum(weight.bytes for weight in group) for dtype, group in by_dtype.items()}
    description = "; ".join(f"{dtype} {size:,} bytes" for dtype, size in bytes_of.items())
    formats = (
        (_add_swatch(dtype), len(by_dtype[dtype]), f"{size:,}", _percent(size, total))
        for dtype, size in bytes_of.items()
    )
    shown = weights[:_MAX_WEIGHTS]
    return (
        element(
            "p",
            f"The .tflite file has {bundle.model_bytes:,} bytes. {total:,} of them are weights, "
            f"{_percent(total, bundle.model_bytes)}; the others describe the graph. The whole bundle, golden "
            f"samples and manifest included, has {bundle_bytes(bundle):,} bytes.",
        ),
        element("figure", stacked_bar("Bytes of weights by number format", description or "no weights", bytes_of)),
        table("Weights by number format", ("Format", "Tensors", "Bytes", "Share of weights"), formats),
        table(
            f"The largest weights: {len(shown)} of {len(weights)}",
            ("Weight", "Format", "Shape", "Scales", "Bytes", "Share of file"),
            [_weight_row(weight, bundle.model_bytes) for weight in shown],
            words=(1, 2, 3),
        ),
    )


def operators(report: Report) -> Section:
    """Returns the operators of the graph, and which of them compute in floating point."""
    float_operators = report.float_islands
    total = sum(report.operators.values())

    def row(name: str, number: int) -> tuple[Cell, ...]:
        floats = sum(label.partition(" ")[0] == name for label in float_operators)
        return (name, number, element("span", floats, class_="fail") if floats and report.is_mixed else floats)

    listed = element("ul", *(element("li", element("code", label)) for label in float_operators))
    return (
        element(
            "p",
            f"{count(total, 'operator')}, {len(float_operators)} of them in floating point; QUANTIZE and "
            f"DEQUANTIZE, which only change the format, do not count as such.",
        ),
        table(
            "Operators of the file",
            ("Operator", "Count", "In floating point"),
            [row(name, number) for name, number in report.operators.items()],
        ),
        details("Which operators compute in floating point", listed) if report.is_mixed else "",
    )


def signatures(bundle: Bundle) -> Section:
    """Returns the inputs and outputs of each signature."""
    return tuple(part for entry in bundle.manifest.signatures for part in _signature(entry, bundle.manifest.batch_size))


def _signature(signature: SignatureEntry, batch_size: int | None) -> list[Html]:
    def row(entry: TensorEntry, role: str) -> tuple[Cell, ...]:
        shape: tuple[int | str, ...] = ("any", *entry.shape[1:]) if batch_size is None else entry.shape
        scale = None if entry.scale is None else f"{entry.scale:.6g}"
        return (entry.name, role, entry.dtype, _shape(shape), scale, entry.zero_point, entry.golden_dtype)

    rows = [*(row(e, "input") for e in signature.inputs), *(row(e, "output") for e in signature.outputs)]
    samples = count(signature.golden_samples, "golden step" if signature.states else "golden sample")
    header = ("Tensor", "Kind", "Type", "Shape", "Scale", "Zero point", "Golden values")
    parts = [
        element("h3", "Signature ", element("code", signature.name)),
        table(f"Inputs and outputs, {samples}", header, rows, words=(1, 2, 3, 6)),
        element("p", "value = scale \N{MULTIPLICATION SIGN} (integer - zero point), also where the edge is float32."),
    ]
    if signature.states:
        states = (f"{state.output} \N{RIGHTWARDS ARROW} {state.input}" for state in signature.states)
        parts.append(element("p", "States, the outputs that are inputs of the next step:"))
        parts.append(element("ul", *(element("li", state) for state in states)))
    return parts


def _weights(file: TfliteFile) -> list[Tensor]:
    """Returns the constants of all graphs, each buffer once, the largest first."""
    constants = {tensor.buffer: tensor for graph in file.graphs for tensor in graph.tensors if tensor.is_constant}
    return sorted(constants.values(), key=lambda tensor: -tensor.bytes)


def _weight_row(weight: Tensor, model_bytes: int) -> tuple[Cell, ...]:
    scales = {0: NONE, 1: "1, per tensor"}.get(weight.channels, f"{weight.channels}, per channel")
    share = _percent(weight.bytes, model_bytes)
    return (weight.name, weight.dtype, _shape(weight.shape), scales, f"{weight.bytes:,}", share)


def _add_swatch(dtype: str) -> Html:
    return join([element("span", class_=f"swatch {colour_of(dtype)}"), dtype])


def _labels(labels: Sequence[str] | None) -> Html | str:
    if labels is None:
        return "not stated"
    if len(labels) <= _MAX_LABELS:
        return ", ".join(labels)
    return details(count(len(labels), "class", "classes"), element("ol", *(element("li", x) for x in labels), start=0))


def _shape(shape: Sequence[int | str]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape)) or "scalar"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else NONE
