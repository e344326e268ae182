"""Comparisons with constants: no step of a sequence is lost, whatever grids the two sides have."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes._litert.client import outputs
from keras_notes._litert.reader import read_tflite
from keras_notes.conversion import _pipeline, _quantizer_settings

STEPS, PADDING = 5, 7.0
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(2, STEPS + 1, 120)
SERIES = RNG.normal(size=(120, STEPS, 3)).astype("float32")
for sample, length in enumerate(LENGTHS):
    SERIES[sample, length:] = PADDING


def masked_lstm():
    """Keras's Masking of 7.0 before an LSTM, as a user writes it."""
    series = keras.Input((STEPS, 3), name="series")
    return keras.Model(series, layers.Dense(2)(layers.LSTM(4)(layers.Masking(PADDING, name="masking")(series))))


def selections():
    """Each comparison of a hidden tensor with a constant, and selections by it."""
    series = keras.Input((STEPS, 3), name="series")
    hidden, other = layers.Dense(4, name="hidden")(series), layers.Dense(4, name="other")(series)
    results = {
        "greater": ops.where(ops.greater(hidden, 0.3), hidden, other),
        "less": ops.where(ops.less(hidden, -0.2), other, hidden),
        "greater_equal": ops.where(ops.greater_equal(hidden, 0.0), hidden, other),
        "less_equal": ops.where(ops.less_equal(0.1, hidden), hidden, other),
    }
    return keras.Model(series, {name: layers.Dense(2)(layers.Flatten()(x)) for name, x in results.items()})


def _grid_constants(bundle):
    """Returns whether each comparison of integers has both sides on one grid."""
    graph = read_tflite(bundle.model_path).main
    sides = [
        [graph.tensors[index] for index in operator.inputs]
        for operator in graph.operators
        if operator.name in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
    ]
    return [a.scale == b.scale and a.zero_point == b.zero_point for a, b in sides if a.scale and b.is_constant]


@pytest.mark.parametrize("edges", ["float32", "int8"])
def test_every_padded_step_is_masked(edges, tmp_path):
    keras.utils.set_random_seed(0)
    model = masked_lstm()
    bundle = kn.convert(model, tmp_path / "bundle", "static_int8", edges=edges, calibration=SERIES)
    # 12 steps: an LSTM in int8 strays by up to 8 on such series; a step that is not masked moves outputs by 100.
    assert kn.verify(bundle).outputs[0].max_error_lsb < 12
    assert all(_grid_constants(bundle))
    entry = bundle.manifest.signatures[0]
    padded = {"series": np.full((1, STEPS, 3), PADDING, "float32")}
    expected = model.predict(padded["series"], verbose=0)
    actual = outputs(bundle.model_path, entry, padded, "xnnpack")[entry.outputs[0].name]
    # A sample of padding alone is the layer's zeros: one step of the output and of the biases.
    np.testing.assert_allclose(actual, expected, atol=2 * entry.outputs[0].scale)


def test_constants_are_on_the_grid_of_what_they_are_compared_with(tmp_path):
    keras.utils.set_random_seed(0)
    bundle = kn.convert(selections(), tmp_path / "bundle", "static_int8", calibration=SERIES)
    assert _grid_constants(bundle)
    assert all(_grid_constants(bundle))


def test_without_the_pass_steps_are_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(_pipeline, "compare_on_one_grid", lambda model, float_model: False)
    monkeypatch.setattr(_quantizer_settings, "find_input_comparisons", lambda model, activations_of, functions: [])
    keras.utils.set_random_seed(0)
    bundle = kn.convert(masked_lstm(), tmp_path / "bundle", "static_int8", calibration=SERIES)
    with pytest.raises(kn.errors.VerificationError):
        kn.verify(bundle)
