"""The grids of fused LSTMs in integers: those that the kernel computes with."""

from __future__ import annotations

import copy

from ai_edge_litert import schema_py_generated as schema

from keras_notes.conversion.passes._schema import code_of, name_of, new_operator

__all__ = ["fit_fused_grids"]

# The places of the states among the inputs of the operator, and of the grid among its intermediate tensors.
_HIDDEN, _CELL, _GRID = 18, 19, 4
# The tanh of the kernel knows no cell state in finer steps, and leaves its result as it was in memory.
_SMALLEST_CELL_STEP = 2.0**-15
_QUANTIZE_OPTIONS = schema.BuiltinOptions.QuantizeOptions


def fit_fused_grids(model: schema.ModelT) -> bool:
    """Gives the states and the result of each fused LSTM the grids that the kernel computes with.

    LiteRT's converter gives the result and the hidden state other grids where the result is joined with another tensor,
    as in a bidirectional layer; the kernel does not look at those, and the next step and the next layer then read wrong
    values. The result is requantized to the grid that the layers after it expect.

    Args:
        model: A quantized file.
    """
    changed = False
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            operators.append(operator)
            is_fused = code_of(model, operator) == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
            if is_fused and graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8:
                changed |= _fit_states(graph, operator)
                if (requantize := _split_result(model, graph, operator)) is not None:
                    operators.append(requantize)
                    changed = True
        graph.operators = operators
    return changed


def _fit_states(graph: schema.SubGraphT, operator: schema.OperatorT) -> bool:
    """Gives the states their grids; returns whether they had others."""
    hidden, cell = (graph.tensors[operator.inputs[place]] for place in (_HIDDEN, _CELL))
    grid = graph.tensors[operator.intermediates[_GRID]].quantization
    is_fine = float(cell.quantization.scale[0]) < _SMALLEST_CELL_STEP
    changed = is_fine or not _is_same(hidden.quantization, grid)
    hidden.quantization = copy.copy(grid)
    if is_fine:
        cell.quantization = copy.copy(cell.quantization)
        cell.quantization.scale = [_SMALLEST_CELL_STEP]
    return changed


def _split_result(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> schema.OperatorT | None:
    """Gives an operator a result in the grid of the kernel; returns the operator that requantizes it, if necessary."""
    grid, outside = graph.tensors[operator.intermediates[_GRID]].quantization, int(operator.outputs[0])
    if _is_same(graph.tensors[outside].quantization, grid):
        return None
    inside = copy.copy(graph.tensors[outside])
    inside.name, inside.quantization = f"{name_of(inside)}#before_the_join".encode(), copy.copy(grid)
    graph.tensors.append(inside)
    operator.outputs = [len(graph.tensors) - 1]
    options = _QUANTIZE_OPTIONS, schema.QuantizeOptionsT()
    return new_operator(model, schema.BuiltinOperator.QUANTIZE, list(operator.outputs), outside, options)


def _is_same(grid: schema.QuantizationParametersT, other: schema.QuantizationParametersT) -> bool:
    return bool(grid.scale[0] == other.scale[0] and grid.zeroPoint[0] == other.zeroPoint[0])
