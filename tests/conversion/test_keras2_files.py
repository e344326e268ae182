"""Files of Keras 2 are loaded with the hard sigmoid that they were trained with."""

import logging

import h5py
import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.cli._arguments import load_model
from keras_notes.conversion import keras2_hard_sigmoid, load_keras2_model

X = np.random.default_rng(0).normal(size=(8, 6, 4)).astype("float32")


def model(function):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(4, activation=function, name="dense"),
        keras.layers.LSTM(5, recurrent_activation=function, return_sequences=True, name="lstm"),
        keras.layers.Bidirectional(keras.layers.GRU(3, recurrent_activation=function, activation=function)),
        keras.layers.Activation(function, name="gate"),
        keras.layers.Dense(2, activation="relu", name="head"),
    ]
    return keras.Sequential([keras.Input((6, 4)), *layers])


@pytest.fixture
def file_of(tmp_path):
    def write(version):
        path = tmp_path / "model.h5"
        model("hard_sigmoid").save(path)
        with h5py.File(path, "a") as file:
            if version is None:
                del file.attrs["keras_version"]
            else:
                file.attrs["keras_version"] = version
        return path

    return write


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    ("version", "load"),
    [
        ("1.2.2", load_keras2_model),
        (b"2.15.0", load_keras2_model),
        ("2.2.4-tf", lambda path: load_model(str(path), [])),
    ],
    ids=["1", "2 in bytes", "2 on the command line"],
)
def test_every_layer_computes_as_in_keras_2(file_of, version, load, caplog):
    with caplog.at_level(logging.WARNING, "keras_notes"):
        loaded = load(file_of(version))
    expected = model(keras2_hard_sigmoid).predict(X, verbose=0)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)
    # The functions differ by up to 0.1: the test can fail.
    assert np.abs(model("hard_sigmoid").predict(X, verbose=0) - expected).max() > 1e-3
    assert "dense, lstm_cell, " in caplog.text
    assert "in the place of Keras 3's" in caplog.text


@pytest.mark.parametrize("version", ["3.5.0", None])
def test_other_files_load_as_they_are(file_of, version, caplog):
    loaded = load_keras2_model(file_of(version))
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model("hard_sigmoid").predict(X, verbose=0))
    assert [record for record in caplog.records if record.name.startswith("keras_notes")] == []


def test_the_function_of_keras_2_is_saved_and_converted(tmp_path):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=keras2_hard_sigmoid)])
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = 3 * X[:, 0]
    exact = np.clip(0.2 * x + 0.5, 0, 1)
    np.testing.assert_allclose(keras2_hard_sigmoid(x), exact, atol=1e-6)  # a few roundings of float32
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), network.predict(x, verbose=0))
    assert kn.verify(kn.convert(loaded, tmp_path / "bundle", "static_int8", calibration=np.repeat(x, 8, 0))).ok
