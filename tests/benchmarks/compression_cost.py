"""What a step of quantization-aware training costs, relative to a step in floating point; interleaved rounds.

    python tests/benchmarks/compression.py cost [--rounds 15]

The depthwise network of compression_accuracy.py on images of 28 x 28, batches of 64, ten steps a round.
"""

import time

import keras
import numpy as np

from keras_notes.compression import quantize_aware
from tests.benchmarks.compression_accuracy import depthwise_net, loss

BATCH, STEPS = 64, 10
SCHEMES = {
    "frozen statistics": {},
    "live statistics": {"batch_norm": "live"},
    "learned ranges": {"ranges": "learned"},
}


def main(rounds: int) -> None:
    """Prints the medians and quartiles of the ratios."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, BATCH * STEPS)
    net = depthwise_net()
    models = {"float": depthwise_net()}
    models |= {name: quantize_aware(net, calibration=x[:BATCH], **options) for name, options in SCHEMES.items()}
    for model in models.values():
        model.compile(keras.optimizers.Adam(1e-4), loss())
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
            seconds[name].append(time.perf_counter() - start)
    print(f"a step of training, relative to floating point ({rounds} interleaved rounds, median and quartiles)")
    for name in SCHEMES:
        ratios = np.array(seconds[name]) / np.array(seconds["float"])
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        print(f"  {name:<20}{middle:6.2f} ({low:.2f} to {high:.2f})")
