"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["align"]


def align(table: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Returns the rows of a table as lines of equal columns.

    Args:
        table: Rows of cells, all of one length.
        left: Number of columns that are aligned to the left; the others are aligned to the right.

    >>> align([["name", "bytes"], ["a", "10"]])
    ['name  bytes', 'a        10']
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
