"""Helpers of the tests of decoding: a small Transformer whose outputs vary, and decoding without caches."""

from __future__ import annotations

import keras
import numpy as np

from keras_notes.layers import Transformer

START, END, PAD = 1, 2, 0
SOURCES = np.array([[3, 10, 2, 5, 1], [4, 2, 0, 0, 0], [7, 0, 0, 0, 0], [9, 9, 6, 0, 0], [8, 1, 5, 4, 0]], "int32")


def talkative(vocabulary: int = 7, *, seed: int = 34, **arguments) -> Transformer:
    """An untrained model whose logits differ from id to id, and from position to position."""
    sizes = {"num_layers": 1, "width": 8, "num_heads": 2, "hidden_width": 12, "max_length": 8, "tie_output": False}
    model = Transformer(11, vocabulary, **{**sizes, **arguments})
    randomize(model, seed)
    return model


def randomize(model, seed: int) -> None:
    """Sets the weights of a model by NumPy: the same on every backend."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        variable.assign(rng.normal(variable.name == "gamma", 0.7, variable.shape))


def log_probs_of(model, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log-probabilities of each next id in float64, for targets (samples, length) that begin with START."""
    logits = model.predict_on_batch((sources, targets.astype("int32"))).astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def greedy_without_caches(model, sources: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest ids one by one, each from a pass over the whole target so far; and their log-probability."""
    # Later positions do not change earlier ones: see the tests of Transformer.
    targets, totals = np.full((len(sources), max_length + 1), PAD), np.zeros(len(sources))
    targets[:, 0] = START
    has_ended = np.zeros(len(sources), bool)
    for place in range(max_length):
        log_probs = log_probs_of(model, sources, targets[:, :-1])[:, place]
        targets[:, place + 1] = np.where(has_ended, PAD, log_probs.argmax(axis=-1))
        totals += np.where(has_ended, 0.0, log_probs.max(axis=-1))
        has_ended |= targets[:, place + 1] == END
    return targets[:, 1:], totals


def device_transformer() -> Transformer:
    """A Transformer whose weights are larger in a file than its operators."""
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 1, "width": 128, "num_heads": 4, "hidden_width": 512, "max_length": 12}
    return Transformer(1500, 1500, **sizes)


def device_samples(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources of six ids and targets of ten, padded."""
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(3, 1500, (count, 6)), rng.integers(3, 1500, (count, 10))
    targets[:, 0] = START
    sources[np.arange(6) >= rng.integers(1, 7, count)[:, None]] = PAD
    targets[np.arange(10) >= rng.integers(4, 11, count)[:, None]] = PAD
    return sources.astype("int32"), targets.astype("int32")
