#!/usr/bin/env bash
# TensorFlow 2.21.0: dynamic range quantization makes depthwise convolutions four times as slow as in float32.
#
# Guess: on a CPU, dynamic range quantization makes every kind of convolution faster, or at least no slower: the guide
# gives it a "2x-3x speedup" (tensorflow.org/lite/performance/post_training_quantization, read 2026-11-29).
# Seen: with the weights of TFLiteConverter's Optimize.DEFAULT, on LiteRT 2.3.0 with XNNPACK kernels and one thread,
# convolutions of 1 x 1 take 0.4 of the time of float32 and those of 3 x 3 0.17, but depthwise ones 4.4 times as long. A
# MobileNetV2 consists of both kinds; a file of it whose depthwise weights stay in floating point took 0.6 of the time of
# the converter's dynamic range file.
#
# Output of the run of 2026-11-29 (Python 3.11, 2 x86-64 cores with AVX-512 VNNI; time of the quantized file over that of
# the float file, in turns, quartiles of 30 rounds; the ratios depend on the machine, their order is what is checked):
#   depthwise, 3 x 3: 4.39 (4.35 to 4.41)
#   1 x 1: 0.40 (0.39 to 0.40)
#   3 x 3: 0.17 (0.17 to 0.17)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    keras==3.15.1 tensorflow==2.21.0 ai-edge-litert==2.3.0
cat > "$folder/convolutions.py" << 'PROGRAM'
import time

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

SHAPE = (24, 24, 128)
LAYERS = {
    "depthwise, 3 x 3": lambda: keras.layers.DepthwiseConv2D(3, padding="same"),
    "1 x 1": lambda: keras.layers.Conv2D(SHAPE[-1], 1),
    "3 x 3": lambda: keras.layers.Conv2D(SHAPE[-1], 3, padding="same"),
}
x = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype("float32")


def timed(build, optimizations):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SHAPE, batch_size=1), *(build() for _ in range(6))])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = optimizations
    interpreter = Interpreter(model_content=bytes(converter.convert()), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)

    def run():
        start = time.perf_counter()
        interpreter.invoke()
        return time.perf_counter() - start

    return lambda: min(run() for _ in range(5))


medians = {}
for name, build in LAYERS.items():
    exact, quantized = timed(build, []), timed(build, [tf.lite.Optimize.DEFAULT])
    ratios = [quantized() / exact() for _ in range(30)]
    lower, medians[name], upper = np.percentile(ratios, [25, 50, 75])
    print(f"{name}: {medians[name]:.2f} ({lower:.2f} to {upper:.2f})")
assert medians["depthwise, 3 x 3"] > 1.5, "Changed: depthwise convolutions are no longer slower."
assert medians["1 x 1"] < 1.0 and medians["3 x 3"] < 1.0, "Changed: other convolutions are no longer faster."
PROGRAM
"$folder/venv/bin/python" "$folder/convolutions.py" 2> /dev/null | grep -E "^(depthwise|1 x 1|3 x 3)"
