"""Likeness of the device's outputs to those of the trained quantization-aware model, beside TF-MOT.

    python -m benchmarks compression parity [--seeds 5]

The protocol. Networks for the digits of tasks.py, images or their eight rows as a sequence, trained for 30 epochs in
floating point (Adam from 3e-3 down to 0 by a cosine) and for 200 steps quantization-aware (Adam at 1e-4, ranges frozen
after four fifths). Each is converted to int8, and each of the 597 test images runs on LiteRT, on XNNPACK and on its
plain kernels. "equal": the share of outputs that are the very integers of `predict` of the trained model, ours or
TF-MOT's; the least over the seeds stands beside the mean. "largest": the largest difference of all seeds, in LSB.

Negative control: the same file beside the float network that it came from, in place of the trained model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_notes as kn
from benchmarks import command_line
from benchmarks.compression.accuracy import RATE, train_quantized
from benchmarks.compression.likeness import KERNELS, Likeness, measure_likeness, measure_likeness_of_bytes
from benchmarks.compression.tasks import BATCH, Task, batches, block, digits, train_float
from keras_notes.compression import tfmot

STEPS, EPOCHS = 200, 30


def convolutions() -> keras.Model:
    """Convolutions, depthwise too, sum, concatenation, padding, max pooling, dense."""
    inputs = keras.Input((8, 8, 1))
    x = skipped = block(inputs, layers.Conv2D(16, 3, padding="same", use_bias=False))
    x = block(x, layers.DepthwiseConv2D(3, padding="same", use_bias=False))
    x = layers.ReLU()(layers.Add()([x, skipped]))
    x = layers.Concatenate()([x, block(inputs, layers.Conv2D(8, 1, use_bias=False))])
    x = block(layers.ZeroPadding2D()(x), layers.Conv2D(24, 3, strides=2, use_bias=False))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(32, activation="relu")(x)))


def averages() -> keras.Model:
    """Average pooling, local and global, and softmax."""
    inputs = keras.Input((8, 8, 1))
    x = layers.AveragePooling2D(2)(block(inputs, layers.Conv2D(16, 3, padding="same", use_bias=False)))
    x = layers.GlobalAveragePooling2D()(block(x, layers.Conv2D(32, 3, padding="same", use_bias=False)))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(10)(x)))


def attention() -> keras.Model:
    """A Transformer's block on the eight rows."""
    inputs = keras.Input((8, 8))
    x = layers.Dense(32)(inputs)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 8)(x, x)]))
    hidden = layers.Dense(64, activation="gelu")(x)
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(32)(hidden)]))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def recurrent(layer: type[layers.Layer]) -> Callable[[], keras.Model]:
    """A recurrent layer on the eight rows."""
    return lambda: keras.Sequential([keras.Input((8, 8)), layer(32), layers.Dense(10)])


NETS = {
    "convolutions": convolutions,
    "average pooling, softmax": averages,
    "attention": attention,
    "LSTM": recurrent(layers.LSTM),
    "GRU": recurrent(layers.GRU),
}
OURS, TFMOT, CONTROL = "ours", "TF-MOT", "control"


def measure_network(name: str, seed: int) -> dict[str, Likeness | str]:
    """Returns the likeness of our file, of TF-MOT's (or why there is none), and of our file to the float network."""
    shape = NETS[name]().input_shape[1:]
    (x, y), (x_test, y_test) = digits(seed)
    data = (x.reshape(-1, *shape), y), (x_test.reshape(-1, *shape), y_test)
    from_logits = NETS[name] is not averages
    model = train_float(Task(lambda seed: data, NETS[name], EPOCHS, from_logits=from_logits), seed)
    aware, x = train_quantized(model, data, STEPS, seed, from_logits=from_logits), data[1][0]
    with tempfile.TemporaryDirectory() as directory:
        path = kn.convert(aware, Path(directory) / "b", golden=x[:64]).directory / "model.tflite"
        results: dict[str, Likeness | str] = {
            OURS: measure_likeness(path, x, aware.predict(x, verbose=0)),
            CONTROL: measure_likeness(path, x, model.predict(x, verbose=0)),
        }
    settings = {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "from_logits": from_logits, "seed": seed}
    try:
        trained = tfmot.quantize_aware(model, *batches(data, STEPS, seed), golden=x, edges="float32", **settings)
        results[TFMOT] = measure_likeness_of_bytes(trained.tflite, x, trained.outputs)
    except ValueError as refusal:
        results[TFMOT] = "refused" if "is not supported" in str(refusal) else str(refusal)
    keras.backend.clear_session()
    return results


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("compression parity", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=tuple(NETS), default=[], metavar="NETWORK", help=", ".join(NETS))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each network and each kind of file."""
    options = build_parser().parse_args(arguments)
    heads = "".join(f"{f'equal, {kernels}':>26}{'largest':>9}" for kernels in KERNELS)
    print(f"{'':<34}{heads}{'float':>7}")
    for name in options.only or NETS:
        rows_by_seed = [measure_network(name, seed) for seed in range(options.seeds)]
        for row in rows_by_seed[0]:
            print(f"{f'{name}, {row}':<34}{_cells([rows[row] for rows in rows_by_seed])}", flush=True)


def _cells(likenesses: list[Likeness | str]) -> str:
    refusals = {likeness for likeness in likenesses if isinstance(likeness, str)}
    if refusals:
        return "  " + "; ".join(sorted(refusals))
    text = ""
    for kernels in KERNELS:
        shares = [likeness.equal[kernels] for likeness in likenesses]
        text += f"{f'{np.mean(shares):.4f} (least {min(shares):.4f})':>26}"
        text += f"{max(likeness.largest[kernels] for likeness in likenesses):>9.0f}"
    return f"{text}{max(likeness.floats for likeness in likenesses):>7}"
