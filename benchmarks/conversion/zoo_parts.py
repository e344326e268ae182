"""Parts of the models of the conversion zoo: sources of inputs, the registry, and weights that look trained.

Fresh weights would hide faults of a conversion: a bias of zero, a gamma of one and moving statistics of a batch
normalization that never saw data make different graphs give the same numbers. `draw_weights` gives them values of the
size that training gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

SEED, SETTLING_SEED, SETTLING_SAMPLES = 0, 1_000_000, 64
VOCABULARY = 64
_OCTAVES = 5


@dataclass(frozen=True)
class Source:
    """One input of a model: the shape of a sample, its dtype, and how samples are drawn."""

    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, int], np.ndarray]
    dtype: str = "float32"


def smooth(rng: np.random.Generator, count: int, shape: Iterable[int]) -> np.ndarray:
    """Random fields of shape (count, ..., channels), of mean 0 and a standard deviation near 1.

    Octaves of interpolated noise, each half as strong as the one that is half as fine: the spectrum 1/f of natural
    images. The channels have most of it in common, as those of an image do.
    """
    *space, channels = shape
    total = np.zeros((count, *space, channels))
    for octave in range(_OCTAVES):
        cells = [min(2 ** (octave + 1), size) for size in space]
        noise = rng.normal(size=(count, *cells, 1)) + 0.5 * rng.normal(size=(count, *cells, channels))
        for axis, size in enumerate(space, start=1):
            points, centres = np.linspace(0, noise.shape[axis] - 1, size), np.arange(noise.shape[axis])[:, None]
            weights = np.maximum(0, 1 - np.abs(points - centres))
            noise = np.moveaxis(np.tensordot(noise, weights, (axis, 0)), -1, axis)
        total += noise / 2**octave
    return total


def signed(pixels: np.ndarray) -> np.ndarray:
    """Pixels of 0 to 255 as -1 to 1."""
    return pixels / 127.5 - 1


def image(size: int, preprocess: Callable = signed, dtype: str = "float32") -> Source:
    """Square images of three channels: whole pixel values, then `preprocess`."""
    shape = (size, size, 3)

    def draw(rng, count):
        pixels = np.clip(np.round(128 + 60 * smooth(rng, count, shape)), 0, 255)
        return preprocess(pixels).astype(dtype)

    return Source(shape, draw, dtype)


def field(*shape: int) -> Source:
    """Smooth numbers around 0: series (steps, features), volumes, videos."""
    return Source(shape, lambda rng, count: smooth(rng, count, shape).astype("float32"))


def features(count: int) -> Source:
    """Standardized features."""
    return Source((count,), lambda rng, samples: rng.normal(size=(samples, count)).astype("float32"))


def sound(length: int) -> Source:
    """Raw audio in -1 to 1: three tones and noise, loudness and pitch drawn for each sample."""

    def draw(rng, count):
        pitch, phase = 10 ** rng.uniform(-2.5, -0.5, (3, count, 1)), rng.uniform(0, 2 * np.pi, (3, count, 1))
        tones = np.sin(2 * np.pi * pitch * np.arange(length) + phase).mean(0) + 0.1 * rng.normal(size=(count, length))
        return np.clip(tones * rng.uniform(0.2, 1.0, (count, 1)), -1, 1)[..., None].astype("float32")

    return Source((length, 1), draw)


def ids(length: int, padded: bool = False) -> Source:
    """Token ids of 1 to VOCABULARY - 1; `padded` ends each sample, after half of it or more, with zeros."""

    def draw(rng, count):
        tokens = rng.integers(1, VOCABULARY, (count, length))
        ends = rng.integers(length // 2, length + 1, (count, 1)) if padded else length
        return np.where(np.arange(length) < ends, tokens, 0).astype("int32")

    return Source((length,), draw, "int32")


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        body: Function from one Keras input a source to the outputs, or to the whole model.
        sources: Inputs by name.
        batch: Batch size that the model is built with; None where it may be any.
    """

    name: str
    body: Callable
    sources: dict[str, Source]
    batch: int | None

    def build(self) -> keras.Model:
        """The model; the same weights each time."""
        keras.utils.set_random_seed(SEED)
        inputs = [
            keras.Input(batch_shape=(self.batch, *source.shape), dtype=source.dtype, name=name)
            for name, source in self.sources.items()
        ]
        outputs = self.body(*inputs)
        whole = isinstance(outputs, keras.Model)
        model = outputs if whole else keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=self.name)
        draw_weights(model, self.samples(SETTLING_SAMPLES, SETTLING_SEED))
        return model

    def samples(self, count: int, seed: int) -> np.ndarray | dict[str, np.ndarray]:
        """Typical inputs: an array for one input, a dict by name for several."""
        rng = np.random.default_rng(seed)
        arrays = {name: source.draw(rng, count) for name, source in self.sources.items()}
        return arrays if len(arrays) > 1 else next(iter(arrays.values()))


class Registry(dict[str, Entry]):
    """Entries by name, in the order in which they were added."""

    def add(self, batch: int | None = None, name: str | None = None, **sources: Source) -> Callable:
        """A decorator for the body of a model, which takes its name unless another is given."""

        def add_body(body):
            entry = Entry(name or body.__name__, body, sources, batch)
            self[entry.name] = entry
            return body

        return add_body


def draw_weights(model: keras.Model, samples: Any) -> None:
    """Draws biases, scales and embeddings, then has batch normalizations take their statistics from `samples`."""
    rng = np.random.default_rng(SEED)
    every_layer = list(model._flatten_layers())
    for layer in every_layer:
        for attribute, drawn in _DRAWN.items():
            variable = getattr(layer, attribute, None)
            if isinstance(variable, keras.Variable):
                variable.assign(drawn(rng, np.array(variable)))
        if getattr(layer, "activation", None) is keras.activations.relu and hasattr(layer, "kernel"):
            # He's gain, which Keras's initializer lacks: after the fifteen ReLUs of VGG only the biases would speak.
            layer.kernel.assign(layer.kernel * 2**0.5)
    norms = [(layer, "momentum") for layer in every_layer if isinstance(layer, keras.layers.BatchNormalization)]
    if norms:
        # One pass is enough: what a normalization passes on while training already has the statistics that it keeps.
        # Without dropout, so that they are those of inference.
        dropouts = [(layer, "rate") for layer in every_layer if isinstance(layer, keras.layers.Dropout)]
        with _zero_attributes(norms + dropouts):
            model(samples, training=True)


@contextlib.contextmanager
def _zero_attributes(attributes):
    kept = [(layer, name, getattr(layer, name)) for layer, name in attributes]
    for layer, name, _ in kept:
        setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)


def _scale(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    return rng.uniform(0.5, 1.5, value.shape)


_DRAWN: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "bias": lambda rng, value: value + rng.normal(0, 0.1, value.shape),  # LSTM starts its forget gates at 1
    "gamma": _scale,
    "scale": _scale,
    # Above 0 on average: around 0 most of a swish is dead, and deep random networks amplify single samples tenfold.
    "beta": lambda rng, value: rng.normal(0.5, 0.3, value.shape),
    "alpha": lambda rng, value: rng.uniform(0.05, 0.4, value.shape),
    "embeddings": lambda rng, value: rng.normal(0, 0.5, value.shape),
}
