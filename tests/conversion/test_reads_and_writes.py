"""Each file that a program gives back is read once and written once, whatever the number of passes over it."""

from collections import Counter

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers, ops

import keras_notes as kn
from tests.support.bundles import MODEL_FILE, TESTDATA

STEPS, WIDTH = 6, 8
X = np.random.default_rng(0).normal(size=(40, STEPS, WIDTH)).astype("float32")
FLOAT_FILE = Counter(reads=1, writes=1)
FLOAT_AND_QUANTIZED_FILE = Counter(reads=2, writes=2)
# A float file whose masks are lowered changes after its calibration, and is written again for the second one.
WITH_LOWERED_MASKS = Counter(reads=2, writes=3)


@pytest.fixture
def counts(monkeypatch):
    """The reads and writes of flatbuffers in this process."""
    calls = Counter()
    functions = {"reads": "read_model_from_bytearray", "writes": "convert_object_to_bytearray"}
    for call, name in functions.items():
        original = getattr(flatbuffer_utils, name)

        def counting(*arguments, call=call, original=original):
            calls[call] += 1
            return original(*arguments)

        monkeypatch.setattr(flatbuffer_utils, name, counting)
    return calls


def dense():
    """A model that needs no pass of its own."""
    return keras.Sequential([keras.Input((STEPS, WIDTH)), layers.Flatten(), layers.Dense(3)])


def reversed_sequence():
    """A model with a reversal, which becomes a GATHER for integers."""
    return keras.Sequential([keras.Input((STEPS, WIDTH)), layers.Bidirectional(layers.LSTM(4)), layers.Dense(3)])


def masked():
    """A model with a mask before a softmax, which is lowered for integers."""
    series = keras.Input((STEPS, WIDTH))
    scores = ops.matmul(series, ops.transpose(series, (0, 2, 1))) + np.triu(np.full((1, STEPS, STEPS), -1e9, "f4"), 1)
    return keras.Model(series, layers.Dense(3)(ops.matmul(ops.softmax(scores), series)))


@pytest.mark.parametrize(
    ("net", "recipe", "expected"),
    [
        (dense, "float32", FLOAT_FILE),
        (dense, "dynamic_int8", FLOAT_AND_QUANTIZED_FILE),
        (dense, "static_int8", FLOAT_AND_QUANTIZED_FILE),
        (reversed_sequence, "static_int8", FLOAT_AND_QUANTIZED_FILE),
        (masked, "static_int8", WITH_LOWERED_MASKS),
    ],
)
def test_a_conversion_reads_and_writes_each_file_once(net, recipe, expected, counts, tmp_path):
    calibration = X if recipe == "static_int8" else None
    kn.convert(net(), tmp_path / "bundle", recipe, golden=X[:8], calibration=calibration)
    assert counts == expected


def test_the_trained_integers_are_restored_without_another_read(counts, tmp_path):
    model = kn.compression.quantize_aware(dense(), calibration=X)
    kn.convert(model, tmp_path / "bundle", "static_int8", golden=X[:8])
    assert counts == FLOAT_AND_QUANTIZED_FILE


def test_the_counter_counts(counts):
    model = flatbuffer_utils.read_model(str(TESTDATA / MODEL_FILE))
    flatbuffer_utils.convert_object_to_bytearray(model)
    assert counts == {"reads": 1, "writes": 1}
