"""Streaming models: one step of a sequence model, for devices that get their samples one at a time."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from keras_notes._shared.checks import received
from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import Tensor

__all__ = ["streaming_model"]

# These layers look at several steps at once, so they cannot compute a single step.
_ACROSS_STEPS = (layers.Bidirectional, layers.Flatten, layers.Reshape, layers.Permute, layers.Attention,
                 layers.MultiHeadAttention, layers.Conv1D, layers.SeparableConv1D, layers.AveragePooling1D,
                 layers.MaxPooling1D, layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D)  # fmt: skip
# Two orders of summing the same products differ by less; a layer that looks at other steps differs by far more.
_ROUNDING = 1e-3
_STEPS_OF_ANY_LENGTH = 8


def streaming_model(model: keras.Model) -> keras.Model:
    """Returns a model that computes one step of a recurrent model: (x_t, h, c) -> (y_t, h, c).

    It takes one step a call and keeps its states, so that the outputs after t calls are those of the recurrent model
    for the first t steps. `convert` makes the states inputs and outputs of the file. The weights are the model's own.

    Args:
        model: A functional or sequential model with one input of shape (steps, ...), whose layers treat each step
            alike, except for recurrent layers that read forwards. Any layers may follow the last recurrent layer
            without `return_sequences`.

    Returns:
        A model with an input of shape (1, 1, ...), and the outputs of `model` for a batch of one; outputs with a step
        axis have one step.

    Raises:
        ValueError: If the model has no recurrent layer, or a layer that looks at several steps; the message names it.

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
    return any(isinstance(layer, layers.RNN) for layer in layers_of(model))


def _step_of(model: keras.Model) -> keras.Model:
    (whole,) = model.inputs
    step = keras.Input(batch_shape=(1, 1, *whole.shape[2:]), dtype=whole.dtype, name=whole.name)
    flat = keras.Model(whole, model.outputs if len(model.outputs) > 1 else model.outputs[0], name=model.name)
    return keras.models.clone_model(flat, input_tensors=step, clone_function=_clone_for_step)


def _clone_for_step(layer: keras.Layer) -> keras.Layer:
    """Returns the layer itself, or for a recurrent layer one that keeps its states, with the same cell."""
    if isinstance(layer, _ACROSS_STEPS) and len(layer.input.shape) > 2:
        raise ValueError(f"{layer.name!r} ({type(layer).__name__}), which looks at several of them.")
    if isinstance(layer, keras.Model) and _is_recurrent(layer):
        return _step_of(layer)
    if not isinstance(layer, layers.RNN):
        return layer
    if layer.go_backwards:
        raise ValueError(f"{layer.name!r}, which reads backwards.")
    stateful = type(layer).from_config({**layer.get_config(), "stateful": True, "unroll": False})
    stateful.cell = layer.cell
    return stateful


def _check_same(whole: keras.Model, step: keras.Model) -> None:
    """Raises ValueError unless the outputs after the last step are those of the whole model."""
    samples = _samples(whole.inputs[0])
    expected = keras.tree.flatten(whole(samples, training=False))
    actual: list[Tensor] = []
    for index in range(samples.shape[1]):
        actual = keras.tree.flatten(step(samples[:, index : index + 1], training=False))
    for layer in layers_of(step):
        if isinstance(layer, layers.RNN):
            layer.reset_state()
    for output, sequence in zip(actual, expected, strict=True):
        has_steps = len(sequence.shape) > 2 or sequence.shape[1:] != output.shape[1:]
        last = sequence[:, -1:] if has_steps else sequence
        difference = np.abs(ops.convert_to_numpy(output) - ops.convert_to_numpy(last)).max()
        if not difference <= _ROUNDING * (1 + np.abs(ops.convert_to_numpy(last)).max()):
            raise ValueError(
                f"Every layer of {whole.name!r} must treat each step alike. Received: layers whose last output, step "
                f"by step, is off by {difference:.2g}."
            )


def _samples(spec: keras.KerasTensor) -> np.ndarray:
    shape = (1, spec.shape[1] or _STEPS_OF_ANY_LENGTH, *spec.shape[2:])
    rng = np.random.default_rng(0)
    if "int" in spec.dtype:
        return rng.integers(0, 2, shape).astype(spec.dtype)
    return rng.normal(size=shape).astype("float32")
