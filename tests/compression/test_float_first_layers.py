"""First layers of tables with unlike columns, which stay in floating point; and the warning for what is still lost."""

import logging
import warnings

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812

import keras_notes as kn
from keras_notes._shared.models.edge_layers import find_float_first_layers
from keras_notes.compression import quantize_aware

RNG = np.random.default_rng(0)
# Seconds, money, a score.
TABLE = (RNG.uniform(0, 1, (300, 3)) * [172_792, 88, 2.0] + [0, 0, -1.0]).astype("float32")


def normalization(name: str = "norm", x: np.ndarray = TABLE) -> keras.Layer:
    layer = L.Normalization(name=name)
    layer.adapt(x)
    return layer


def batch_normalization(name: str = "norm") -> keras.Layer:
    layer = L.BatchNormalization(name=name)
    layer.build((None, 3))
    layer.moving_mean.assign(TABLE.mean(0))
    layer.moving_variance.assign(TABLE.var(0))
    return layer


def rescaling(name: str = "norm") -> keras.Layer:
    return L.Rescaling((1.0 / TABLE.std(0)).tolist(), (-TABLE.mean(0) / TABLE.std(0)).tolist(), name=name)


def network(first: keras.Layer) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), first, L.Dense(16, activation="relu", name="hidden"), L.Dense(1)])


def nested() -> keras.Model:
    inner_inputs = keras.Input((3,))
    return network(keras.Model(inner_inputs, normalization()(inner_inputs), name="inner"))


def columns_by_themselves() -> keras.Model:
    inputs = [keras.Input((1,), name=f"column{number}") for number in range(3)]
    return keras.Model(inputs, L.Dense(1)(normalization()(L.Concatenate(name="join")(inputs))))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: network(normalization()), ["norm"]),
        (lambda: network(batch_normalization()), ["norm"]),
        (lambda: network(rescaling()), ["norm"]),
        (nested, ["inner/norm"]),
        (columns_by_themselves, ["join", "norm"]),
    ],
)
def test_affine_layers_before_the_first_rounding_are_seen(build, expected):
    model = build()
    samples = [TABLE] if len(model.inputs) == 1 else list(np.split(TABLE, 3, axis=1))
    assert find_float_first_layers(model, samples) == expected


def test_layers_of_like_columns_stay_in_integers():
    """A Rescaling of pixels, and a Normalization of columns of about one range, lose nothing."""
    like = RNG.normal(size=(300, 3)).astype("float32") * [1.0, 0.8, 1.2]
    assert find_float_first_layers(network(normalization(x=like)), [like]) == []
    pixels = RNG.uniform(0, 255, (64, 4, 4, 3)).astype("float32")
    images = keras.Sequential([keras.Input((4, 4, 3)), L.Rescaling(1 / 127.5, -1.0), L.Conv2D(2, 3)])
    assert find_float_first_layers(images, [pixels]) == []


def test_layer_behind_others_is_not_a_first_layer():
    model = keras.Sequential([keras.Input((3,)), L.Dense(3), normalization(), L.Dense(1)])
    assert find_float_first_layers(model, [TABLE]) == []


@pytest.mark.parametrize("build", [lambda: network(batch_normalization()), nested])
def test_model_of_unlike_columns_is_near_its_source_and_its_file(build, tmp_path, caplog):
    model = build()
    with caplog.at_level(logging.INFO, logger="keras_notes"):
        aware = quantize_aware(model, calibration=TABLE)
    assert "norm in floating point" in caplog.text
    expected, actual = model.predict(TABLE, verbose=0), aware.predict(TABLE, verbose=0)
    # The error of int8 in a small net is about 2 % of the spread; that of the lost columns was above 50 %.
    assert np.std(actual - expected) < 0.05 * np.std(expected)
    report = kn.verify(kn.convert(aware, tmp_path / "bundle", golden=TABLE[:64]))
    # A float32 operator before the first rounding: an input can lie on the other side of a tie.
    assert report.outputs[0].max_error_lsb < 2.01


def test_drawn_golden_samples_say_nothing_of_the_distance_to_the_float_model(tmp_path):
    """Normal numbers lie far outside of columns of thousands: the model in integers gives its limits for them."""
    x = (RNG.uniform(1, 2, (300, 3)) * [50000.0, 40.0, 0.5]).astype("float32")
    aware = quantize_aware(network(normalization(x=x)), calibration=x)
    report = kn.verify(kn.convert(aware, tmp_path / "drawn"))
    assert report.outputs[0].distance is None
    assert kn.verify(kn.convert(aware, tmp_path / "data", golden=x[:64])).outputs[0].distance is not None


def test_model_that_loses_a_column_is_warned_of_with_the_layer():
    """Without a layer that normalizes, the weights do; nothing can be kept in floating point."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, name="head")])
    model.set_weights([np.array([[1e-5], [1.0]], "float32"), np.zeros(1, "float32")])
    x = (RNG.uniform(0, 1, (200, 2)) * [1e5, 1.0]).astype("float32")
    with pytest.warns(UserWarning, match=r"(?s)Before training.*error of \d\.\d\d of.*'head'.*`skip`.*`equalize`"):
        quantize_aware(model, calibration=x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        quantize_aware(model, calibration=x / np.float32([1e5, 1.0]) * np.float32([1.0, 1.0]))
