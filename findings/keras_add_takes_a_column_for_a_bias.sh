#!/usr/bin/env bash
# Keras 3.15.1 on the TensorFlow backend: `keras.ops.add` does not broadcast where its second argument looks like a bias.
#
# Guess: `ops.add` broadcasts as NumPy does, on every backend, as its documentation says.
# Seen: on TensorFlow an array that squeezes to a vector as long as axis 1 or the last axis of the first argument is added
# by `tf.nn.bias_add`, whatever axis it stands on. A column of shape (4, 1) on a (1, 4, 4) is added to columns in place of
# rows, and a (4,) on a (1, 4, 1) gives (1, 4, 1) in place of (1, 4, 4): no error, other numbers. JAX broadcasts.
# The commuted call, `ops.add(column, x)`, is right on both.
# Source: keras 3.15.1, keras/src/backend/tensorflow/numpy.py, `add`; the special case came with keras-team/keras#20386.
#
# Output of the run of 2026-11-28 (Python 3.11, tensorflow 2.21.0, jax 0.10.2):
#   tensorflow: (1, 4, 4) + (4, 1) gives (1, 4, 4), equal to NumPy: False, commuted: True
#   tensorflow: (1, 4, 1) + (4,) gives (1, 4, 1), equal to NumPy: False, commuted: True
#   jax: (1, 4, 4) + (4, 1) gives (1, 4, 4), equal to NumPy: True, commuted: True
#   jax: (1, 4, 1) + (4,) gives (1, 4, 4), equal to NumPy: True, commuted: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 tensorflow==2.21.0 jax==0.10.2 numpy
cat > "$folder/add.py" << 'PROGRAM'
import keras
import numpy as np
from keras import ops

backend = keras.backend.backend()
for shape, other in (((1, 4, 4), (4, 1)), ((1, 4, 1), (4,))):
    x = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    y = np.arange(np.prod(other), dtype="float32").reshape(other)
    results = [ops.convert_to_numpy(ops.add(*map(ops.convert_to_tensor, pair))) for pair in ((x, y), (y, x))]
    equal = [np.array_equal(result, x + y) for result in results]
    print(f"{backend}: {shape} + {other} gives {results[0].shape}, equal to NumPy: {equal[0]}, commuted: {equal[1]}")
    assert equal == [backend != "tensorflow", True], "the behaviour has changed"
PROGRAM
export TF_CPP_MIN_LOG_LEVEL=3
for backend in tensorflow jax; do
    KERAS_BACKEND=$backend "$folder/venv/bin/python" "$folder/add.py" 2> /dev/null
done
