"""The operator that gives an output of a file, behind those that only move or convert its values."""

from __future__ import annotations

from keras_notes._litert.model import Operator, TfliteFile

__all__ = ["last_operator"]

_PASSED_BY = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "CAST", "SQUEEZE", "EXPAND_DIMS")


def last_operator(file: TfliteFile, signature: str, output: str) -> Operator | None:
    """Returns the operator that computes an output; None if the output is an input or a constant.

    Args:
        file: The content of the file.
        signature: Name of the signature.
        output: Name of the output.
    """
    entry = next(item for item in file.signatures if item.name == signature)
    makers = {index: operator for operator in file.graph(entry).operators for index in operator.outputs}
    operator = makers.get(entry.outputs[output])
    # As many steps as there are operators: a damaged file may hold a circle.
    for _ in range(len(makers)):
        if operator is None or operator.name not in _PASSED_BY or not operator.inputs:
            return operator
        operator = makers.get(operator.inputs[0])
    return None
