"""What the examples share: colours, and a page of figures that opens offline; the smaller ones options and tables."""

from __future__ import annotations

import argparse
import html
import io
import json
import re
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("svg")
# Names inside the pictures follow from their content: the same figures give the same file.
mpl.rcParams["svg.hashsalt"] = "keras_notes"
mpl.rcParams["axes.grid"] = True
mpl.rcParams["grid.alpha"] = 0.3
mpl.rcParams["axes.axisbelow"] = True

# Okabe and Ito's colours, told apart with any colour vision (https://jfly.uni-koeln.de/color/).
BLUE, VERMILION, GREY, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#777777", "#009E73", "#CC79A7", "#E69F00"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .4rem .5rem; text-align: right; border-bottom: 1px solid var(--line); }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
figure {{ margin: 0; }} figcaption {{ font-size: .9rem; opacity: .8; }}
svg {{ width: 100%; max-width: {figure_width}; height: auto; background: #fff; border-radius: .4rem; }}
pre {{ overflow-x: auto; padding: .8rem; border: 1px solid var(--line); border-radius: .4rem; font-size: .85rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


class Section(NamedTuple):
    """One claim: a heading, paragraphs, and what was measured as a table (plain text) and a figure.

    `name` is the stem of the figure's .svg file; blank lines part the paragraphs of `text`.
    """

    name: str
    title: str
    text: str
    table: str
    figure: plt.Figure
    caption: str


def start(doc, name, seeds=None, *, counts=()):
    """Reads the options, --output among them, then prints the protocol: the part of `doc` that declares it.

    Args:
        doc: The example's docstring.
        name: Of the directory in build/ that --output defaults to.
        seeds: Default of the option --seeds; None leaves it out.
        counts: Further whole numbers to ask for: (name, default, minimum, help).
    """
    if seeds is not None:
        counts = (("seeds", seeds, 1, "how often everything is repeated"), *counts)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default, _, text in counts:
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N", help=text)
    parser.add_argument("--output", type=Path, default=Path("build") / name, metavar="DIR")
    options = parser.parse_args()
    for option, _, minimum, _ in counts:
        if getattr(options, option) < minimum:
            parser.error(f"--{option} must be >= {minimum}. Received: {getattr(options, option)}.")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a directory, or a name not taken yet. Received: {options.output}, a file.")
    print(doc.partition("Protocol")[2].partition("\n\n")[2].rpartition("\n\n")[0], flush=True)
    return options


def text_table(header, rows):
    """Rows of cells as aligned text: the first column to the left, the others to the right."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def spread(values, digits=3):
    """Mean, least and largest as text."""
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def write_page(output, title, doc, sections, report):
    """Writes report.html, report.json and one .svg a section into the directory `output`.

    Args:
        output: A `pathlib.Path`; it is made if need be.
        title: Heading of the page.
        doc: The example's docstring, parts of which stand above the sections.
        sections: `Section` objects; their figures are closed.
        report: The measured figures, as anything that json can write.
    """
    output.mkdir(parents=True, exist_ok=True)
    body = [_lead(doc)]
    for section in sections:
        picture = svg(section.figure, f"{section.title}. {section.caption}")
        (output / f"{section.name}.svg").write_text(picture)
        body += [
            f"<h2>{html.escape(section.title)}</h2>",
            _paragraphs(section.text),
            f"<figure>{picture}<figcaption>{html.escape(section.caption)}</figcaption></figure>",
            f"<pre>{html.escape(section.table)}</pre>",
        ]
    (output / "report.html").write_text(page(title, "\n".join(body)))
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def _lead(doc):
    """Of a docstring (summary, command, announcement, protocol, more paragraphs, what it leaves) what readers need."""
    summary, _, _, protocol, *more, _ = doc.split("\n\n")
    items = "".join(f"<li>{html.escape(item)}</li>" for item in protocol.removeprefix("* ").split("\n* "))
    details = f"<details><summary>Protocol, declared before anything ran</summary><ul>{items}</ul></details>"
    return "\n".join([_paragraphs(summary), *map(_paragraphs, more), details])


def _paragraphs(text):
    return "\n".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n") if part)


def page(title, body, *, figure_width="100%"):
    """A page that opens offline, around a body of HTML."""
    return PAGE.format(title=html.escape(title), body=body, figure_width=figure_width)


def svg(figure, label):
    """The figure as one <svg> element, without what an HTML page may not hold around it."""
    picture = io.StringIO()
    figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = picture.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
