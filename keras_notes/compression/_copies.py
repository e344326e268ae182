"""Copies of models, which leave the original as it is, and the inputs that a model takes."""

from __future__ import annotations

import keras
import numpy as np
from keras import tree

from keras_notes._shared.checks import one_line
from keras_notes._shared.keras_internals import (
    custom_classes_of,
    functional_of,
    input_structure_of,
    layers_of,
    quantized_by_keras,
)
from keras_notes._shared.samples import check_samples
from keras_notes._shared.types import ArrayLike, Tree

__all__ = [
    "check_built",
    "check_float_weights",
    "copy_model",
    "finalize_layers",
    "input_arrays",
    "inputs_of",
    "layer_names",
    "rename_layers",
    "spec_like",
]


def check_built(model: keras.Model) -> None:
    """Checks that `model` is a Keras model whose weights exist.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"`model` must be built, so that its weights exist. Received: {model.name!r}, which is not. Call it on a "
            f"batch, or give its first layer a `keras.Input`."
        )


def check_float_weights(model: keras.Model) -> None:
    """Checks that the weights of `model` are in floating point.

    Raises:
        ValueError: If Keras's own `quantize` has changed it.
    """
    if quantized := quantized_by_keras(model):
        names = ", ".join(repr(layer.name) for layer in quantized)
        raise ValueError(
            f"`model` must have its weights in floating point. Received: {names}, quantized by Keras's "
            f"`model.quantize`. Give the model as it was before."
        )


def finalize_layers(model: keras.Model) -> None:
    """Lets preprocessing layers, such as `Normalization`, derive their state from variables that were assigned."""
    for layer in layers_of(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def layer_names(model: keras.Model) -> list[str]:
    """Returns the names of all layers of a model."""
    return [layer.name for layer in layers_of(model)]


def rename_layers(model: keras.Model, names: list[str]) -> keras.Model:
    """Gives the layers of a model the names that `layer_names` returned for its original.

    Keras generates new names for the layers of a subclassed model each time that it is made.
    """
    for layer, name in zip(layers_of(model), names, strict=True):
        if layer.name != name:
            layer.name = name
    return model


def copy_model(model: keras.Model) -> keras.Model:
    """Returns a model with the same layers, names and weights, which shares nothing with the original.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or a layer of it has no `get_config`.
    """
    check_built(model)
    try:
        config = keras.saving.serialize_keras_object(model)
        # Not in safe mode: the configuration never left this process.
        copy = keras.saving.deserialize_keras_object(config, custom_objects=custom_classes_of(model), safe_mode=False)
    except Exception as error:  # a layer without a `get_config` can raise anything
        raise ValueError(
            f"`model` must be made of layers with a `get_config`, so that it can be copied. Received: {model.name!r}: "
            f"{one_line(str(error), 200)}"
        ) from error
    variables, copies = model.variables, copy.variables
    if [tuple(variable.shape) for variable in variables] != [tuple(variable.shape) for variable in copies]:
        raise ValueError(
            f"`model` must have a `get_config` from which a model with the same weights can be made. Received: "
            f"{model.name!r} with {len(variables)} variables, of which its copy has {len(copies)}. Check its "
            f"`get_config` and `build`."
        )
    rename_layers(copy, layer_names(model))
    for variable, new_variable in zip(variables, copies, strict=True):
        new_variable.assign(keras.ops.convert_to_numpy(variable))
    finalize_layers(copy)
    return copy


def inputs_of(network: keras.Model) -> Tree:
    """Returns the inputs of a network in the structure in which it takes them; None if they are not known."""
    function = functional_of(network)
    return getattr(network, "input_structure", None) if function is None else input_structure_of(function)


def spec_like(values: ArrayLike) -> keras.KerasTensor:
    """Returns a symbolic input that fits some samples."""
    array = np.asarray(values)
    dtype = "float32" if array.dtype.kind == "f" else "int32"
    return keras.KerasTensor((None, *array.shape[1:]), dtype)


def input_arrays(structure: Tree, calibration: Tree) -> list[np.ndarray]:
    """Returns the calibration samples of each input, in order.

    Args:
        structure: KerasTensors in the structure in which the network takes its inputs.
        calibration: Samples in the form in which the user gave them.

    Raises:
        TypeError: If the samples are not numbers.
        ValueError: If the samples do not fit the inputs.
    """
    specs = {
        spec.name or f"input_{position}": keras.InputSpec(shape=spec.shape, dtype=spec.dtype)
        for position, spec in enumerate(tree.flatten(structure))
    }
    # A dict of inputs is flattened by its keys, which can differ from the names of the inputs.
    samples = tree.flatten(calibration) if isinstance(structure, dict) else calibration
    return list(check_samples("calibration", samples, specs).values())
