"""Data sets and networks of the measurements of compression, and their training in floating point.

Digits: scikit-learn's 1,797 images of 8 x 8, 1,200 of them for training, split by the seed; a residual network of three
convolutions, 30 epochs. Fashion-MNIST (official split): a network of three depthwise-separable blocks, 4 epochs, whose
channels are given unequal ranges after training by factors of 10^u, u uniform in [-1, 1], on the depthwise outputs, and
their inverses in the pointwise weights behind: the same function in floating point (as the networks of Nagel et al.
2019, section 4.1, have by nature). HAPT (official subjects): windows of 2.56 s as the means of four successive samples,
32 steps of 6 signals in standard units of the training windows; an LSTM of 32 units, 10 epochs. TREC (official split):
the first 16 words of a question, ids of those that occur at least twice in training; a Transformer of one block of
four heads, width 32, pads attended to as words, 20 epochs.

All train with Adam down to 0 by a cosine, from 3e-3 (the Transformer from 1e-3), in batches of 64.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from examples.datasets import fashion_mnist
from examples.datasets.sequences import hapt, trec

BATCH, CALIBRATION = 64, 256
STEPS_AT_ONCE, WORDS, WIDTH = 4, 16, 32

Data = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@functools.cache
def digits(seed: int) -> Data:
    """Training and test images and labels; the split is the seed's."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order] / 16.0).astype("float32").reshape(-1, 8, 8, 1), y[order].astype("int32")
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


@functools.cache
def fashion() -> Data:
    """Training and test images and labels."""
    train, test = (((x / 255.0).astype("float32")[..., None], y.astype("int32")) for x, y in fashion_mnist())
    return train, test


@functools.cache
def motions() -> Data:
    """Training and test windows and activities."""
    (x, y, _), (x_test, y_test, _) = hapt()
    x, x_test = (windows.reshape(len(windows), -1, STEPS_AT_ONCE, windows.shape[-1]).mean(2) for windows in (x, x_test))
    mean, std = x.mean((0, 1)), x.std((0, 1))
    return ((x - mean) / std, y.astype("int32")), ((x_test - mean) / std, y_test.astype("int32"))


@functools.cache
def questions() -> Data:
    """Training and test word ids and classes; 0 is a pad, 1 an unknown word."""
    (texts, y), (texts_test, y_test) = trec()
    counts = Counter(word for text in texts for word in text.lower().split())
    known = {word: 2 + i for i, word in enumerate(sorted(word for word, count in counts.items() if count > 1))}

    def ids(texts: list[str]) -> np.ndarray:
        rows = np.zeros((len(texts), WORDS), "int32")
        for row, text in zip(rows, texts, strict=True):
            words = [known.get(word, 1) for word in text.lower().split()[:WORDS]]
            row[: len(words)] = words
        return rows

    return (ids(texts), y.astype("int32")), (ids(texts_test), y_test.astype("int32"))


def residual_net() -> keras.Model:
    """Returns the network for digits."""
    inputs = keras.Input((8, 8, 1))
    x = skipped = block(inputs, layers.Conv2D(16, 3, padding="same", use_bias=False))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.Add()([layers.BatchNormalization(momentum=0.9)(x), skipped]))
    x = layers.Flatten()(layers.MaxPooling2D()(block(x, layers.Conv2D(16, 3, use_bias=False))))
    return keras.Model(inputs, layers.Dense(10)(x))


def depthwise_net() -> keras.Model:
    """Returns the network for Fashion-MNIST."""
    inputs = keras.Input((28, 28, 1))
    x = block(inputs, layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False))
    for filters, strides in ((32, 1), (48, 2), (64, 1)):
        x = block(x, layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False))
        x = block(x, layers.Conv2D(filters, 1, use_bias=False))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def lstm_net() -> keras.Model:
    """Returns the network for HAPT."""
    return keras.Sequential([keras.Input((32, 6)), layers.LSTM(32), layers.Dense(6)])


def transformer() -> keras.Model:
    """Returns the network for TREC."""
    ids = keras.Input((WORDS,), dtype="int32")
    x = layers.Embedding(int(questions()[0][0].max()) + 1, WIDTH)(ids)
    x = layers.Dropout(0.2)(Positions()(x))
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, WIDTH // 4)(x, x)]))
    hidden = layers.Dense(2 * WIDTH, activation="relu")(x)
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(WIDTH)(hidden)]))
    return keras.Model(ids, layers.Dense(6)(layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))))


@keras.saving.register_keras_serializable(package="keras_notes_benchmarks")
class Positions(layers.Layer):
    """Adds a trained vector to each place of a sequence."""

    def build(self, shape) -> None:
        """Creates the vectors."""
        self.vectors = self.add_weight(shape=shape[1:], initializer="uniform", name="vectors")

    def call(self, x):
        """The sequence and its places."""
        return x + self.vectors


def block(x, layer: layers.Layer):
    """A layer, normalized over the batch, and ReLU."""
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))


def make_unequal(model: keras.Model, seed: int) -> None:
    """Gives the channels behind each depthwise convolution unequal ranges, and changes nothing of the function."""
    rng = np.random.default_rng(seed)
    with_weights = [layer for layer in model.layers if layer.weights]
    for depthwise, norm, pointwise in zip(with_weights, with_weights[1:], with_weights[2:], strict=False):
        if isinstance(depthwise, layers.DepthwiseConv2D):
            factors = (10.0 ** rng.uniform(-1, 1, norm.gamma.shape)).astype("float32")
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            pointwise.kernel.assign(pointwise.kernel / factors[:, None])


@dataclass(frozen=True)
class Task:
    """A data set and a network.

    Attributes:
        data: Training and test samples, given a seed.
        build: Untrained network.
        epochs: Number of epochs in floating point.
        rate: Learning rate at the start.
        tfmot: Whether TF-MOT takes the network.
        from_logits: Whether the network ends in logits; otherwise it ends in a softmax.
        unequal: Whether the channels are given unequal ranges after training.
    """

    data: Callable[[int], Data]
    build: Callable[[], keras.Model]
    epochs: int
    rate: float = 3e-3
    tfmot: bool = False
    from_logits: bool = True
    unequal: bool = False


TASKS = {
    "digits": Task(digits, residual_net, 30, tfmot=True),
    "fashion": Task(lambda seed: fashion(), depthwise_net, 4, tfmot=True, unequal=True),
    "hapt": Task(lambda seed: motions(), lstm_net, 10),
    "trec": Task(lambda seed: questions(), transformer, 20, rate=1e-3),
}


def loss(from_logits: bool = True) -> keras.losses.Loss:
    """Returns the cross-entropy of logits, or probabilities, and class ids."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def train_float(task: Task, seed: int) -> keras.Model:
    """Trains the network of a task in floating point and returns it."""
    keras.utils.set_random_seed(seed)
    model, (x, y) = task.build(), task.data(seed)[0]
    steps = task.epochs * -(-len(x) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(task.rate, steps)), loss(task.from_logits)
    )
    model.fit(x, y, batch_size=BATCH, epochs=task.epochs, verbose=0)
    if task.unequal:
        make_unequal(model, seed)
    return model


def batches(data: Data, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples and labels of so many steps, in the seed's order."""
    x, y = data[0]
    rng = np.random.default_rng(seed + 100)
    rows = np.concatenate([rng.permutation(len(x)) for _ in range(-(-steps * BATCH // len(x)))])[: steps * BATCH]
    return x[rows], y[rows]


def accuracy(outputs: np.ndarray, data: Data) -> float:
    """The share of test samples whose largest output is that of their class."""
    return float((outputs.argmax(-1) == data[1][1]).mean())
