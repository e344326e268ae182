"""Models in files of Keras 2, with the functions that they were trained with."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import h5py
import keras

from keras_notes._shared.keras_internals import layers_of
from keras_notes._shared.types import Tensor

__all__ = ["keras2_hard_sigmoid", "load_keras2_model"]

_log = logging.getLogger(__name__)
_ACTIVATIONS = ("activation", "recurrent_activation")


@keras.saving.register_keras_serializable(package="keras_notes")
def keras2_hard_sigmoid(x: Tensor) -> Tensor:
    """Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1); that of Keras 3 is relu6(x + 3) / 6.

    Args:
        x: Tensor of floating-point numbers.

    Example:
        >>> [round(float(value), 6) for value in keras2_hard_sigmoid([-3.0, 0.0, 1.0])]
        [0.0, 0.5, 0.7]
    """
    # By ReLU6, which LiteRT fuses to the sum before it; a clip to other limits has no integer operator.
    return keras.ops.relu6(1.2 * keras.ops.convert_to_tensor(x) + 3.0) / 6.0


def load_keras2_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model from a .h5 file of Keras 2, which Keras 3 loads with another `hard_sigmoid` without a word.

    Of Keras 2 it was clip(0.2 x + 0.5, 0, 1), the default between the gates of recurrent layers before version 2.3; of
    Keras 3 it is relu6(x + 3) / 6. Layers with it get `keras2_hard_sigmoid`. In a file of Keras 3 nothing changes.

    Args:
        path: Path of the file.

    Returns:
        The model, not compiled.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no model.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="hard_sigmoid")])
        >>> path = tempfile.mkdtemp() + "/model.h5"
        >>> model.save(path)
        >>> with h5py.File(path, "a") as file:
        ...     file.attrs["keras_version"] = "2.2.4"
        >>> load_keras2_model(path).layers[0].activation.__name__
        'keras2_hard_sigmoid'
    """
    with h5py.File(path, "r") as file:
        version = file.attrs.get("keras_version", "")
    version = version.decode() if isinstance(version, bytes) else str(version)
    # In safe mode: a model may hold code, and files are untrusted.
    model = keras.saving.load_model(Path(path), compile=False, safe_mode=True)
    if version.startswith(("1.", "2.")):
        names = [layer.name for layer in layers_of(model) if _restore_hard_sigmoid(layer)]
        if names:
            _log.warning(
                "%s was written by Keras %s: %s get its hard_sigmoid, clip(0.2 x + 0.5, 0, 1), in the place of Keras "
                "3's",
                path,
                version,
                ", ".join(names),
            )
    return model


def _restore_hard_sigmoid(layer: keras.Layer) -> bool:
    """Gives a layer Keras 2's hard sigmoid in the place of Keras 3's; returns whether it had that."""
    changed = False
    for attribute in _ACTIVATIONS:
        # Recurrent layers read the functions of their cell, and show them without a setter.
        if (
            not isinstance(layer, keras.layers.RNN)
            and getattr(layer, attribute, None) is keras.activations.hard_sigmoid
        ):
            setattr(layer, attribute, keras2_hard_sigmoid)
            changed = True
    return changed
