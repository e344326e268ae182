"""Helpers of the tests of the report: a page as its readers see it, and reports with figures that a test can know."""

from __future__ import annotations

import dataclasses
import html.parser
import json
from pathlib import Path
from typing import Any

from keras_notes.benchmarking import BenchReport, BenchRow, Ratio
from keras_notes.bundle import TENSORS_FILE, Bundle
from keras_notes.report import write_report
from tests.support.bundles import MODEL_FILE, TESTDATA, rewrite

# What must not become markup, whoever wrote it into a bundle.
MARKUP = "<script>alert('x')</script>&\"<b>"

# A benchmark of the testdata bundle, drawn.
MODEL_BYTES = (TESTDATA / MODEL_FILE).stat().st_size
ROW = BenchRow("A", "bars", "static_int8", 3, 11.125, 12.25, 13.5, 14.75, 15_000_001, MODEL_BYTES, 16_000_002)
OTHER_ROW = dataclasses.replace(ROW, bundle="B", name="second", recipe="float32", p50_ms=27.0, peak_bytes=None)
BENCH = BenchReport("builtin", "9.8.7", "Linux of tests", 5, 41, 7, (ROW,), ())
BENCH_OF_TWO = dataclasses.replace(BENCH, rows=(ROW, OTHER_ROW), ratios=(Ratio(3, 0.5, 0.25, 0.75),))


_VOID = {"meta", "wbr"}


class Page(html.parser.HTMLParser):
    """Text and elements of a page; raises AssertionError where tags are not balanced or an attribute is there twice.

    Attributes:
        source: The page as it was written.
        text: What readers see, but for headings and tables' captions.
        elements: Tag, attributes and pieces of text of every element.
        tables: The texts of the cells of each table, row by row with the header first, by the table's caption.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, Any], list[str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[tuple[str, dict[str, Any], list[str]]] = []
        self.feed(self.source)
        self.close()
        assert self._open == [], "tags that are not closed"
        seen = ("p", "li", "dd", "td", "th", "h1", "span")
        self.text = " ".join("".join(texts) for tag, _, texts in self.elements if tag in seen)

    def handle_starttag(self, tag, attrs):
        entry = (tag, dict(attrs), [])
        assert len(dict(attrs)) == len(attrs), attrs
        self.elements.append(entry)
        if tag not in _VOID:
            self._open.append(entry)
        if tag == "tr":
            self._row = []
        if tag == "table":
            self._rows = []

    def handle_endtag(self, tag):
        opened, _, texts = self._open.pop()
        assert opened == tag
        if tag in ("th", "td"):
            self._row.append("".join(texts))
        if tag == "tr":
            self._rows.append(self._row)
        if tag == "caption":
            self._caption = "".join(texts)
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, tag: str) -> list[tuple[dict[str, Any], str]]:
        """Attributes and text of all elements of a tag."""
        return [(attributes, "".join(texts)) for name, attributes, texts in self.elements if name == tag]


def page_of(bundle: Bundle | Path, directory: Path, **options: Any) -> Page:
    """The page of the testdata bundle or a changed copy; the benchmark is drawn, not run."""
    return Page(write_report(bundle, directory / "report.html", **{"bench": BENCH, **options}))


def shape(*sizes: Any) -> str:
    """A shape as the page writes it."""
    return " \N{MULTIPLICATION SIGN} ".join(map(str, sizes))


def terms_of(page: Page) -> dict[str, str]:
    """The page's explanations by term."""
    return dict(zip([text for _, text in page.all("dt")], [text for _, text in page.all("dd")], strict=True))


def tensor(name: str, error_squares: float, squares: float = 100.0, **changes: Any) -> dict[str, Any]:
    """An entry of tensors.json."""
    values = {"scale": 0.5, "size": 16, "error_squares": error_squares, "squares": squares}
    return {"name": name, **values, "max_error": 0.25, "max_value": 4.0, **changes}


def keep_tensors(directory: Path, entries: list[dict[str, Any]]) -> None:
    """Has a bundle keep these errors of its tensors."""
    rewrite(directory, TENSORS_FILE, json.dumps(entries).encode())
