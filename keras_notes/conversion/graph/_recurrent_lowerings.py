"""The forms of recurrent layers on the device: a loop, every step written out, or one fused operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping

import keras

from keras_notes import layers
from keras_notes._shared.checks import check_choice, received
from keras_notes._shared.models.layer_patching import patch_call, patch_method
from keras_notes._shared.models.layer_patterns import Path, last_match, layers_by_path, matches
from keras_notes._shared.types import Tensor, Tree
from keras_notes.conversion.graph._fused_lstm import check_fusible, make_fused_call
from keras_notes.conversion.graph._recurrent_cells import cell_class_of
from keras_notes.conversion.graph._recurrent_loops import make_inner_loop

__all__ = ["choose_lowering", "lower_recurrent", "parse_lowering", "recurrent_layers"]

# Operators and bytes of an unrolled layer grow with its steps: 32 of them are about twice the size of a loop. The limit
# of quantization-aware training, 64, is higher: its layers must compute in integers, and no loop does. Here a longer
# layer becomes a loop in floating point, or the user writes it out by `lowering`.
LONGEST_UNROLLED = 32
_UNROLLED_IF_SHORT = "unrolled if short"


def parse_lowering(lowering: str | Mapping[str, str], paths: Collection[Path]) -> dict[str, str]:
    """Returns `convert`'s argument as lowerings by pattern of layers; the last match counts.

    Args:
        lowering: A lowering for all recurrent layers, or a dict of lowerings by pattern.
        paths: The paths of the recurrent layers that the model has.

    Raises:
        ValueError: If a name is not that of a lowering, or a pattern matches no recurrent layer.
        TypeError: If the argument is neither a name nor a dict.
    """
    if isinstance(lowering, str):
        return {"*": check_choice("lowering", lowering, layers.LSTM.LOWERINGS)}
    if not isinstance(lowering, Mapping):
        raise TypeError(f"`lowering` must be a name or a dict of names by layer. {received(lowering=lowering)}")
    for pattern, name in lowering.items():
        check_choice(f"lowering[{pattern!r}]", name, layers.LSTM.LOWERINGS)
        if not any(matches(pattern, path) for path in paths):
            names = sorted({"/".join(path) for path in paths})
            raise ValueError(
                f"`lowering` must name recurrent layers of the model: {names}. {received(pattern=pattern)}"
            )
    return dict(lowering)


def choose_lowering(
    layer: keras.layers.RNN, paths: Collection[Path], lowerings: Mapping[str, str], *, integers: bool
) -> str:
    """Returns the form that a layer takes on the device.

    Args:
        layer: A recurrent layer.
        paths: The paths of the layer in the model, several if it is shared.
        lowerings: Lowerings by pattern; without a match, or for "auto", the layer's own lowering counts.
        integers: Whether the layer computes in integers. Calibration cannot look into a loop, and TensorFlow's
            calibration ends its process over one (tensorflow/tensorflow#101050): short sequences are written out then.

    Raises:
        ConversionError: If the layer must be fused and cannot be.
    """
    pattern = last_match(lowerings, *paths)
    lowering = "auto" if pattern is None else lowerings[pattern]
    if lowering == "auto" and type(layer) is layers.LSTM:
        lowering = layer.lowering
    if lowering == "auto":
        lowering = "unrolled" if layer.unroll else _UNROLLED_IF_SHORT if integers else "loop"
    if lowering == "fused":
        check_fusible(layer)
    return lowering


def lower_recurrent(layer: keras.layers.RNN, lowering: str | None) -> contextlib.AbstractContextManager[None]:
    """Lets a recurrent layer compute in another form, while the block runs; None leaves it to Keras."""
    cell_class = cell_class_of(layer)
    if lowering is None or (cell_class is None and lowering == "loop"):
        return contextlib.nullcontext()
    if lowering == "fused":
        return patch_call(layer, make_fused_call(layer))
    if cell_class is None:
        return patch_call(layer, _unroll_by_keras(layer, lowering))
    forms = {unrolled: make_inner_loop(layer, cell_class, unrolled=unrolled) for unrolled in (False, True)}
    original = layer.inner_loop

    def inner_loop(sequences: Tensor, *arguments: Tensor, **keywords: Tensor) -> Tree:
        if sequences.shape[1] is None:  # a number of steps that only the device knows: only Keras's loop takes it
            return original(sequences, *arguments, **keywords)
        return forms[_is_unrolled(lowering, sequences)](sequences, *arguments, **keywords)

    return patch_method(layer, "inner_loop", inner_loop)


def recurrent_layers(model: keras.Model) -> dict[Path, keras.layers.RNN]:
    """Returns the recurrent layers of a model by path; a shared layer appears under each of its paths."""
    return {path: layer for path, layer in layers_by_path(model) if isinstance(layer, keras.layers.RNN)}


def _is_unrolled(lowering: str, sequences: Tensor) -> bool:
    steps = sequences.shape[1]
    return lowering == "unrolled" or (
        lowering == _UNROLLED_IF_SHORT and steps is not None and steps <= LONGEST_UNROLLED
    )


def _unroll_by_keras(layer: keras.layers.RNN, lowering: str) -> Callable[..., Tree]:
    """Returns a `call` for layers without a cell class here: Keras's own loop, or its own unrolled steps."""
    original, before = layer.call, layer.unroll

    def call(sequences: Tensor, *arguments: Tensor, **keywords: Tensor) -> Tree:
        layer.unroll = before or _is_unrolled(lowering, sequences)
        try:
            return original(sequences, *arguments, **keywords)
        finally:
            layer.unroll = before

    return call
