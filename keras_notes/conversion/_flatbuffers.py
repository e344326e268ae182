"""What is read of a file's objects in more than one place."""

from __future__ import annotations

from typing import Any

__all__ = ["code_of", "name_of"]


def code_of(model: Any, operator: Any) -> int:
    """The built-in operator that an operator is."""
    known = model.operatorCodes[operator.opcodeIndex]
    # Old files have the one, new ones both.
    return max(known.builtinCode, known.deprecatedBuiltinCode)


def name_of(tensor: Any) -> str:
    """The name of a tensor, which is in bytes when it was read."""
    return tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
