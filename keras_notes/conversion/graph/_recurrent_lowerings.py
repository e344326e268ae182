"""Which form each recurrent layer takes on the device: a loop, every step written out, or one fused operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

from keras_notes import layers
from keras_notes._shared.checks import check_choice, received
from keras_notes._shared.layer_patching import patch_call, patch_method
from keras_notes._shared.layer_patterns import Path, last_match, layers_by_path, matches
from keras_notes.conversion.graph._fused_lstm import check_fusible, fused_call
from keras_notes.conversion.graph._recurrent_cells import cell_of
from keras_notes.conversion.graph._recurrent_loops import inner_loop

__all__ = ["check_lowering", "lowering_of", "recurrent_layers", "recurrent_lowering"]

# Operators and bytes of an unrolled layer grow with its steps: 32 of them are about twice the size of a loop.
LONGEST_UNROLLED = 32
_UNROLLED_IF_SHORT = "unrolled if short"


def check_lowering(lowering: Any, paths: Collection[Path]) -> dict[str, str]:
    """`convert`'s argument as lowerings by pattern of layers, the last one that matches counting.

    Args:
        lowering: A lowering for all recurrent layers, or a dict of lowerings by pattern.
        paths: The paths of the recurrent layers that the model has.

    Raises:
        ValueError: If there is no such lowering, or a pattern matches no recurrent layer.
        TypeError: If it is neither a name nor a dict.
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


def lowering_of(layer: keras.layers.RNN, paths: Collection[Path], lowerings: Mapping[str, str], integers: bool) -> str:
    """The form that a layer takes on the device.

    Args:
        layer: A recurrent layer.
        paths: Its paths in the model, several if it is shared.
        lowerings: Lowerings by pattern; where none matches or it is "auto", the layer's own counts.
        integers: Whether it is to compute in integers. Calibration cannot look into a loop, and TensorFlow's ends its
            process over one (tensorflow/tensorflow#101050): short sequences are written out then.

    Raises:
        ConversionError: If it must be fused and cannot be.
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


def recurrent_lowering(layer: Any, wanted: str | None) -> contextlib.AbstractContextManager[None]:
    """Lets a recurrent layer compute in the form wanted, while the block runs; None leaves it to Keras."""
    kind = cell_of(layer)
    if wanted is None or (kind is None and wanted == "loop"):
        return contextlib.nullcontext()
    if wanted == "fused":
        return patch_call(layer, fused_call(layer))
    if kind is None:
        return patch_call(layer, _unrolled_by_keras(layer, wanted))
    forms = {form: inner_loop(layer, kind, unrolled=form) for form in (False, True)}
    original = layer.inner_loop

    def chosen(sequences: Any, *arguments: Any, **keywords: Any) -> Any:
        if sequences.shape[1] is None:  # as many steps as the device finds: only Keras's loop takes them
            return original(sequences, *arguments, **keywords)
        return forms[_is_unrolled(wanted, sequences)](sequences, *arguments, **keywords)

    return patch_method(layer, "inner_loop", chosen)


def recurrent_layers(model: keras.Model) -> dict[Path, keras.layers.RNN]:
    """The recurrent layers of a model by path; one that is shared stands under each of its paths."""
    return {path: layer for path, layer in layers_by_path(model) if isinstance(layer, keras.layers.RNN)}


def _is_unrolled(wanted: str, sequences: Any) -> bool:
    steps = sequences.shape[1]
    return wanted == "unrolled" or (wanted == _UNROLLED_IF_SHORT and steps is not None and steps <= LONGEST_UNROLLED)


def _unrolled_by_keras(layer: Any, wanted: str) -> Callable:
    """For cells that are not known here: Keras's own loop, or its own steps."""
    original, before = layer.call, layer.unroll

    def call(sequences: Any, *arguments: Any, **keywords: Any) -> Any:
        layer.unroll = before or _is_unrolled(wanted, sequences)
        try:
            return original(sequences, *arguments, **keywords)
        finally:
            layer.unroll = before

    return call
