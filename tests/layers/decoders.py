"""What the tests of decoding share: a small Transformer that has something to say, and decoding without caches."""

from __future__ import annotations

import keras
import numpy as np

from keras_notes.layers import Transformer

START, END, PAD = 1, 2, 0
SOURCES = np.array([[3, 10, 2, 5, 1], [4, 2, 0, 0, 0], [7, 0, 0, 0, 0], [9, 9, 6, 0, 0], [8, 1, 5, 4, 0]], "int32")


def talkative(vocabulary: int = 7, *, seed: int = 0, **arguments) -> Transformer:
    """An untrained model whose logits differ from id to id, and from position to position."""
    keras.utils.set_random_seed(seed)
    sizes = {"num_layers": 1, "width": 8, "num_heads": 2, "hidden_width": 12, "max_length": 8, "tie_output": False}
    model = Transformer(11, vocabulary, **{**sizes, **arguments})
    rng = np.random.default_rng(seed)
    model.set_weights([weights + rng.normal(0.0, 0.7, weights.shape) for weights in model.get_weights()])
    return model


def log_probs_of(model, source: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of each next id, for targets (samples, length) that begin with START: in one pass without caches, in float64."""
    sources = np.broadcast_to(source, (len(targets), *source.shape[-1:]))
    logits = keras.ops.convert_to_numpy(model((sources, targets.astype("int32")))).astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def greedy_without_caches(model, source: np.ndarray, max_length: int) -> tuple[np.ndarray, float]:
    """The likeliest ids one by one, each from a pass over the whole target so far; and their log-probability."""
    # What stands behind a position is not looked at: see the tests of Transformer.
    target, total = np.full((1, max_length + 1), PAD), 0.0
    target[0, 0] = START
    for place in range(max_length):
        log_probs = log_probs_of(model, source, target[:, :-1])[0, place]
        target[0, place + 1] = log_probs.argmax()
        total += log_probs.max()
        if target[0, place + 1] == END:
            break
    return target[0, 1:], total
