"""The interpreter of a program: it computes each step by the rule for its layer or operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
from keras import tree

from keras_notes._shared.keras_internals import takes_training
from keras_notes._shared.types import Operation, Tensor, Tree
from keras_notes.compression.quantization._evaluator import (
    Evaluator,
    Operand,
    Rounded,
    is_operand,
    tensor_of,
)
from keras_notes.compression.quantization._tracer import Program, Ref, Refusal, Step, StepsRefusedError
from keras_notes.compression.quantization.rules import Rule
from keras_notes.compression.quantization.rules._activations import ACTIVATION_LAYERS
from keras_notes.compression.quantization.rules._attention import ATTENTION_OPERATIONS
from keras_notes.compression.quantization.rules._conv3d import VOLUME_LAYERS
from keras_notes.compression.quantization.rules._dense_and_conv import WEIGHTED_LAYERS
from keras_notes.compression.quantization.rules._merging import OPERATION_LAYERS, OPERATIONS
from keras_notes.compression.quantization.rules._normalization import NORMALIZATION_LAYERS, NORMALIZATION_OPERATIONS
from keras_notes.compression.quantization.rules._recurrent import RECURRENT_LAYERS
from keras_notes.compression.quantization.rules._shapes import SHAPE_LAYERS, SHAPE_OPERATIONS

__all__ = ["has_rule", "interpret"]

_BY_TYPE: dict[type[keras.Layer], Rule] = {
    **WEIGHTED_LAYERS, **ACTIVATION_LAYERS, **SHAPE_LAYERS, **VOLUME_LAYERS, **OPERATION_LAYERS, **RECURRENT_LAYERS,
    **NORMALIZATION_LAYERS,
}  # fmt: skip
# Activations, layers and operations that LiteRT fuses to what is before them, or that round it to their own grid.
_FUSED = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)
_FUSING = (
    keras.layers.BatchNormalization,
    keras.layers.ReLU,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Identity,
)
_FUSING_OPERATIONS = ("Add", "Relu", "Relu6", "Concatenate", "Stack", "Maximum", "Where")
_BY_NAME: dict[str, Rule] = {
    **SHAPE_OPERATIONS, **OPERATIONS, **ATTENTION_OPERATIONS, **NORMALIZATION_OPERATIONS,
}  # fmt: skip


def has_rule(operation: Operation) -> bool:
    """Whether there is a rule for a layer or operation, so that the device can compute it in integers."""
    return _rule(operation) is not None


def interpret(
    program: Program,
    evaluator: Evaluator,
    inputs: Sequence[Tensor],
    names: Sequence[str],
    refusals: list[Refusal] | None = None,
) -> Tree:
    """Computes the outputs of a program, in their structure.

    Args:
        program: Program.
        evaluator: Evaluator that calibrates, simulates or emits the steps.
        inputs: Tensors, in the order of the program's inputs.
        names: Names of the points where the inputs are rounded.
        refusals: List that gets the steps whose rule refuses them, which are then computed in floating point.

    Raises:
        StepsRefusedError: If a rule refuses a step, and there is no list for it.
    """
    table: dict[int, Operand] = {
        number: Rounded(tensor, None, name) for number, tensor, name in zip(program.inputs, inputs, names, strict=True)
    }

    scopes = {step.name: step.path for step in program.steps}

    def materialize(value: Operand) -> Rounded:
        return _materialize(evaluator, value, scopes)

    def look_up(leaf: Tree) -> Tree:
        if not isinstance(leaf, Ref):
            return leaf
        # A value with several users is rounded once for all of them, and nothing can be fused to it.
        if program.uses[leaf.index] > 1:
            table[leaf.index] = evaluator.to_grid(materialize(table[leaf.index]))
        return table[leaf.index]

    for step in program.steps:
        args, kwargs = tree.map_structure(look_up, (step.args, step.kwargs))
        if not _takes_unrounded(step):
            args, kwargs = tree.map_structure(
                lambda leaf: materialize(leaf) if is_operand(leaf) else leaf, (args, kwargs)
            )
        with evaluator.scope(step.path, step.operation):
            try:
                results = _run_step(evaluator, step, args, kwargs)
            except StepsRefusedError as error:
                if refusals is None:
                    raise
                refusals.extend(error.refusals)
                args, kwargs = tree.map_structure(
                    lambda leaf: materialize(leaf) if is_operand(leaf) else leaf, (args, kwargs)
                )
                results = _run_float(evaluator, step, args, kwargs)
        flat = results if isinstance(results, list) else [results]
        table.update(zip(step.outputs, flat, strict=True))
    return tree.map_structure(
        lambda leaf: materialize(table[leaf.index]).tensor if isinstance(leaf, Ref) else leaf,
        program.outputs,
    )


def _rule(operation: Operation) -> Rule | None:
    if isinstance(operation, keras.Layer):
        return _BY_TYPE.get(type(operation))
    return _BY_NAME.get(type(operation).__name__)


def _takes_unrounded(step: Step) -> bool:
    """Whether a step can be fused to the results that it takes, or rounds them to its own grid."""
    if not step.computes_integers:
        return False
    operation_class = type(step.operation)
    if operation_class is keras.layers.Activation:
        return step.operation.activation in _FUSED
    if isinstance(step.operation, keras.Layer):
        return operation_class in _FUSING
    return operation_class.__name__ in _FUSING_OPERATIONS


def _materialize(evaluator: Evaluator, value: Operand, scopes: Mapping[str, tuple[str, ...]]) -> Rounded:
    """Rounds a value in the scope of the layer that computed it, so that its operators are named after that layer.

    Args:
        evaluator: Evaluator.
        value: Value.
        scopes: Paths of the steps by name; the name of a point begins with that of its step.
    """
    if isinstance(value, Rounded):
        return value
    name = value.name
    while name and name not in scopes:
        name = name.rpartition("/")[0]
    with evaluator.scope(scopes.get(name, ())):
        return evaluator.materialize(value)


def _run_step(evaluator: Evaluator, step: Step, args: Tree, kwargs: Tree) -> Operand | list[Operand]:
    rule = _rule(step.operation)
    if step.computes_integers and rule is not None:
        keywords = {name: value for name, value in kwargs.items() if name != "training" and value is not None}
        try:
            return rule(evaluator, step, *args, **keywords)
        except ValueError as error:  # what the kernels of the device cannot compute
            raise StepsRefusedError([Refusal(step.path, str(error))]) from error
    return _run_float(evaluator, step, args, kwargs)


def _run_float(evaluator: Evaluator, step: Step, args: Tree, kwargs: Tree) -> list[Operand]:
    args, kwargs = tree.map_structure(tensor_of, (args, kwargs))
    if isinstance(step.operation, keras.Layer) and takes_training(step.operation):
        kwargs = {**kwargs, "training": evaluator.training}
    outputs = tree.flatten(step.operation(*args, **kwargs))
    names = [step.name if number == 0 else f"{step.name}/{number}" for number in range(len(outputs))]
    return [Rounded(output, None, name) for output, name in zip(outputs, names, strict=True)]
