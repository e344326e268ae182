"""The tracer: it turns a model into a program, opening nested and subclassed models down to layers and operations.

A layer without a rule of its own is opened by calling its `call` with symbolic tensors, which shows the layers and
`keras.ops` that it consists of.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import keras
from keras import tree

from keras_notes._shared.checks import one_line
from keras_notes._shared.keras_internals import (
    created_weights_of,
    functional_of,
    get_mask,
    nodes_in_order,
    operation_of,
    output_structure_of,
)
from keras_notes._shared.models.layer_forms import call_time_distributed
from keras_notes._shared.models.layer_patterns import Path, layers_by_path
from keras_notes._shared.models.operation_names import MISSING_OPERATIONS, operation_paths
from keras_notes._shared.types import Node, Operation, Tree

__all__ = ["Program", "Ref", "Refusal", "Step", "StepsRefusedError", "trace"]


class Refusal(NamedTuple):
    """A layer or operation that cannot compute in integers.

    Attributes:
        path: Names of the layers around it, from the outermost, and its own name.
        problem: Sentence that says what must hold, and what was received.
        is_in_litert: Whether the device can compute it in floating point, so that `skip` helps.
    """

    path: Path
    problem: str
    is_in_litert: bool = True


class StepsRefusedError(ValueError):
    """Layers or operations cannot compute in integers; `quantize_aware` gathers all of them for its message.

    Args:
        refusals: Refusals, at least one.

    Attributes:
        refusals: The same refusals.
    """

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        super().__init__(" ".join(refusal.problem for refusal in refusals))
        self.refusals = tuple(refusals)


@dataclass(frozen=True)
class Ref:
    """A tensor of the program, by its number."""

    index: int


@dataclass(frozen=True)
class Step:
    """A layer or operation that is computed at its place in a program.

    Attributes:
        name: Path of layers down to the operation, "block/dense"; "#2" and so on at further uses.
        path: Names of the layers around the operation, from the outermost, and its own name.
        operation: Layer or operation.
        args: Positional arguments of the operation, with a Ref for each tensor.
        kwargs: Keyword arguments of the operation, with a Ref for each tensor.
        outputs: Numbers of the tensors that the operation returns.
        computes_integers: Whether the step is computed in integers; False for layers that `skip` names, and for steps
            that return indices or masks.
    """

    name: str
    path: tuple[str, ...]
    operation: Operation
    args: Tree
    kwargs: Tree
    outputs: tuple[int, ...]
    computes_integers: bool

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that the step reads: those of its layer, and those among its arguments."""
        owned = self.operation.variables if isinstance(self.operation, keras.Layer) else []
        leaves = tree.flatten((self.args, self.kwargs))
        return [*owned, *(leaf for leaf in leaves if isinstance(leaf, keras.Variable))]


