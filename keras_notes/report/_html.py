"""HTML out of plain values. What is not `Html` already is text, and is escaped: a bundle's names are not to be trusted.

>>> print(element("p", "1 < 2 ", element("b", "yes"), class_="note"))
<p class="note">1 &lt; 2 <b>yes</b></p>
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["NONE", "Html", "count", "definitions", "details", "element", "joined", "table", "text"]

# What stands in a cell without a value.
NONE = "\N{EN DASH}"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: Any) -> Html:
    """A value as HTML. Control characters and lone surrogates, which no HTML file may hold, become U+FFFD."""
    if isinstance(value, Html):
        return value
    allowed = (c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in str(value))
    return Html(html.escape("".join(allowed)))


def joined(parts: Iterable[Any], between: Any = "") -> Html:
    """Parts one after the other."""
    return Html(text(between).join(text(part) for part in parts))


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """`<tag name="value">children</tag>`; `aria_label` is aria-label, `class_` is class; None leaves one out."""
    given = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    opening = "".join(f' {name}="{text(value)}"' for name, value in given)
    return Html(f"<{tag}{opening}>{joined(children)}</{tag}>")


def table(caption: Any, header: Sequence[Any], rows: Iterable[Sequence[Any]], words: Sequence[int] = ()) -> Html:
    """A table that scrolls on its own where the page is too narrow for it.

    Args:
        caption: What it shows; also the name under which a screen reader offers it.
        header: One cell a column.
        rows: Cells; the first of each row is the row's header. None is a cell without a value.
        words: The columns, beside the first, that hold words; all others hold numbers and are aligned to the right.
    """

    def side(column: int) -> str | None:
        return None if column == 0 or column in words else "number"

    def cell(column: int, value: Any) -> Html:
        content = NONE if value is None else value
        if column == 0:
            return element("th", _breakable(content), scope="row")
        return element("td", content, class_=side(column))

    head = element("tr", *(element("th", name, scope="col", class_=side(i)) for i, name in enumerate(header)))
    body = (element("tr", *(cell(column, value) for column, value in enumerate(row))) for row in rows)
    content = (element("caption", caption), element("thead", head), element("tbody", *body))
    # Focusable, so that it can be scrolled with the keyboard.
    return element("div", element("table", *content), class_="scroll", role="group", tabindex="0", aria_label=caption)


def _breakable(value: Any) -> Html:
    """A value that a narrow column breaks behind what divides the names of tensors, rather than anywhere."""
    return value if isinstance(value, Html) else joined(re.split(r"(?<=[/_;])", str(value)), Html("<wbr>"))


def definitions(entries: Iterable[tuple[Any, Any]], class_: str | None = None) -> Html:
    """A list of terms and what they stand for."""
    return element(
        "dl",
        *(
            element("div", element("dt", term), element("dd", NONE if value is None else value))
            for term, value in entries
        ),
        class_=class_,
    )


def details(summary: Any, *children: Any) -> Html:
    """What a reader may unfold."""
    return element("details", element("summary", summary), *children)


def count(number: int, one: str, several: str | None = None) -> str:
    """A number of things in words.

    >>> count(1, "sample"), count(2000, "sample"), count(2, "class", "classes")
    ('1 sample', '2,000 samples', '2 classes')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"
