"""The steps of a model: its layers and operations in the order in which they run, nested and subclassed models open.

A layer without a rule of its own is opened by calling its `call` with symbolic tensors, which shows what it is made of
as long as that is layers and `keras.ops`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from keras_notes._shared.checks import one_line

__all__ = ["Program", "Ref", "Step", "trace"]


@dataclass(frozen=True)
class Ref:
    """A tensor of the program, by its number."""

    index: int


@dataclass(frozen=True)
class Step:
    """One layer or operation at work.

    Attributes:
        name: The path of layers down to it, "block/dense"; "#2" and so on at further uses.
        path: The layers around it, from the outermost, and itself if it is one.
        operation: The layer or operation.
        args: Its positional arguments, with a Ref for each tensor.
        kwargs: Its keyword arguments, likewise.
        outputs: The numbers of the tensors that it gives.
        computes_integers: Whether it shall be computed in integers; not what was asked to stay in floating point, and
            not what gives indices or masks.
    """

    name: str
    path: tuple[str, ...]
    operation: Any
    args: Any
    kwargs: Any
    outputs: tuple[int, ...]
    computes_integers: bool


@dataclass(frozen=True)
class Program:
    """A model as a list of steps.

    Attributes:
        steps: The steps, each after those that it needs.
        inputs: The inputs of the model, as the numbers of tensors.
        outputs: Its outputs, in their structure, as Refs.
        uses: How many steps and outputs take each tensor.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: Any
    uses: Counter


def trace(
    model: keras.Model,
    inputs: Sequence[keras.KerasTensor],
    structure: Any,
    *,
    has_rule: Callable[[Any], bool],
    is_float: Callable[[tuple[str, ...]], bool],
) -> Program:
    """Opens a model.

    Args:
        model: A built model.
        inputs: What it takes, in a flat list.
        structure: The same in the structure in which it takes them.
        has_rule: Whether a layer or operation is to be a step.
        is_float: Whether the layer with this path, from the outermost name, is to be a step in floating point.

    Raises:
        ValueError: If a layer does what cannot be seen, or computes from weights alone what training would change;
            names it.
    """
    tracer = _Tracer(has_rule, is_float)
    numbers = tuple(tracer.number(tensor) for tensor in inputs)
    refs = tree.pack_sequence_as(structure, [Ref(number) for number in numbers])
    outputs = tracer.open(model, (refs,), {}, ())
    _check_weights(model, tracer.steps)
    uses = Counter(ref.index for step in tracer.steps for ref in _refs((step.args, step.kwargs)))
    uses.update(ref.index for ref in _refs(outputs))
    return Program(tuple(tracer.steps), numbers, outputs, uses)


def _refs(structure: Any) -> list[Ref]:
    return [leaf for leaf in tree.flatten(structure) if isinstance(leaf, Ref)]


