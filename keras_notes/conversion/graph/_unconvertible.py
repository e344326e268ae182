"""Rules for models that have no deploy graph, and the words for operations that LiteRT lacks."""

from __future__ import annotations

import re
from collections.abc import Iterable

import keras

from keras_notes._shared.checks import received
from keras_notes._shared.keras_internals import is_keras_class, layers_of, quantized_by_keras
from keras_notes.errors import ConversionError

__all__ = ["check_convertible", "describe_missing_operations", "modules_of_custom_layers"]

# Layers that look values up, count or hash them, which a .tflite file cannot.
_PREPROCESSING = tuple(
    getattr(keras.layers, name)
    for name in ("CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup", "StringLookup",
                 "TextVectorization")
    if hasattr(keras.layers, name)
)  # fmt: skip


def check_convertible(model: keras.Model) -> None:
    """Checks that a model is one that can run on a device by itself.

    Raises:
        TypeError: If it is not a Keras model.
        ConversionError: If it trains other models, was quantized by Keras, or takes text.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. {received(model=type(model).__name__)}")
    for attribute in ("student", "students"):
        if isinstance(getattr(model, attribute, None), (keras.Model, list, tuple)):
            which = "distiller.student" if attribute == "student" else "one of distiller.students"
            raise ConversionError(
                f"`model` must be the model that runs on the device. Received: {model.name!r}, a "
                f"{type(model).__name__}, which trains it. Convert {which}."
            )
    if quantized := quantized_by_keras(model):
        names = ", ".join(repr(layer.name) for layer in quantized)
        raise ConversionError(
            f"The layers of a model must have their trained weights in floating point. Received: {names}, quantized by "
            f"Keras's `model.quantize`. Convert the model as it was before: `convert` quantizes it, for instance with "
            f"recipe='dynamic_int8'."
        )
    for tensor in getattr(model, "inputs", None) or ():
        if tensor.dtype == "string":
            raise ConversionError(
                f"The inputs of a model must be numbers. Received: {tensor.name!r} of strings. {_outside(model)}"
            )


def describe_missing_operations(
    model: keras.Model, operations: Iterable[tuple[str, str]], failure: str
) -> ConversionError | None:
    """Returns the error of a model with operations that LiteRT lacks; None if none are known.

    Args:
        model: The model.
        operations: Operations of TensorFlow, each with the path of its layer or operation, "" where it is unknown.
        failure: The beginning of the message.
    """
    lacking = list(dict.fromkeys(operations))
    if not lacking:
        return None
    tables = [layer for layer in layers_of(model) if isinstance(layer, _PREPROCESSING)]
    places: dict[str, list[str]] = {}
    for operation, place in lacking:
        if not place and tables:
            place = tables[0].name
        places.setdefault(place, []).append(operation)
    names = ", ".join(
        f"{place or 'the model'!r} ({', '.join(dict.fromkeys(operations))})" for place, operations in places.items()
    )
    advice = (
        _outside(model) if tables else "Replace it by operations that LiteRT has, or compute it outside of the model."
    )
    return ConversionError(f"{failure}: LiteRT must have every operation of it. Received: {names}. {advice}")


def modules_of_custom_layers(layers: Iterable[keras.Layer]) -> list[str]:
    """Returns the modules that define the layers which are not Keras's own.

    Raises:
        ConversionError: If one is defined in the program itself, which another process cannot import.
    """
    custom = {layer_class for layer_class in map(type, layers) if not is_keras_class(layer_class)}
    if own := sorted(layer_class.__name__ for layer_class in custom if layer_class.__module__ == "__main__"):
        raise ConversionError(
            f"On the backend {keras.backend.backend()!r}, custom layers must be defined in a module, which the "
            f"converter's process imports. Received: {own}, defined in the program itself. Move them to a module, "
            f"registered by @keras.saving.register_keras_serializable()."
        )
    return sorted({layer_class.__module__ for layer_class in custom})


def _outside(model: keras.Model) -> str:
    """Returns the advice to leave the preprocessing layers of a model outside of the file."""
    tables = [layer for layer in layers_of(model) if isinstance(layer, _PREPROCESSING)]
    top = [layer.name for layer in getattr(model, "layers", ()) if layer in tables]
    if not tables:
        return "Compute numbers from them outside of the model."
    if not top or len(top) < len(tables):
        nested = ", ".join(repr(layer.name) for layer in tables)
        return f"Compute {nested} outside of the model: rebuild it with inputs for their results."
    layers = " ".join(f"{_variable(name)} = model.get_layer({name!r});" for name in top)
    outputs = ", ".join(f"{_variable(name)}.output" for name in top)
    calls = ", ".join(f"{_variable(name)}(x)" for name in top)
    inputs, samples = (outputs, calls) if len(top) == 1 else (f"[{outputs}]", f"[{calls}]")
    return (
        f"Compute the ids outside of the model, x being samples of the input: {layers} "
        f"ids = keras.tree.map_structure(keras.ops.convert_to_numpy, {samples}); "
        f"keras_notes.convert(keras.Model({inputs}, model.outputs), directory, 'float32', golden=ids)"
    )


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name) if re.match(r"[A-Za-z_]", name) else f"layer_{re.sub(r'[^0-9A-Za-z]', '_', name)}"
