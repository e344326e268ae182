"""The grid of an input: declared by `input_range`, or doubtful and said so."""

import logging

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn

IMAGES = np.random.default_rng(0).random((64, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    image, table = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="table")
    hidden = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(image))
    return keras.Model([image, table], layers.Dense(3)(layers.Concatenate()([hidden, table])))


def _convert(model, directory, images, **arguments):
    samples = {"image": images, "table": images[:, 0, 0, [0, 1, 2, 0]]}
    return kn.convert(model, directory, "static_int8", edges="uint8", calibration=samples, **arguments)


def _image(bundle):
    return next(entry for entry in bundle.manifest.signatures[0].inputs if entry.name == "image")


def test_a_dark_calibration_set_is_said_and_mended(model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="keras_notes"):
        _convert(model, tmp_path / "dark", 0.8 * IMAGES)
    assert "image 'image' stand for 0..0.8" in caplog.text
    assert "input_range=(0.0, 1.0)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="keras_notes"):
        bundle = _convert(model, tmp_path / "mended", 0.8 * IMAGES, input_range={"image": (0.0, 1.0)})
    assert "input_range" not in caplog.text
    assert (_image(bundle).scale, _image(bundle).zero_point) == (pytest.approx(1 / 255), 0)
    assert kn.verify(bundle).ok


@pytest.mark.parametrize(
    ("input_range", "error"),
    [
        ((0.0, 1.0), ValueError),
        ({"pixels": (0.0, 1.0)}, ValueError),
        ({"image": (1.0, 2.0)}, ValueError),
        ({"image": (0.0, 0.0)}, ValueError),
        ({"image": 255.0}, TypeError),
    ],
)
def test_wrong_ranges_are_refused(model, input_range, error, tmp_path):
    with pytest.raises(error, match="`input_range`"):
        _convert(model, tmp_path / "bundle", IMAGES, input_range=input_range)


def test_recipes_without_ranges_take_none(model, tmp_path):
    with pytest.raises(ValueError, match="`input_range` must be None"):
        kn.convert(model, tmp_path / "bundle", "float32", input_range={"image": (0.0, 1.0)})
