"""Argument errors, worded once: what must hold, then what was received, then the remedy."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

__all__ = [
    "check_at_least",
    "check_between",
    "check_choice",
    "check_integer",
    "check_non_negative",
    "check_positive",
    "check_same_shape",
    "differ",
    "one_line",
    "received",
]


def received(**values: Any) -> str:
    """Says what an argument was: `received(gamma=-1)` is `"Received: gamma=-1."`."""
    return "Received: " + ", ".join(f"{name}={value!r}" for name, value in values.items()) + "."


def one_line(text: str, longest: int = 600) -> str:
    """The text on one line, without its middle if it is too long: a damaged file can make a parser say anything."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest // 2]} ... {line[-(longest // 2) :]}"


def _check_finite_number(name: str, value: Any) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number. {received(**{name: value})}")
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite. {received(**{name: value})}")


def check_positive(name: str, value: Any) -> float:
    """Returns `value` as a float, which must be a finite number > 0."""
    _check_finite_number(name, value)
    if value <= 0:
        raise ValueError(f"`{name}` must be > 0. {received(**{name: value})}")
    return float(value)


def check_non_negative(name: str, value: Any) -> float:
    """Returns `value` as a float, which must be a finite number >= 0."""
    _check_finite_number(name, value)
    if value < 0:
        raise ValueError(f"`{name}` must be >= 0. {received(**{name: value})}")
    return float(value)


def check_between(name: str, value: Any, low: float, high: float) -> float:
    """Returns `value` as a float, which must be a finite number in [low, high]."""
    _check_finite_number(name, value)
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be in [{low:g}, {high:g}]. {received(**{name: value})}")
    return float(value)


def check_integer(name: str, value: Any) -> int:
    """Returns `value` as an int, which must be an integer (and not a bool)."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer. {received(**{name: value})}")
    return int(value)


def check_at_least(name: str, value: Any, minimum: int) -> int:
    """Returns `value` as an int, which must be an integer >= `minimum`."""
    value = check_integer(name, value)
    if value < minimum:
        raise ValueError(f"`{name}` must be >= {minimum}. {received(**{name: value})}")
    return value


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Returns `value`, which must be one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. {received(**{name: value})}")
    return value


def differ(first, second) -> bool:
    """Whether two shapes differ in rank, or in a dimension that both know."""
    if len(first) != len(second):
        return True
    return any(a is not None and b is not None and a != b for a, b in zip(first, second, strict=True))


def check_same_shape(y_true, y_pred, *, what_true: str, what_pred: str) -> None:
    """Raises ValueError unless the two shapes are equal, unknown dimensions aside."""
    true_shape, pred_shape = tuple(y_true.shape), tuple(y_pred.shape)
    if differ(true_shape, pred_shape):
        raise ValueError(
            f"{what_true} and {what_pred} must have the same shape. Received: shapes {true_shape} and {pred_shape}."
        )
