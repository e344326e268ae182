"""A sequence model as one step of it, for devices that get their samples one at a time."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_notes._shared.checks import received

__all__ = ["streaming_model"]

# They look at several steps at once, so that no step of theirs can be taken alone.
_ACROSS_STEPS = (layers.Bidirectional, layers.Flatten, layers.Reshape, layers.Permute, layers.Attention,
                 layers.MultiHeadAttention, layers.Conv1D, layers.SeparableConv1D, layers.AveragePooling1D,
                 layers.MaxPooling1D, layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D)  # fmt: skip
# Two ways to sum the same products; a layer that looks at other steps is off by far more.
_ROUNDING = 1e-3
_STEPS_OF_ANY_LENGTH = 8


def streaming_model(model: keras.Model) -> keras.Model:
    """The step of a recurrent model: (x_t, h, c) -> (y_t, h, c).

    It takes one step a call and remembers its states, so that the outputs after t calls are those of the model for the
    first t steps. `convert` makes the states inputs and outputs of the file. The weights are the model's own.

    Args:
        model: A functional or sequential model with one input of shape (steps, ...), whose layers treat each step
            alike, but for recurrent layers that read forwards. What follows the last recurrent layer without
            `return_sequences` is free.

    Returns:
        A model with an input of shape (1, 1, ...), and the outputs of `model` for a batch of one; where those have a
        step axis, of one step.

    Raises:
        ValueError: If the model has no recurrent layer, or a layer that looks at several steps; names it.

    Example:
        >>> whole = keras.Sequential([keras.Input((20, 3)), keras.layers.LSTM(4), keras.layers.Dense(2)])
        >>> step = streaming_model(whole)
        >>> x = np.ones((1, 20, 3), "float32")
        >>> outputs = [step(x[:, t : t + 1]) for t in range(20)]
        >>> bool(np.allclose(outputs[-1], whole(x), atol=1e-6))
        True
    """
    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or []) != 1:
        raise ValueError(
            f"`model` must be a functional or sequential model with one input. {received(model=type(model).__name__)}"
        )
    (whole,) = model.inputs
    if len(whole.shape) < 2:
        raise ValueError(f"The input of `model` must have shape (batch, steps, ...). Received: {tuple(whole.shape)}.")
    if not _is_recurrent(model):
        raise ValueError(f"`model` must have a recurrent layer. Received: {model.name!r} without one.")
    try:
        step = _step_of(model)
    except ValueError as error:
        raise ValueError(f"Every layer of {model.name!r} must treat each step alike. Received: {error}") from error
    _check_same(model, step)
    return step


def _is_recurrent(model: keras.Model) -> bool:
    return any(isinstance(layer, layers.RNN) for layer in model._flatten_layers())


def _step_of(model: keras.Model) -> keras.Model:
    (whole,) = model.inputs
    one = keras.Input(batch_shape=(1, 1, *whole.shape[2:]), dtype=whole.dtype, name=whole.name)
    flat = keras.Model(whole, model.outputs if len(model.outputs) > 1 else model.outputs[0], name=model.name)
    return keras.models.clone_model(flat, input_tensors=one, clone_function=_taken_alone)


def _taken_alone(layer: keras.Layer) -> keras.Layer:
    """The layer itself, or a recurrent one that remembers, with the same cell."""
    if isinstance(layer, _ACROSS_STEPS) and len(layer.input.shape) > 2:
        raise ValueError(f"{layer.name!r} ({type(layer).__name__}), which looks at several of them.")
    if isinstance(layer, keras.Model) and _is_recurrent(layer):
        return _step_of(layer)
    if not isinstance(layer, layers.RNN):
        return layer
    if layer.go_backwards:
        raise ValueError(f"{layer.name!r}, which reads backwards.")
    again = type(layer).from_config({**layer.get_config(), "stateful": True, "unroll": False})
    again.cell = layer.cell
    return again


def _check_same(whole: keras.Model, step: keras.Model) -> None:
    """Raises ValueError unless the steps give, after the last one, what the whole model gives."""
    samples = _samples(whole.inputs[0])
    wanted = keras.tree.flatten(whole(samples, training=False))
    got: list[Any] = []
    for index in range(samples.shape[1]):
        got = keras.tree.flatten(step(samples[:, index : index + 1], training=False))
    for layer in step._flatten_layers():
        if isinstance(layer, layers.RNN):
            layer.reset_state()
    for one, several in zip(got, wanted, strict=True):
        last = several[:, -1:] if len(several.shape) > 2 or several.shape[1:] != one.shape[1:] else several
        difference = np.abs(ops.convert_to_numpy(one) - ops.convert_to_numpy(last)).max()
        if not difference <= _ROUNDING * (1 + np.abs(ops.convert_to_numpy(last)).max()):
            raise ValueError(
                f"Every layer of {whole.name!r} must treat each step alike. Received: layers whose last output, step "
                f"by step, is off by {difference:.2g}."
            )


def _samples(like: Any) -> np.ndarray:
    shape = (1, like.shape[1] or _STEPS_OF_ANY_LENGTH, *like.shape[2:])
    rng = np.random.default_rng(0)
    if "int" in like.dtype:
        return rng.integers(0, 2, shape).astype(like.dtype)
    return rng.normal(size=shape).astype("float32")
