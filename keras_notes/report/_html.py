"""HTML from plain values. Everything that is not `Html` is text and is escaped: the names in a bundle are untrusted.

>>> print(element("p", "1 < 2 ", element("b", "yes"), class_="note"))
<p class="note">1 &lt; 2 <b>yes</b></p>
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeAlias

__all__ = ["NONE", "Cell", "Content", "Html", "count", "definitions", "details", "element", "join", "table", "text"]

# The content of a cell without a value.
NONE = "\N{EN DASH}"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Content: TypeAlias = str | float
"""HTML, text to escape, or a number."""

Cell: TypeAlias = Content | None
"""A cell of a table; None for a missing value."""


def text(value: Content) -> Html:
    """Returns a value as HTML; control characters and lone surrogates, which HTML forbids, become U+FFFD."""
    if isinstance(value, Html):
        return value
    allowed = (c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in str(value))
    return Html(html.escape("".join(allowed)))


def join(parts: Iterable[Content], between: Content = "") -> Html:
    """Returns parts one after the other, with `between` between them."""
    return Html(text(between).join(text(part) for part in parts))


def element(tag: str, *children: Content, **attributes: Cell) -> Html:
    """Returns `<tag name="value">children</tag>`.

    Args:
        tag: Name of the element.
        *children: Content of the element.
        **attributes: Attributes by name, with "_" for "-" and `class_` for "class"; None leaves an attribute out.
    """
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    opening = "".join(f' {name}="{text(value)}"' for name, value in named)
    return Html(f"<{tag}{opening}>{join(children)}</{tag}>")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Cell]], words: Sequence[int] = ()) -> Html:
    """Returns a table that scrolls by itself where the page is too narrow for it.

    Args:
        caption: Title of the table, also for screen readers.
        header: Title of each column.
        rows: Cells of each row; the first is the row's header.
        words: Columns, besides the first, that hold words; all others hold numbers and are aligned to the right.
    """

    def side(column: int) -> str | None:
        return None if column == 0 or column in words else "number"

    def cell(column: int, value: Cell) -> Html:
        content = NONE if value is None else value
        if column == 0:
            return element("th", _breakable(content), scope="row")
        return element("td", content, class_=side(column))

    head = element("tr", *(element("th", name, scope="col", class_=side(i)) for i, name in enumerate(header)))
    body = (element("tr", *(cell(column, value) for column, value in enumerate(row))) for row in rows)
    content = (element("caption", caption), element("thead", head), element("tbody", *body))
    # Focusable, so that it can be scrolled with the keyboard.
    return element("div", element("table", *content), class_="scroll", role="group", tabindex="0", aria_label=caption)


def _breakable(value: Content) -> Html:
    """Returns a value that a narrow column breaks after the separators in names of tensors, rather than anywhere."""
    return value if isinstance(value, Html) else join(re.split(r"(?<=[/_;])", str(value)), Html("<wbr>"))


def definitions(entries: Iterable[tuple[Content, Cell]], class_: str | None = None) -> Html:
    """Returns a list of terms, each with its description."""
    return element(
        "dl",
        *(
            element("div", element("dt", term), element("dd", NONE if value is None else value))
            for term, value in entries
        ),
        class_=class_,
    )


def details(summary: Content, *children: Content) -> Html:
    """Returns content that a reader can unfold below a summary."""
    return element("details", element("summary", summary), *children)


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Returns a number with its noun in the singular or plural.

    >>> count(1, "sample"), count(2000, "sample"), count(2, "class", "classes")
    ('1 sample', '2,000 samples', '2 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
