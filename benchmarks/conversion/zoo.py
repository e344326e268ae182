"""Models of the conversion matrix: networks as people convert them, small, seeded, with weights that look trained.

`ZOO` maps a name to a builder; `samples` draws inputs that fit a model, for calibration and for tests. Outputs are
logits or numbers: one step of a softmax's output says nothing about the network before it (the two exceptions are
`softmax_classifier` and `sigmoid_multilabel`).
"""

from collections.abc import Callable

import keras
import numpy as np

from benchmarks.conversion import zoo_images, zoo_sequences

__all__ = ["ZOO", "samples"]

_ENTRIES = {**zoo_images.MODELS, **zoo_sequences.MODELS}

ZOO: dict[str, Callable[[], keras.Model]] = {name: entry.build for name, entry in _ENTRIES.items()}


def samples(model: str | keras.Model, count: int, seed: int) -> np.ndarray | dict[str, np.ndarray]:
    """Typical inputs for a model of the zoo, as `keras_notes.convert` takes them.

    Args:
        model: The model, or its name in `ZOO`.
        count: Number of samples.
        seed: Seed of the draw; the same samples each time.

    Returns:
        An array for one input, a dict by input name for several.
    """
    return _ENTRIES[model if isinstance(model, str) else model.name].samples(count, seed)
