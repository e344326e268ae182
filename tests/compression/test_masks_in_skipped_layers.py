"""Masks that Keras carries beside its tensors: refused in integers, and kept by layers in `skip`."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn
from keras_notes.compression import quantize_aware

IDS = np.random.default_rng(0).integers(0, 50, (64, 12)).astype("int32")


def text_net(pooling) -> keras.Model:
    keras.utils.set_random_seed(0)
    embedding = layers.Embedding(50, 8, mask_zero=True)
    return keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            embedding,
            layers.Dropout(0.1),
            pooling,
            layers.Dense(1, activation="sigmoid"),
        ]
    )


@pytest.mark.parametrize("pooling", [layers.GlobalAveragePooling1D(name="mean"), layers.LSTM(4, name="mean")])
def test_a_layer_in_skip_gets_its_mask(pooling):
    net = text_net(pooling)
    with pytest.raises(ValueError, match="Give it in `skip`, where it gets its mask"):
        quantize_aware(net, calibration=IDS)
    aware = quantize_aware(net, calibration=IDS, skip=["mean"])
    np.testing.assert_allclose(aware.predict(IDS, verbose=0), net.predict(IDS, verbose=0), atol=0.02)
    padded = IDS.copy()
    padded[:, 6:] = 0
    np.testing.assert_allclose(aware.predict(padded, verbose=0), net.predict(padded, verbose=0), atol=0.02)


def test_the_remedy_for_a_text_model_gives_a_file(tmp_path):
    aware = quantize_aware(text_net(layers.GlobalAveragePooling1D(name="mean")), calibration=IDS, skip=["mean"])
    report = kn.verify(kn.convert(aware, tmp_path / "bundle", golden=IDS))
    assert report.outputs[0].max_error_lsb < 1.01
