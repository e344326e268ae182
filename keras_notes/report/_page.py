"""The page around a report: one file that loads nothing, in light and dark, from a phone's width on."""

from __future__ import annotations

import functools
from pathlib import Path

from keras_notes.report._html import Content, join, text

__all__ = ["page"]


def page(title: str, *body: Content) -> str:
    """Returns a page that needs nothing but itself: it may load no script, font or image from anywhere."""
    return _PAGE.format(title=text(title), style=_style(), body=join(body, "\n"))


@functools.cache
def _style() -> str:
    """Returns the style sheet.

    Its colours are Okabe and Ito's hues (https://jfly.uni-koeln.de/color/), darkened on white and lightened on black
    until text in them has a contrast of at least 4.5 on both backgrounds.
    """
    return "\n" + Path(__file__).with_name("page.css").read_text(encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