@dataclass(frozen=True)
class Program:
    """A model as a list of steps.

    Attributes:
        steps: Steps, each after those that it needs.
        inputs: Numbers of the tensors that are the inputs of the model.
        outputs: Outputs of the model, in their structure, as Refs.
        uses: Number of steps and outputs that take each tensor.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: Tree
    uses: Counter[int]


def trace(
    model: keras.Model,
    inputs: Sequence[keras.KerasTensor],
    structure: Tree,
    *,
    has_rule: Callable[[Operation], bool],
    is_float: Callable[[tuple[str, ...]], bool],
) -> Program:
    """Traces a model into a program.

    Args:
        model: Built model.
        inputs: Inputs of the model, in a flat list.
        structure: Inputs in the structure in which the model takes them.
        has_rule: Function that tells whether a layer or operation becomes a step; otherwise it is opened.
        is_float: Function that tells whether the layer with this path, from the outermost name, becomes a step in
            floating point.

    Raises:
        ValueError: If the model itself cannot be opened, or a layer gets a mask.
        StepsRefusedError: If layers cannot be opened, operations have no rule, or trainable weights take part in no
            step.
    """
    tracer = _Tracer(has_rule, is_float)
    numbers = tuple(tracer.number(tensor) for tensor in inputs)
    refs = tree.pack_sequence_as(structure, [Ref(number) for number in numbers])
    outputs = tracer.open(model, (refs,), {}, ())
    refusals = tracer.refusals or _refuse_unused_weights(model, tracer.steps)
    if refusals:
        raise StepsRefusedError(refusals)
    uses = Counter(ref.index for step in tracer.steps for ref in _refs((step.args, step.kwargs)))
    uses.update(ref.index for ref in _refs(outputs))
    return Program(tuple(tracer.steps), numbers, outputs, uses)


def _refs(structure: Tree) -> list[Ref]:
    return [leaf for leaf in tree.flatten(structure) if isinstance(leaf, Ref)]


class _CannotOpenError(ValueError):
    """The `call` of a layer does not take symbolic tensors."""


class _Tracer:
    def __init__(self, has_rule: Callable[[Operation], bool], is_float: Callable[[tuple[str, ...]], bool]) -> None:
        self.steps: list[Step] = []
        self.refusals: list[Refusal] = []
        self._has_rule = has_rule
        self._is_float = is_float
        self._specs: list[keras.KerasTensor] = []
        self._names: Counter[str] = Counter()

    def number(self, spec: keras.KerasTensor) -> int:
        self._specs.append(spec)
        return len(self._specs) - 1

    def open(self, operation: Operation, args: Tree, kwargs: Tree, path: tuple[str, ...]) -> Tree:
        """Adds the steps inside an operation; returns its outputs as Refs."""
        function = functional_of(operation)
        if function is not None:
            return self._walk(function, _refs(args), path)
        return self._call(operation, args, kwargs, path)

    def _call(self, layer: keras.Layer, args: Tree, kwargs: Tree, path: tuple[str, ...]) -> Tree:
        tensors: dict[int, keras.KerasTensor] = {}
        for ref in _refs((args, kwargs)):
            spec = self._specs[ref.index]
            tensors.setdefault(ref.index, keras.Input(batch_shape=spec.shape, dtype=spec.dtype))
        symbolic_args, symbolic_kwargs = _replace_leaves((args, kwargs), lambda ref: tensors[ref.index])
        try:
            outputs = _call_of(layer)(*symbolic_args, **symbolic_kwargs)
        except Exception as error:  # a layer that needs arrays can raise anything
            raise _CannotOpenError(
                f"Every layer must be made of layers and `keras.ops`, or be left in floating point. Received: "
                f"{_describe(layer, path)}, which cannot be opened: {one_line(str(error), 200)} Give it in `skip`."
            ) from error
        symbolic = [leaf for leaf in tree.flatten(outputs) if isinstance(leaf, keras.KerasTensor)]
        function = keras.Function(list(tensors.values()), symbolic)
        refs = iter(self._walk(function, [Ref(number) for number in tensors], path))
        return tree.map_structure(lambda leaf: next(refs) if isinstance(leaf, keras.KerasTensor) else leaf, outputs)

    def _walk(self, function: keras.Function, inputs: list[Ref], path: tuple[str, ...]) -> Tree:
        known = {id(tensor): ref for tensor, ref in zip(function.inputs, inputs, strict=True)}
        paths = operation_paths(function)
        for node in nodes_in_order(function):
            arguments = (node.arguments.args, node.arguments.kwargs)
            args, kwargs = _replace_leaves(arguments, lambda tensor: known[id(tensor)], keras.KerasTensor)
            own = paths.get(id(node.operation), (node.operation.name,))
            if (mask := _mask_of(node)) is not None and self._is_float((*path, *own)):
                # Keras hands it over beside the tensors, which a step does not have.
                kwargs = {**kwargs, "mask": self._trace_mask(mask, known, path)}
            outputs = self._node(node, args, kwargs, path, own)
            known.update(zip(map(id, node.outputs), tree.flatten(outputs), strict=True))
        refs = [known[id(tensor)] for tensor in function.outputs]
        return tree.pack_sequence_as(output_structure_of(function), refs)

    def _trace_mask(self, mask: keras.KerasTensor, known: dict[int, Ref], path: tuple[str, ...]) -> Ref:
        """Adds the steps that compute a mask; returns it as a Ref."""
        if id(mask) not in known:
            _, sources = operation_of(mask)
            refs = [self._trace_mask(source, known, path) for source in sources]
            known[id(mask)] = tree.flatten(self._walk(keras.Function(sources, mask), refs, path))[0]
        return known[id(mask)]

    def _node(self, node: Node, args: Tree, kwargs: Tree, around: Path, name_in_graph: Path) -> list[Ref]:
        operation, own = node.operation, (*around, *name_in_graph)
        is_layer = isinstance(operation, keras.Layer)
        computes_integers = not self._is_float(own) and any("float" in tensor.dtype for tensor in node.outputs)
        if computes_integers and is_layer:
            _refuse_masks(node, own)
        if computes_integers and not self._has_rule(operation):
            problem = (
                f"Every operation must be one that can compute in integers, or be left in floating point. Received: "
                f"{_describe(operation, own)}. Give it in `skip`, or the layer around it."
            )
            if is_layer:
                try:
                    return tree.flatten(self.open(operation, args, kwargs, own))
                except _CannotOpenError as error:
                    problem = str(error)
            is_in_litert = type(operation).__name__ not in MISSING_OPERATIONS
            if not is_in_litert:
                problem = (
                    f"Every operation must be one that LiteRT has. Received: {_describe(operation, own)}. Replace it "
                    f"by operations that LiteRT has, or compute it outside of the model."
                )
            # It becomes a step in floating point, so that the trace goes on and shows the others.
            self.refusals.append(Refusal(own, problem, is_in_litert))
            computes_integers = False
        refs = [Ref(self.number(tensor)) for tensor in node.outputs]
        # Files of earlier versions have these names: the class in small letters, numbered over all uses.
        name = "/".join(own if is_layer else (*around, type(operation).__name__.lower()))
        self._names[name] += 1
        name = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
        outputs = tuple(ref.index for ref in refs)
        self.steps.append(Step(name, own, operation, args, kwargs, outputs, computes_integers))
        return refs


def _call_of(layer: keras.Layer) -> Callable[..., Tree]:
    """Returns the function that shows what a layer consists of."""
    if isinstance(layer, keras.layers.TimeDistributed):
        return functools.partial(call_time_distributed, layer)
    return layer.call


# Layers whose result depends on the mask that Keras carries.
_MASKED = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.MultiHeadAttention, keras.layers.Attention,
           keras.layers.GlobalAveragePooling1D)  # fmt: skip


def _mask_of(node: Operation) -> keras.KerasTensor | None:
    """Returns the mask that Keras carries to a layer whose result depends on it; None if there is none."""
    if not isinstance(node.operation, _MASKED):
        return None
    return next((mask for tensor in node.input_tensors if (mask := get_mask(tensor)) is not None), None)


def _refuse_masks(node: Operation, path: tuple[str, ...]) -> None:
    if _mask_of(node) is not None:
        raise ValueError(
            f"A layer must not get a mask that Keras carries beside its tensors (`mask_zero`, `Masking`). Received: "
            f"{_describe(node.operation, path)} with one. Give it in `skip`, where it gets its mask, give masks of "
            f"attention as `attention_mask`, or build the model for sequences of full length."
        )


def _refuse_unused_weights(model: keras.Model, steps: Sequence[Step]) -> list[Refusal]:
    """Returns the layers with a weight that is in no step: a value computed from it in the trace would be a constant.

    Raises:
        ValueError: If the layer of such a weight is not known.
    """
    used = {id(variable) for step in steps for variable in step.variables}
    unused = [weight for weight in model.trainable_variables if id(weight) not in used]
    owners = {id(weight): path for path, layer in layers_by_path(model) for weight in created_weights_of(layer)}
    refusals = {}
    for weight in unused:
        path = owners.get(id(weight), ())
        names = [other.path for other in unused if owners.get(id(other), ()) == path]
        problem = (
            f"Every weight that trains must be used together with inputs. Received: {', '.join(names)}, of which a "
            f"layer computes by itself, or not at all. Give it in `skip`, or freeze it (`trainable = False`)."
        )
        if not path:
            raise ValueError(problem)
        refusals[path] = Refusal(path, problem)
    return list(refusals.values())


def _describe(operation: Operation, path: tuple[str, ...]) -> str:
    return f"{'/'.join(path) or operation.name!r} ({type(operation).__name__})"


def _replace_leaves(structure: Tree, replacement: Callable, leaf_class: type = Ref) -> Tree:
    return tree.map_structure(lambda leaf: replacement(leaf) if isinstance(leaf, leaf_class) else leaf, structure)
