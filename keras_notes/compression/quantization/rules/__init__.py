"""Rules for layers and operations: their computation in the integer operators of the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from keras_notes.compression.quantization._evaluator import Operand

__all__ = ["Rule"]

Rule: TypeAlias = Callable[..., Operand | list[Operand]]
"""A function (evaluator, step, *args, **kwargs) that computes a step from the arguments of its layer or operation."""
