"""Masks of attention: integer files hold them just below the scores, and give what the model gives."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.conversion import _pipeline

STEPS, WIDTH = 8, 16
RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(64, STEPS, WIDTH)).astype("float32")
KEPT = (np.arange(STEPS) < RNG.integers(2, STEPS + 1, (64, 1))).astype("float32")


def _scores(series):
    query, key = layers.Dense(WIDTH)(series), layers.Dense(WIDTH)(series)
    return ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5


def _attended(series, scores):
    return layers.Dense(3)(ops.matmul(ops.softmax(scores), layers.Dense(WIDTH)(series)))


def causal_constant():
    """-1e9 added to the future, as a constant."""
    series = keras.Input((STEPS, WIDTH), name="series")
    return keras.Model(series, _attended(series, _scores(series) + np.triu(np.full((1, STEPS, STEPS), -1e9, "f4"), 1)))


def equal_scores():
    """Scores so alike that a mask a little below them would let the future in."""
    series = keras.Input((STEPS, WIDTH), name="series")
    mask = np.triu(np.full((1, STEPS, STEPS), -1e9, "f4"), 1)
    return keras.Model(series, _attended(series, 0.01 * _scores(series) + mask))


def padding_as_input():
    """-1e9 times the padding that each sample has, in two layers, one of which has scores three times as large."""
    series, kept = keras.Input((STEPS, WIDTH), name="series"), keras.Input((STEPS,), name="kept")
    mask = (1.0 - ops.reshape(kept, (-1, 1, STEPS))) * -1e9
    hidden = layers.Dense(WIDTH)(_attended(series, _scores(series) + mask))
    return keras.Model([series, kept], _attended(hidden, 3.0 * _scores(series) + mask))


def attention_layer():
    """Keras's Attention, which subtracts 1e9."""
    series = keras.Input((STEPS, WIDTH), name="series")
    memory = layers.Dense(WIDTH)(series)
    return keras.Model(
        series, layers.Dense(3)(layers.Attention(use_scale=True)([memory, memory], use_causal_mask=True))
    )


def multi_head_layer():
    """Keras's MultiHeadAttention, which selects the least number of float32."""
    series = keras.Input((STEPS, WIDTH), name="series")
    attended = layers.MultiHeadAttention(2, WIDTH // 2, name="attention")(series, series, use_causal_mask=True)
    return keras.Model(series, layers.Dense(3)(attended))


NETS = (causal_constant, equal_scores, padding_as_input, attention_layer, multi_head_layer)


def _converted(net, directory, recipe):
    keras.utils.set_random_seed(0)
    model = net()
    data = {"series": SERIES, "kept": KEPT}
    return kn.convert(model, directory, recipe, calibration={entry.name: data[entry.name] for entry in model.inputs})


def _rms_lsb(bundle):
    try:
        report = kn.verify(bundle)
    except kn.errors.VerificationError as error:
        report = error.report
    return report.outputs[0].rms_error_lsb


@pytest.mark.parametrize("net", NETS)
def test_a_masked_softmax_is_proven_in_int8(net, tmp_path):
    assert kn.verify(_converted(net, tmp_path / "bundle", "static_int8")).ok


def test_a_masked_softmax_is_proven_in_int16(tmp_path):
    assert kn.verify(_converted(multi_head_layer, tmp_path / "bundle", "int16x8")).ok


@pytest.mark.parametrize("net", [net for net in NETS if net is not equal_scores])
def test_without_lowering_a_masked_softmax_strays(net, tmp_path, monkeypatch):
    monkeypatch.setattr(_pipeline, "lower_masks", lambda *_: False)
    assert _rms_lsb(_converted(net, tmp_path / "bundle", "static_int8")) > 10


def test_a_layer_that_stays_float_keeps_its_mask(tmp_path):
    recipe = {"default": "static_int8", "layers": {"attention": "float32"}}
    bundle = _converted(multi_head_layer, tmp_path / "bundle", recipe)
    assert kn.verify(bundle).ok
    names = {tensor.name for tensor in read_tflite(bundle.model_path).main.tensors}
    assert not any("lowered" in name for name in names)
