"""What a network takes, and calibration samples for it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import tree

from keras_notes._shared.samples import check_samples

__all__ = ["input_arrays", "inputs_of", "spec_like"]


def inputs_of(network: keras.Model) -> Any:
    """The inputs of a network in the structure in which it takes them; None if nothing says what they are."""
    inner = getattr(network, "_functional", None) or network
    if isinstance(inner, keras.Function):
        return inner._inputs_struct if len(inner.inputs) != 1 else tree.flatten(inner._inputs_struct)[0]
    return getattr(network, "input_structure", None)


def spec_like(values: Any) -> keras.KerasTensor:
    """An input like some samples."""
    array = np.asarray(values)
    dtype = "float32" if array.dtype.kind == "f" else "int32"
    return keras.KerasTensor((None, *array.shape[1:]), dtype)


def input_arrays(structure: Any, calibration: Any) -> list[np.ndarray]:
    """The calibration samples of each input, in order.

    Args:
        structure: The inputs as KerasTensors, as the network takes them.
        calibration: As the user gave them.

    Raises:
        ValueError: If they are none for these inputs.
    """
    specs = {
        spec.name or f"input_{number}": keras.InputSpec(shape=spec.shape, dtype=spec.dtype)
        for number, spec in enumerate(tree.flatten(structure))
    }
    # A dict of inputs is flattened by its keys, which need not be their names.
    given = tree.flatten(calibration) if isinstance(structure, dict) else calibration
    return list(check_samples("calibration", given, specs).values())
