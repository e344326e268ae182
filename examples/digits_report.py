"""The report of `teacher_to_device.py`: report.json, and report.html with pictures, which opens offline."""

from __future__ import annotations

import html
import json

import numpy as np
from figure_page import BLUE, GREEN, GREY, PURPLE, VERMILION, page, svg
from matplotlib import pyplot as plt

# One a row of the table.
COLOURS = (BLUE, VERMILION, GREY, GREEN, PURPLE)
MOST_MISTAKES = 12

BODY = """<p>{summary}</p>
<div class="scroll"><table>
<thead><tr><th>Model</th><th>Parameters</th><th>File, bytes</th><th>Test accuracy</th><th>Least to largest</th>
<th>Latency p50, ms</th><th>Largest error, LSB</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p>Accuracies are means over {seeds}, each with its own teacher; files, latencies and pictures are those of the
first seed. Latencies are medians of interleaved runs on one thread of this machine: compare them with one another.</p>
{figures}
<h2>Verification of the int8 file</h2>
<pre>{verification}</pre>
"""


def write_report(output, rows, curves, images, labels, predicted, verification):
    """Writes report.json and report.html into the directory `output`.

    Args:
        output: A `pathlib.Path`; it is made if need be.
        rows: The rows of the table, as dicts.
        curves: Test accuracy on the way as {epoch: accuracy}, by row name.
        images: Test images of shape (samples, 8, 8, 1).
        labels: Their classes.
        predicted: The classes that the int8 file gives them.
        verification: The text of the verification report.
    """
    output.mkdir(parents=True, exist_ok=True)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    figures = {"rows": rows, "curves": curves, "confusion_int8": confusion.tolist()}
    (output / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    pictures = (
        (
            "Training",
            _curves(rows, curves),
            "Accuracy on the test images. No epoch was chosen by it: the last one counts.",
        ),
        ("Accuracy against size", _accuracy_against_size(rows), "Mean over the seeds; bars from least to largest."),
        ("Confusion matrix of the int8 file", _confusion(confusion), "Rows: true digit. Columns: what the file says."),
        ("Wrongly classified digits", _mistakes(images, labels, predicted), _mistakes_caption(labels, predicted)),
    )
    body = BODY.format(
        summary=_summary(rows),
        rows="\n".join(map(_table_row, rows)),
        seeds="1 seed" if len(rows[0]["accuracy_by_seed"]) == 1 else f"{len(rows[0]['accuracy_by_seed'])} seeds",
        figures="\n".join(_figure(*picture) for picture in pictures),
        verification=html.escape(verification),
    )
    title = "Digits: from a teacher to a device"
    (output / "report.html").write_text(page(title, body, figure_width="44rem"))


def _summary(rows):
    teacher, few, everything, distilled, int8 = rows
    return (
        f"With labels for a tenth of the images, the student reaches {few['accuracy']:.4f} from the labels alone and "
        f"{distilled['accuracy']:.4f} with the teacher's soft labels for the rest; from all labels it reaches "
        f"{everything['accuracy']:.4f}, the teacher {teacher['accuracy']:.4f}. As int8 it keeps "
        f"{int8['accuracy']:.4f} in 1/{teacher['bytes'] / int8['bytes']:.0f} of the teacher's bytes."
    )


def _table_row(row):
    error = "-" if row["max_error_lsb"] is None else f"{row['max_error_lsb']:.1f}"
    cells = (
        html.escape(row["name"]),
        f"{row['parameters']:,}",
        f"{row['bytes']:,}",
        f"{row['accuracy']:.4f}",
        f"{min(row['accuracy_by_seed']):.4f} to {max(row['accuracy_by_seed']):.4f}",
        f"{row['latency_ms_p50']:.4f}",
        error,
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _figure(title, figure, caption):
    picture = f"{svg(figure, title)}<figcaption>{html.escape(caption)}</figcaption>"
    return f"<h2>{html.escape(title)}</h2>\n<figure>{picture}</figure>"


def _curves(rows, curves):
    figure, axes = plt.subplots(figsize=(8, 4))
    for row, colour in zip(rows, COLOURS, strict=True):
        if row["name"] in curves:
            curve = curves[row["name"]]
            axes.plot(list(curve), list(curve.values()), "o-", ms=3, label=row["name"], color=colour)
    axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(0.6, 1.0))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def _accuracy_against_size(rows):
    figure, axes = plt.subplots(figsize=(8, 4))
    for row, colour in zip(rows, COLOURS, strict=True):
        mean, seeds = row["accuracy"], row["accuracy_by_seed"]
        spread = [[mean - min(seeds)], [max(seeds) - mean]]
        axes.errorbar(row["bytes"], mean, yerr=spread, fmt="o", ms=8, capsize=4, color=colour, label=row["name"])
    axes.set(xlabel="size of the .tflite file, bytes", ylabel="test accuracy", xscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    return figure


def _confusion(confusion):
    figure, axes = plt.subplots(figsize=(5.5, 5))
    axes.imshow(np.sqrt(confusion), cmap="Blues")
    axes.grid(visible=False)
    for true, predicted in np.argwhere(confusion > 0):
        count = confusion[true, predicted]
        is_dark = count > confusion.max() / 3
        axes.text(predicted, true, count, ha="center", va="center", color="white" if is_dark else "black")
    axes.set(xticks=range(10), yticks=range(10), xlabel="predicted", ylabel="true")
    return figure


def _mistakes(images, labels, predicted):
    wrong = np.flatnonzero(labels != predicted)[:MOST_MISTAKES]
    figure, grid = plt.subplots(2, MOST_MISTAKES // 2, figsize=(8, 3.4))
    for axes in grid.flat:
        axes.axis("off")
    for axes, index in zip(grid.flat, wrong, strict=False):
        axes.imshow(images[index, :, :, 0], cmap="Greys", vmin=0, vmax=1)
        axes.set_title(f"{labels[index]} read as {predicted[index]}", fontsize=9)
    return figure


def _mistakes_caption(labels, predicted):
    wrong = int((labels != predicted).sum())
    return f"{wrong} of {len(labels)} test images are wrong; the first {min(wrong, MOST_MISTAKES)} are shown."
