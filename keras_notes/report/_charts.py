"""Charts of the report as inline SVG: widths in percent and heights in pixels, so text keeps its size on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from keras_notes.report._html import Cell, Html, element

__all__ = ["colour_of", "decibels_text", "error_bars", "stacked_bar", "worst_tensors"]

_COLOURS = {
    "int8": "blue",
    "float32": "vermilion",
    "int16": "green",
    "int4": "purple",
    "int2": "purple",
    "float16": "orange",
}
_BAR_HEIGHT = 28
# The plot of `error_bars`, in pixels: its top and bottom, the height of the chart, and the margin on the left that the
# page leaves for the numbers of the scale.
_TOP, _BOTTOM, _HEIGHT, _MARGIN = 30, 230, 270, 34
_MAX_MARKED = 10
# In percent of the plot, so that the bars of a few tensors do not fill it.
_MAX_WIDTH = 5.0


def colour_of(dtype: str) -> str:
    """Returns the style class that gives a number format its colour."""
    return _COLOURS.get(dtype, "grey")


def worst_tensors(decibels: Sequence[float]) -> list[int]:
    """Returns the indices of the tensors with the lowest ratios, the worst first: a tenth of all, 1 to 10."""
    measured = [place for place, value in enumerate(decibels) if math.isfinite(value)]
    count = min(_MAX_MARKED, max(1, len(measured) // 10))
    return sorted(measured, key=lambda place: decibels[place])[:count]


def stacked_bar(title: str, description: str, bytes_of: Mapping[str, int]) -> Html:
    """Returns a bar with a part for each number format, as long as its share of the bytes."""
    total = sum(bytes_of.values()) or 1
    parts = []
    start = 0.0
    for dtype, size in bytes_of.items():
        width = 100 * size / total
        hint = element("title", f"{dtype}: {size:,} bytes")
        place: dict[str, Cell] = {"x": _percent(start), "y": 0, "width": _percent(width), "height": _BAR_HEIGHT}
        parts.append(element("rect", hint, **place, class_=colour_of(dtype)))
        start += width
    return _chart(title, description, "bar", _BAR_HEIGHT, *parts)


def error_bars(title: str, description: str, names: Sequence[str], decibels: Sequence[float]) -> Html:
    """Returns a bar for each tensor in the order of the graph, as high as its signal-to-noise ratio.

    The worst are marked. A tensor without an error has a green bar of full height; one without a ratio has none.
    """
    low, high = _range_of(decibels)
    worst = worst_tensors(decibels)

    def height(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (min(value, high) - low) / (high - low)

    step = 100 / len(decibels)
    width = min(0.8 * step, _MAX_WIDTH)
    bars = []
    for place, (name, value) in enumerate(zip(names, decibels, strict=True)):
        if math.isnan(value):
            continue
        ends = sorted((height(value), height(0)))
        colour = "vermilion" if place in worst else "green" if value == math.inf else "blue"
        bars.append(
            element(
                "rect",
                element("title", f"{name}: {decibels_text(value)}"),
                x=_percent((place + 0.5) * step - width / 2),
                y=f"{ends[0]:.1f}",
                width=_percent(width),
                height=f"{max(1.0, ends[1] - ends[0]):.1f}",
                class_=colour,
            )
        )
    marks = [_worst_mark((worst[0] + 0.5) * step, decibels[worst[0]])] if worst else []
    return _chart(title, description, "errors", _HEIGHT, *_scale(low, high, height), *bars, *marks, *_ends())


def decibels_text(value: float) -> str:
    """Returns a signal-to-noise ratio in words."""
    if math.isnan(value):
        return "not defined"
    # Adding 0.0 makes 0.0 of -0.0.
    return "exact" if value == math.inf else f"{round(value, 1) + 0.0:.1f} dB"


def _range_of(decibels: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of the scale: multiples of 10 around 0 and all finite ratios."""
    finite = [value for value in decibels if math.isfinite(value)]
    return 10 * math.floor(min([*finite, 0.0]) / 10), 10 * math.ceil(max([*finite, 10.0]) / 10)


def _scale(low: float, high: float, height: Callable[[float], float]) -> list[Html]:
    step = 10 * math.ceil((high - low) / 60)
    parts = [element("text", "dB", x=-_MARGIN, y=12)]
    for value in range(int(low), int(high) + 1, step):
        y = f"{height(value):.1f}"
        parts.append(element("line", x1=0, x2="100%", y1=y, y2=y))
        parts.append(element("text", value, x=-_MARGIN, y=f"{height(value) + 4:.1f}"))
    return parts


def _worst_mark(x: float, value: float) -> Html:
    # Towards the middle, where there is room for the words.
    label = f"worst, {decibels_text(value)}"
    words, anchor = (f"▲ {label}", "start") if x < 50 else (f"{label} ▲", "end")
    return element("text", words, x=_percent(x), y=_BOTTOM + 16, text_anchor=anchor, class_="mark")


def _ends() -> list[Html]:
    y = _HEIGHT - 6
    return [
        element("text", "first tensor", x=0, y=y),
        element("text", "last tensor", x="100%", y=y, text_anchor="end"),
    ]


def _chart(title: str, description: str, name: str, height: int, *parts: Html) -> Html:
    ids = f"{name}-title", f"{name}-description"
    labels = element("title", title, id=ids[0]), element("desc", description, id=ids[1])
    return element(
        "svg", *labels, *parts, class_=name, role="img", height=height, aria_labelledby=ids[0], aria_describedby=ids[1]
    )


def _percent(value: float) -> str:
    return f"{value:.3f}%"
