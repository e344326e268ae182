"""What is read of a file's objects, or added to them, in more than one place."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

__all__ = ["code_index", "code_of", "name_of"]


def code_of(model: Any, operator: Any) -> int:
    """The built-in operator that an operator is."""
    known = model.operatorCodes[operator.opcodeIndex]
    # Old files have the one, new ones both.
    return max(known.builtinCode, known.deprecatedBuiltinCode)


def code_index(model: Any, code: int) -> int:
    """The number of a built-in operator among those of the file, which is added if it is not there."""
    for index, known in enumerate(model.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
            return index
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = code
    added.version = 2  # int8 and int16
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def name_of(tensor: Any) -> str:
    """The name of a tensor, which is in bytes when it was read."""
    return tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
