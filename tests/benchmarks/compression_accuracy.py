"""Accuracy after quantization-aware training. The protocol, set down before the first run:

    python tests/benchmarks/compression.py accuracy [--seeds 5]

Digits (scikit-learn's 1,797 images of 8 x 8, 1,200 of them for training): a residual network of three convolutions.
Fashion-MNIST (official split): a network of three depthwise-separable blocks, whose channels are given unequal ranges
after training by factors of 10^u, u uniform in [-1, 1], on the depthwise outputs, and their inverses in the pointwise
weights behind: the same function in floating point (as the networks of Nagel et al. 2019, section 4.1, have by nature).

The float network trains with Adam from 3e-3 down to 0 by a cosine: 30 epochs on digits, 4 on Fashion-MNIST, batches of
64. Quantization after training takes ranges from the first 256 training images. Quantization-aware training goes on
from there with Adam at 1e-4, batches of 64 in one order for all schemes; each of 10, 50, 200 and 1,000 steps is a run
of its own, whose ranges freeze after four fifths of it. A seed sets weights, order and factors. Accuracy on the test
images is that of `predict`, which is what the device gives (the parity table shows how nearly). Nothing is chosen on
test data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from keras_notes.compression import quantize_aware
from tests.benchmarks.datasets import fashion_mnist

STEPS = (10, 50, 200, 1000)
BATCH, CALIBRATION = 64, 256
FLOAT_RATE, QUANTIZED_RATE = 3e-3, 1e-4
OURS = {
    "live": {"batch_norm": "live"},
    "frozen": {"batch_norm": "frozen"},
    "frozen, learned": {"batch_norm": "frozen", "ranges": "learned"},
}


def digits(seed: int):
    """Training and test images and labels; the split is the seed's."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order] / 16.0).astype("float32").reshape(-1, 8, 8, 1), y[order]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


@functools.cache
def fashion():
    """Training and test images and labels."""
    return tuple(((x / 255.0).astype("float32")[..., None], y.astype("int32")) for x, y in fashion_mnist())


def residual_net() -> keras.Model:
    """For digits."""
    inputs = keras.Input((8, 8, 1))
    x = skipped = _block(inputs, layers.Conv2D(16, 3, padding="same", use_bias=False))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.Add()([layers.BatchNormalization(momentum=0.9)(x), skipped]))
    x = layers.Flatten()(layers.MaxPooling2D()(_block(x, layers.Conv2D(16, 3, use_bias=False))))
    return keras.Model(inputs, layers.Dense(10)(x))


def depthwise_net() -> keras.Model:
    """For Fashion-MNIST."""
    inputs = keras.Input((28, 28, 1))
    x = _block(inputs, layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False))
    for filters, strides in ((32, 1), (48, 2), (64, 1)):
        x = _block(x, layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False))
        x = _block(x, layers.Conv2D(filters, 1, use_bias=False))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _block(x, layer):
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))


def unequal(model: keras.Model, seed: int) -> None:
    """Gives the channels behind each depthwise convolution unequal ranges, and changes nothing of the function."""
    rng = np.random.default_rng(seed)
    found = [one for one in model.layers if one.weights]
    for depthwise, norm, pointwise in zip(found, found[1:], found[2:], strict=False):
        if isinstance(depthwise, layers.DepthwiseConv2D):
            factors = (10.0 ** rng.uniform(-1, 1, norm.gamma.shape)).astype("float32")
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            pointwise.kernel.assign(pointwise.kernel / factors[:, None])


def loss() -> keras.losses.Loss:
    """Of logits and class ids."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained_float(build: Callable, data, epochs: int, seed: int) -> keras.Model:
    """A network trained in floating point."""
    keras.utils.set_random_seed(seed)
    model = build()
    (x, y), _ = data
    steps = epochs * -(-len(x) // BATCH)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(FLOAT_RATE, steps)), loss())
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def batches(data, steps: int, seed: int):
    """The images and labels of so many steps, in the seed's order."""
    (x, y), _ = data
    rng = np.random.default_rng(seed + 100)
    rows = np.concatenate([rng.permutation(len(x)) for _ in range(-(-steps * BATCH // len(x)))])[: steps * BATCH]
    return x[rows], y[rows]


def accuracy(model: keras.Model, data) -> float:
    """On the test images."""
    _, (x, y) = data
    return float((model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean())


def quantized(model: keras.Model, data, steps: int, seed: int, **options) -> keras.Model:
    """Trained for so many steps in integers; 0 is quantization after training."""
    calibration = data[0][0][:CALIBRATION]
    made = quantize_aware(model, calibration=calibration, freeze_after=int(0.8 * steps) if steps else None, **options)
    if steps:
        made.compile(keras.optimizers.Adam(QUANTIZED_RATE), loss())
        made.fit(*batches(data, steps, seed), batch_size=BATCH, shuffle=False, verbose=0)
    return made


def seed_of(task: str, seed: int) -> tuple[keras.Model, tuple]:
    """The float network of a task and its data."""
    if task == "digits":
        data = digits(seed)
        return trained_float(residual_net, data, 30, seed), data
    data = fashion()
    model = trained_float(depthwise_net, data, 4, seed)
    unequal(model, seed)
    return model, data


def rows_of(task: str, seed: int) -> dict[str, float]:
    """The accuracy by scheme and steps."""
    model, data = seed_of(task, seed)
    rows = {"float": accuracy(model, data), "after training": accuracy(quantized(model, data, 0, seed), data)}
    for name, options in OURS.items():
        for steps in STEPS:
            rows[f"{name}, {steps} steps"] = accuracy(quantized(model, data, steps, seed, **options), data)
    return rows


def main(seeds: int) -> None:
    """Prints a table for each task."""
    for task in ("digits", "fashion"):
        found = []
        for seed in range(seeds):
            keras.utils.clear_session()
            found.append(rows_of(task, seed))
            print(f"# {task}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in found[-1].items()), flush=True)
        print(f"{task:<28}{'mean':>9}{'least':>9}{'largest':>9}{'std':>9}")
        for name in found[0]:
            values = np.array([rows[name] for rows in found])
            print(
                f"  {name:<26}{values.mean():>9.4f}{values.min():>9.4f}{values.max():>9.4f}{values.std(ddof=1):>9.4f}"
            )


if __name__ == "__main__":
    import sys

    main(int(sys.argv[1]))
