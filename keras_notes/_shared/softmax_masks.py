"""The distance between masked and unmasked scores before a softmax in integers."""

from __future__ import annotations

__all__ = ["MASK_MARGIN"]

MASK_MARGIN = 12.0
"""How far a masked score is below the lowest unmasked one: exp(-12) is less than half a step of a softmax in int16."""
