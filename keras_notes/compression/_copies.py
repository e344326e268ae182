"""Copies of models, so that the one that was given stays as it is."""

from __future__ import annotations

import keras

from keras_notes._shared.checks import one_line

__all__ = ["check_built", "copied", "finalize", "names_of", "with_names"]


def check_built(model: keras.Model) -> None:
    """Raises TypeError or ValueError unless it is a Keras model whose weights exist."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"`model` must be built, so that its weights exist. Received: {model.name!r}, which is not. Call it on a "
            f"batch, or give its first layer a `keras.Input`."
        )


def finalize(model: keras.Model) -> None:
    """Lets preprocessing layers derive what they do from variables that were assigned."""
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def names_of(model: keras.Model) -> list[str]:
    """The names of all layers of a model."""
    return [layer.name for layer in model._flatten_layers()]


def with_names(model: keras.Model, names: list[str]) -> keras.Model:
    """The model, its layers named as those that it was made of: Keras names those in subclassed models anew."""
    for layer, name in zip(model._flatten_layers(), names, strict=True):
        if layer.name != name:
            layer.name = name
    return model


def copied(model: keras.Model) -> keras.Model:
    """A model with the same layers, names and weights, which shares nothing with the first.

    Raises:
        ValueError: If a part of it does not say how it is made.
    """
    check_built(model)
    classes = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    own = {name: kind for name, kind in classes.items() if not kind.__module__.startswith("keras.")}
    try:
        config = keras.saving.serialize_keras_object(model)
        # Not in safe mode: it never left this process.
        copy = keras.saving.deserialize_keras_object(config, custom_objects=own, safe_mode=False)
    except Exception as error:  # whatever a layer raises that has no `get_config`
        raise ValueError(
            f"`model` must be made of layers with a `get_config`, so that it can be copied. Received: {model.name!r}: "
            f"{one_line(str(error), 200)}"
        ) from error
    given, made = model.variables, copy.variables
    if [tuple(one.shape) for one in given] != [tuple(one.shape) for one in made]:
        raise ValueError(
            f"`model` must be built anew from its configuration with the same weights. Received: {model.name!r} with "
            f"{len(given)} variables, of which its copy has {len(made)}. Check its `get_config` and `build`."
        )
    with_names(copy, names_of(model))
    for one, other in zip(given, made, strict=True):
        other.assign(keras.ops.convert_to_numpy(one))
    finalize(copy)
    return copy
