"""What every loss of the package must do, whatever it computes."""

import json

import keras
import numpy as np

FLOAT32_ROUNDING = 1e-6


def check_loss(loss, y_true, y_pred):
    """Checks the Keras contract of a loss on one batch: reductions, weights, masks, precision, serialization."""
    per_sample = np.asarray(_copy(loss, reduction=None)(y_true, y_pred))
    assert per_sample.shape == y_pred.shape[:1]
    assert np.isfinite(per_sample).all()
    _close(loss(y_true, y_pred), per_sample.mean())
    _close(_copy(loss, reduction="sum")(y_true, y_pred), per_sample.sum())
    _check_sample_weights(loss, y_true, y_pred, per_sample)
    _check_half_precision(loss, y_true, y_pred)
    _check_round_trip(loss, y_true, y_pred)


def check_trains_in_a_plain_model(loss, y_true, classes, activation, tmp_path):
    """Trains a plain compiled model, saves it, and gets the same loss from the file in safe mode."""
    x = np.random.default_rng(0).normal(size=(len(y_true), 6)).astype("float32")
    dense = keras.layers.Dense(classes, activation=activation)
    model = keras.Sequential([keras.Input((6,)), dense])
    model.compile(keras.optimizers.Adam(0.05), loss=loss)
    history = model.fit(x, y_true, epochs=20, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(again.loss) is type(loss)
    _close(again.evaluate(x, y_true, verbose=0), model.evaluate(x, y_true, verbose=0))


def _copy(loss, **changes):
    return type(loss).from_config({**loss.get_config(), **changes})


def _check_sample_weights(loss, y_true, y_pred, per_sample):
    weights = np.linspace(0.0, 2.0, len(per_sample)).astype("float32")
    _close(loss(y_true, y_pred, sample_weight=weights), (weights * per_sample).mean())
    _close(loss(y_true, y_pred, sample_weight=np.zeros_like(weights)), 0.0)


def _check_half_precision(loss, y_true, y_pred):
    """16-bit predictions are raised to float32: the same loss as float32 predictions of the same values."""
    for dtype in ("float16", "bfloat16"):
        rounded = keras.ops.cast(y_pred, dtype)
        value = loss(y_true, rounded)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        _close(value, loss(y_true, keras.ops.cast(rounded, "float32")))


def _check_round_trip(loss, y_true, y_pred):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert again.get_config() == loss.get_config()
    _close(again(y_true, y_pred), np.asarray(loss(y_true, y_pred)))


def _close(got, wanted):
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)