class _Tracer:
    def __init__(self, has_rule: Callable[[Any], bool], is_float: Callable[[tuple[str, ...]], bool]) -> None:
        self.steps: list[Step] = []
        self._has_rule = has_rule
        self._is_float = is_float
        self._specs: list[keras.KerasTensor] = []
        self._names: Counter = Counter()

    def number(self, spec: keras.KerasTensor) -> int:
        self._specs.append(spec)
        return len(self._specs) - 1

    def open(self, operation: Any, args: Any, kwargs: Any, path: tuple[str, ...]) -> Any:
        """Adds the steps inside of an operation; returns its outputs as Refs."""
        inner = getattr(operation, "_functional", operation)  # of a Sequential model
        if isinstance(inner, keras.Function):
            given = [leaf for leaf in tree.flatten(args) if isinstance(leaf, Ref)]
            return self._walk(inner, given, path)
        return self._call(operation, args, kwargs, path)

    def _call(self, layer: Any, args: Any, kwargs: Any, path: tuple[str, ...]) -> Any:
        tensors: dict[int, keras.KerasTensor] = {}
        for ref in _refs((args, kwargs)):
            spec = self._specs[ref.index]
            tensors.setdefault(ref.index, keras.Input(batch_shape=spec.shape, dtype=spec.dtype))
        given = _replaced((args, kwargs), lambda ref: tensors[ref.index])
        try:
            outputs = layer.call(*given[0], **given[1])
        except Exception as error:  # whatever a layer raises that wants arrays
            raise ValueError(
                f"Every layer must be made of layers and `keras.ops`, or be left in floating point. Received: "
                f"{_named(layer, path)}, which cannot be opened: {one_line(str(error), 200)} Give it in `skip`."
            ) from error
        symbolic = [leaf for leaf in tree.flatten(outputs) if isinstance(leaf, keras.KerasTensor)]
        function = keras.Function(list(tensors.values()), symbolic)
        found = iter(self._walk(function, [Ref(number) for number in tensors], path))
        return tree.map_structure(lambda leaf: next(found) if isinstance(leaf, keras.KerasTensor) else leaf, outputs)

    def _walk(self, function: keras.Function, given: list[Ref], path: tuple[str, ...]) -> Any:
        known = {id(tensor): ref for tensor, ref in zip(function.inputs, given, strict=True)}
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                arguments = (node.arguments.args, node.arguments.kwargs)
                args, kwargs = _replaced(arguments, lambda tensor: known[id(tensor)], keras.KerasTensor)
                outputs = self._node(node, args, kwargs, path)
                known.update(zip(map(id, node.outputs), tree.flatten(outputs), strict=True))
        outputs = [known[id(tensor)] for tensor in function.outputs]
        return tree.pack_sequence_as(function._outputs_struct, outputs)

    def _node(self, node: Any, args: Any, kwargs: Any, path: tuple[str, ...]) -> list[Ref]:
        operation = node.operation
        # Operations are named by counting all that were ever made, which is another name in the next process.
        is_layer = isinstance(operation, keras.Layer)
        own = (*path, operation.name if is_layer else type(operation).__name__.lower())
        wanted = not self._is_float(own) and any("float" in tensor.dtype for tensor in node.outputs)
        if wanted and is_layer:
            _refuse_masks(node, own)
        if wanted and not self._has_rule(operation):
            if is_layer:
                return tree.flatten(self.open(operation, args, kwargs, own))
            raise ValueError(
                f"Every operation must be one that can compute in integers, or be left in floating point. Received: "
                f"{_named(operation, own)}. Give it in `skip`, or the layer around it."
            )
        refs = [Ref(self.number(tensor)) for tensor in node.outputs]
        name = "/".join(own)
        self._names[name] += 1
        name = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
        self.steps.append(Step(name, own, operation, args, kwargs, tuple(ref.index for ref in refs), wanted))
        return refs


_MASKED = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.MultiHeadAttention, keras.layers.Attention,
           keras.layers.GlobalAveragePooling1D)  # fmt: skip


def _refuse_masks(node: Any, path: tuple[str, ...]) -> None:
    masked = [tensor for tensor in node.input_tensors if getattr(tensor, "_keras_mask", None) is not None]
    if masked and isinstance(node.operation, _MASKED):
        raise ValueError(
            f"A layer must not get a mask that Keras carries beside its tensors (`mask_zero`, `Masking`). Received: "
            f"{_named(node.operation, path)} with one. Give masks of attention as `attention_mask`, or build the model "
            f"for sequences of full length."
        )


def _check_weights(model: keras.Model, steps: Sequence[Step]) -> None:
    """Raises ValueError if a weight is in no step: what was computed of it while the model was opened is a constant."""
    seen = {
        id(weight) for step in steps if isinstance(step.operation, keras.Layer) for weight in step.operation.weights
    }
    given = tree.flatten([(step.args, step.kwargs) for step in steps])
    seen.update(id(leaf) for leaf in given if isinstance(leaf, keras.Variable))
    if lost := [weight.path for weight in model.trainable_variables if id(weight) not in seen]:
        raise ValueError(
            f"Every weight that trains must be used together with inputs. Received: {', '.join(lost)}, of which a "
            f"layer computes by itself, or not at all. Give it in `skip`, or freeze it (`trainable = False`)."
        )


def _named(operation: Any, path: tuple[str, ...]) -> str:
    return f"{'/'.join(path) or operation.name!r} ({type(operation).__name__})"


def _replaced(structure: Any, replacement: Callable, kind: type = Ref) -> Any:
    return tree.map_structure(lambda leaf: replacement(leaf) if isinstance(leaf, kind) else leaf, structure)
