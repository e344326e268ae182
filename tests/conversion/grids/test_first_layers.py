"""Tables with columns of unlike ranges: the layer that normalizes them computes before the input is rounded."""

import logging

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn

RNG = np.random.default_rng(0)
# Seconds of a day or two, heavy-tailed amounts, components around 0, a constant.
COLUMNS = (
    RNG.uniform(0, 172792, (300, 1)),
    RNG.exponential(88, (300, 1)),
    RNG.normal(size=(300, 4)) * [1.9, 1.5, 0.7, 0.3],
    np.full((300, 1), 3.0),
)
TABLE = np.concatenate(COLUMNS, axis=1).astype("float32")
WIDTH = TABLE.shape[1]
ALIKE = RNG.normal(size=(300, 5)).astype("float32")
MEAN, SPREAD = TABLE.mean(0), TABLE.std(0) + 1e-3


def _scored(x, name):
    """Scores that need every column alike."""
    return layers.Dense(3, name=f"{name}_head")(layers.Dense(16, activation="relu", name=f"{name}_hidden")(x))


def _normalization(name, columns=slice(None), shift=1.0):
    """A normalization; equal ones become one operator in the file, so that each has a shift of its own."""
    return layers.Normalization(mean=shift * MEAN[columns], variance=SPREAD[columns] ** 2, name=name)


def every_first_layer():
    """A head behind each kind of first layer, and a second input with columns alike."""
    table, alike = keras.Input((WIDTH,), name="table"), keras.Input((5,), name="alike")
    batch = layers.BatchNormalization(name="batch")
    nested = keras.Sequential([keras.Input((WIDTH,)), _normalization("inner", shift=1.01)], name="nested")
    affine = layers.Dense(WIDTH, name="affine")
    outputs = {
        "plain": _scored(_normalization("plain_first")(table), "plain"),
        "batch": _scored(batch(table), "batch"),
        "nested": _scored(nested(table), "nested"),
        "affine": _scored(layers.ReLU()(affine(table)), "affine"),
        "sliced": _scored(_normalization("sliced_first", slice(2, 6))(table[:, 2:6]), "sliced"),
        "operations": _scored((table - 1.02 * MEAN) / SPREAD, "operations"),
        "alike": _scored(layers.BatchNormalization(name="alike_first")(alike), "alike"),
    }
    model = keras.Model([table, alike], outputs)
    gamma, beta, _, _ = batch.get_weights()
    batch.set_weights([gamma, beta, MEAN, SPREAD**2])
    affine.set_weights([np.diag(1 / SPREAD).astype("float32"), (1.0 - MEAN / SPREAD).astype("float32")])
    return model


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return every_first_layer()


def test_first_layers_of_unlike_columns_compute_in_floating_point(model, tmp_path, caplog):
    samples = {"table": TABLE, "alike": ALIKE}
    with caplog.at_level(logging.WARNING, logger="keras_notes"):
        bundle = kn.convert(model, tmp_path / "bundle", "static_int8", calibration=samples)
    assert "columns 1, 2, 3, 4, 5 of the input 'table'" in caplog.text
    exceptions = {name for path in bundle.manifest.exceptions for name in path.split("/")}
    assert {"plain_first", "batch", "inner", "affine", "sliced_first"} <= exceptions
    assert not {"alike_first", "plain_hidden", "affine_hidden"} & exceptions
    report = kn.verify(bundle)
    # 3 steps: what sound int8 networks of three layers show (root mean square 1.5, benchmarks of the tolerance).
    assert {output.name: output.rms_error_lsb < 3.0 for output in report.outputs} == dict.fromkeys(
        (output.name for output in report.outputs), True
    )


def test_integer_edges_of_unlike_columns_are_refused_by_name(tmp_path):
    first = keras.Sequential([keras.Input((WIDTH,), name="table"), _normalization("first"), layers.Dense(3)])
    with pytest.raises(kn.errors.ConversionError, match=r"columns 1, 2, 3.* 'first'.* edges='float32'"):
        kn.convert(first, tmp_path / "bundle", "static_int8", edges="int8", calibration=TABLE)


def test_first_layers_of_columns_alike_stay_in_integers(tmp_path):
    first = layers.Normalization(mean=ALIKE.mean(0), variance=ALIKE.var(0))
    model = keras.Sequential([keras.Input((5,)), first, layers.Dense(3)])
    for recipe in ("static_int8", "int16x8"):
        bundle = kn.convert(model, tmp_path / recipe, recipe, calibration=ALIKE)
        assert bundle.manifest.exceptions == {}
        assert kn.verify(bundle).float_islands == ()


def test_images_that_are_rescaled_stay_in_integers(tmp_path):
    images = RNG.integers(0, 256, (40, 8, 8, 3)).astype("float32")
    images[..., 0, :, :] = 0  # a dark border
    rescaling = layers.Rescaling([1 / 50, 1 / 60, 1 / 70], offset=[-2.1, -2.0, -1.8])
    outputs = ops.mean(layers.Conv2D(4, 3)(rescaling(image := keras.Input((8, 8, 3)))), axis=(1, 2))
    bundle = kn.convert(keras.Model(image, outputs), tmp_path / "bundle", "static_int8", calibration=images)
    assert bundle.manifest.exceptions == {}
