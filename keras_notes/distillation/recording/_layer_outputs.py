"""Outputs of inner layers, recorded in the forward pass that the model makes anyway."""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Callable, Iterator

import keras

from keras_notes._shared.checks import received
from keras_notes._shared.models.layer_patching import patch_call

__all__ = ["find_layer", "record_calls", "single_output"]


def find_layer(model: keras.Model, where: str | Callable, *, role: str) -> keras.Layer:
    """The layer of a model that has a name, lies on a path "outer/inner", or that a callable picks.

    On a path each part is the name of a layer, or the attribute under which a subclassed model holds it.

    Args:
        model: The model.
        where: Name, path, or a function of the model that returns one of its layers.
        role: "teacher" or "student", for the message.

    Raises:
        ValueError: If there is no such layer; the message offers the nearest names.
        TypeError: If a callable returns something else than a layer.
    """
    if not isinstance(where, str):
        layer = where(model)
        if not isinstance(layer, keras.Layer):
            raise TypeError(
                f"`{role}_layer` must return a layer when it is a function. Received: {type(layer).__name__}."
            )
        return layer
    layer = model
    for part in where.split("/"):
        children = _children(layer)
        if part not in children:
            raise ValueError(
                f"`{role}_layer` must be a layer of {model.name!r}. {_describe_unknown(model, where, role)}"
            )
        layer = children[part]
    return layer


def _children(layer: keras.Layer) -> dict[str, keras.Layer]:
    """The layers that a layer holds, by their names and by the attributes that hold them; names come first."""
    by_attribute: dict[str, keras.Layer] = {}
    by_name: dict[str, keras.Layer] = {}
    # On the PyTorch backend a layer is a module, which keeps its parts in a dictionary of their own.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    for attribute, value in attributes.items():
        if isinstance(value, keras.Layer):
            by_attribute[attribute] = value
        for item in _items(value):
            by_name.setdefault(item.name, item)
    return {**by_attribute, **by_name}


def _items(value) -> Iterator[keras.Layer]:
    if isinstance(value, keras.Layer):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _items(item) if isinstance(item, (keras.Layer, list, tuple, dict)) else ()


def _describe_unknown(model, where, role) -> str:
    paths = list(_paths(model))
    nearest = difflib.get_close_matches(where, paths, n=3, cutoff=0.4) or paths[:5]
    return f"{received(**{f'{role}_layer': where})} The nearest are {', '.join(map(repr, nearest))}."


def _paths(layer, prefix: str = "", above: tuple = ()) -> Iterator[str]:
    names: dict[str, keras.Layer] = {}
    for child in _children(layer).values():
        # A Sequential model holds its functional self under its own name.
        if child.name != layer.name and id(child) not in above:
            names.setdefault(child.name, child)
    for name, child in names.items():
        yield prefix + name
        yield from _paths(child, f"{prefix}{name}/", (*above, id(layer)))


@contextlib.contextmanager
def record_calls(layers: list[keras.Layer]) -> Iterator[list[list]]:
    """Records what layers return while the block runs: one list a layer, one entry a call."""
    calls: list[list] = [[] for _ in layers]
    with contextlib.ExitStack() as stack:
        for layer, record in zip(layers, calls, strict=True):
            stack.enter_context(patch_call(layer, _recording_call(layer, record)))
        yield calls


def _recording_call(layer: keras.Layer, record: list) -> Callable:
    original = layer.call

    @functools.wraps(original)
    def call(*arguments, **keywords):
        outputs = original(*arguments, **keywords)
        record.append(outputs)
        return outputs

    return call


def single_output(calls: list, layer: keras.Layer, *, role: str):
    """The one tensor that a layer returned in one run of its model.

    Raises:
        ValueError: If the layer did not run, ran more than once, or returned several tensors.
    """
    if len(calls) != 1:
        raise ValueError(
            f"`{role}_layer` must run once in a forward pass. Received: {layer.name!r}, which ran {len(calls)} times. "
            f"Pick another layer, or give each use a layer of its own (keras.layers.Identity() behind it)."
        )
    tensors = keras.tree.flatten(calls[0])
    if len(tensors) != 1:
        raise ValueError(
            f"`{role}_layer` must return one tensor. Received: {layer.name!r}, which returns {len(tensors)}. "
            f"Put a keras.layers.Identity() behind the one that is meant."
        )
    return tensors[0]
