"""Runs a program by an arithmetic: each step by its rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from keras_notes.compression.quantization._evaluator import Arithmetic, Pending, Product, Value
from keras_notes.compression.quantization._tracer import Program, Ref, Step
from keras_notes.compression.quantization.rules._activations import ACTIVATION_LAYERS
from keras_notes.compression.quantization.rules._attention import ATTENTION_OPERATIONS
from keras_notes.compression.quantization.rules._conv3d import VOLUME_LAYERS
from keras_notes.compression.quantization.rules._dense_and_conv import WEIGHTED_LAYERS
from keras_notes.compression.quantization.rules._merging import OPERATION_LAYERS, OPERATIONS
from keras_notes.compression.quantization.rules._normalization import NORMALIZATION_LAYERS, NORMALIZATION_OPERATIONS
from keras_notes.compression.quantization.rules._recurrent import RECURRENT_LAYERS
from keras_notes.compression.quantization.rules._shapes import SHAPE_LAYERS, SHAPE_OPERATIONS

__all__ = ["has_rule", "run"]

_BY_TYPE: dict[Any, Callable] = {
    **WEIGHTED_LAYERS, **ACTIVATION_LAYERS, **SHAPE_LAYERS, **VOLUME_LAYERS, **OPERATION_LAYERS, **RECURRENT_LAYERS,
    **NORMALIZATION_LAYERS,
}  # fmt: skip
_FUSED = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)
_FUSING = (
    keras.layers.BatchNormalization,
    keras.layers.ReLU,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Identity,
)
_FUSING_OPERATIONS = ("Add", "Relu", "Relu6", "Concatenate", "Stack", "Maximum", "Where")
_BY_NAME: dict[str, Callable] = {
    **SHAPE_OPERATIONS, **OPERATIONS, **ATTENTION_OPERATIONS, **NORMALIZATION_OPERATIONS,
}  # fmt: skip


def has_rule(operation: Any) -> bool:
    """Whether the device has integer operators for a layer or operation."""
    return _rule(operation) is not None


def run(program: Program, arithmetic: Arithmetic, inputs: Sequence[Any], names: Sequence[str]) -> Any:
    """The outputs of a program, in their structure, for its inputs in order.

    Args:
        program: The program.
        arithmetic: Who computes.
        inputs: Tensors.
        names: Of the points where the inputs are rounded.
    """
    table: dict[int, Any] = {
        number: Value(tensor, None, name) for number, tensor, name in zip(program.inputs, inputs, names, strict=True)
    }

    def entry(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        # What several take is rounded once for all of them, and nothing can be fused to it.
        if program.uses[leaf.index] > 1:
            table[leaf.index] = arithmetic.quantized(_settled(arithmetic, table[leaf.index]))
        return table[leaf.index]

    for step in program.steps:
        args, kwargs = tree.map_structure(entry, (step.args, step.kwargs))
        if not _takes_pending(step):
            args, kwargs = tree.map_structure(lambda leaf: _settled(arithmetic, leaf), (args, kwargs))
        with arithmetic.scope(step.path):
            results = _run_step(arithmetic, step, args, kwargs)
        flat = results if isinstance(results, (list, tuple)) else [results]
        table.update(zip(step.outputs, flat, strict=True))
    return tree.map_structure(
        lambda leaf: _settled(arithmetic, table[leaf.index]).tensor if isinstance(leaf, Ref) else leaf, program.outputs
    )


def _rule(operation: Any) -> Callable | None:
    if isinstance(operation, keras.Layer):
        return _BY_TYPE.get(type(operation))
    return _BY_NAME.get(type(operation).__name__)


def _takes_pending(step: Step) -> bool:
    """Whether a step may be fused to what it takes, or take it to its own grid."""
    if not step.computes_integers:
        return False
    kind = type(step.operation)
    if kind is keras.layers.Activation:
        return step.operation.activation in _FUSED
    return kind in _FUSING or (not isinstance(step.operation, keras.Layer) and kind.__name__ in _FUSING_OPERATIONS)


def _settled(arithmetic: Arithmetic, value: Any) -> Any:
    """Rounds what is pending, outside of the layer that takes it, so that it bears the name of its own."""
    if not isinstance(value, (Pending, Product)):
        return value
    with arithmetic.scope(tuple(value.name.partition("#")[0].split("/"))):
        return arithmetic.settled(value)


def _run_step(arithmetic: Arithmetic, step: Step, args: Any, kwargs: Any) -> Any:
    rule = _rule(step.operation)
    if step.computes_integers and rule is not None:
        given = {name: value for name, value in kwargs.items() if name != "training" and value is not None}
        return rule(arithmetic, step, *args, **given)
    return _run_float(arithmetic, step, args, kwargs)


def _run_float(arithmetic: Arithmetic, step: Step, args: Any, kwargs: Any) -> Any:
    def tensor(leaf: Any) -> Any:
        settled = arithmetic.settled(leaf)
        return settled.tensor if isinstance(settled, Value) else settled

    args, kwargs = tree.map_structure(tensor, (args, kwargs))
    if isinstance(step.operation, keras.Layer) and step.operation._call_has_training_arg:
        kwargs = {**kwargs, "training": arithmetic.training}
    outputs = tree.flatten(step.operation(*args, **kwargs))
    names = [step.name if number == 0 else f"{step.name}/{number}" for number in range(len(outputs))]
    return [Value(output, None, name) for output, name in zip(outputs, names, strict=True)]
