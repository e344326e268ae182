#!/usr/bin/env bash
# ai-edge-quantizer 0.10.0: two kernels of equal bytes and unlike shapes get one set of scales.
#
# Guess: each constant of a .tflite file is quantized by its own shape, whatever else has the same bytes.
# Seen: TFLiteConverter (tensorflow 2.21.0) lets constants of equal bytes share a buffer, as kernels of zeros or ones do,
# even where their shapes differ. The quantizer then takes the scales of the first of them for both, so that a layer of 6
# units gets 10 scales: a model with such layers cannot be quantized to int8 ("Failed to quantize bias tensor", of which
# the cause is "operands could not be broadcast"). With one weight changed in the last bit the same model is quantized.
# So a network with residual branches that start at zero fails before they are trained.
#
# Output of the run of 2026-11-29 (Python 3.11, keras 3.15.1, ai-edge-litert 2.3.0):
#   equal bytes, buffers shared: True, result: ValueError: Failed to quantize bias tensor for op TFLOperationName.FULLY_CONNECTED with op id 1.
#   one bit changed, buffers shared: False, result: quantized
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    keras==3.15.1 tensorflow==2.21.0 ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0
cat > "$folder/kernels.py" << 'PROGRAM'
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import quantizer, recipe

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(32, 1, 6)).astype("float32")


def convert(last_weight):
    model = keras.Sequential([keras.Input((6,), batch_size=1)])
    for units in (10, 6):
        model.add(keras.layers.Dense(units, kernel_initializer="ones", bias_initializer="random_normal"))
    kernel = np.ones((10, 6), "float32")
    kernel[-1, -1] = last_weight
    model.layers[-1].kernel.assign(kernel)
    return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def shares_buffers(tflite):
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite)).subgraphs[0]
    kernels = [graph.tensors[operator.inputs[1]].buffer for operator in graph.operators]
    return len(set(kernels)) < len(kernels)


def quantize(tflite):
    engine = quantizer.Quantizer(bytearray(tflite), recipe.static_wi8_ai8())
    try:
        key = next(iter(tf.lite.Interpreter(model_content=tflite).get_signature_list()))
        name = tf.lite.Interpreter(model_content=tflite).get_signature_list()[key]["inputs"][0]
        engine.quantize(engine.calibrate({key: [{name: sample} for sample in x]}))
        return "quantized"
    except ValueError as error:
        return f"ValueError: {error}"


for name, last_weight in (("equal bytes", 1.0), ("one bit changed", np.nextafter(np.float32(1), np.float32(2)))):
    tflite = convert(last_weight)
    result = quantize(tflite)
    print(f"{name}, buffers shared: {shares_buffers(tflite)}, result: {result}")
    assert (result == "quantized") == (name != "equal bytes"), "the behaviour has changed"
PROGRAM
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/kernels.py" 2> "$folder/log" | grep buffers ||
    { tail -5 "$folder/log"; exit 1; }
