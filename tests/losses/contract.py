"""What every loss of the package must do, whatever it computes."""

import json

import keras
import numpy as np

from tests.support.gradients import value_and_gradient

FLOAT32_ROUNDING = 1e-6
# Compilers sum in another order, and a sum of a few hundred terms rounds in proportion to its root.
COMPILED_ROUNDING = 1e-5
# A central difference over 1e-6 of the predictions is wrong by the square of it, and by rounding: 2e-16 / 1e-6.
FLOAT64_TOLERANCE = 1e-7


def check_loss(loss, y_true, y_pred, *, positions=1):
    """Checks the Keras contract of a loss on one batch: reductions, weights, precision, compilation, serialization.

    `positions` is the number of leading axes of y_pred that have a loss of their own: 1 for one a sample.
    """
    per_sample = np.asarray(copy_of(loss, reduction=None)(y_true, y_pred))
    assert per_sample.shape == y_pred.shape[:positions]
    assert np.isfinite(per_sample).all()
    _close(loss(y_true, y_pred), per_sample.mean())
    _close(copy_of(loss, reduction="sum")(y_true, y_pred), per_sample.sum())
    _check_sample_weights(loss, y_true, y_pred, per_sample)
    _check_half_precision(loss, y_true, y_pred)
    _check_round_trip(loss, y_true, y_pred)
    _check_compiled(loss, y_true, y_pred)
    # JAX has float64 only where it is switched on; on PyTorch Keras itself rounds to float32 on the way.
    if keras.backend.backend() == "tensorflow":
        _check_float64(loss, y_true, y_pred, per_sample)


def check_trains_in_a_plain_model(loss, y_true, classes, activation, tmp_path):
    """As `check_trains`, with a model of one dense layer on inputs of its own."""
    x = np.random.default_rng(0).normal(size=(len(y_true), 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(classes, activation=activation)])
    check_trains(model, loss, x, y_true, tmp_path)


def check_trains(model, loss, x, y_true, tmp_path=None, *, least_gain=0.1, jit_compile="auto"):
    """Trains a model with the loss, which must fall; saves it, and gets the same loss from the file in safe mode."""
    model.compile(keras.optimizers.Adam(0.05), loss=loss, jit_compile=jit_compile)
    history = model.fit(x, y_true, epochs=20, batch_size=16, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < (1 - least_gain) * history[0]
    if tmp_path is None:
        return
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(again.loss) is type(loss)
    assert again.loss.get_config() == loss.get_config()
    _close(again.evaluate(x, y_true, verbose=0), model.evaluate(x, y_true, verbose=0))


def check_no_gradient_reaches_the_teacher(loss, y_true, y_pred):
    """The gradient with respect to the first argument is zero, and not to the second."""
    _, gradient = value_and_gradient(lambda teacher: loss(teacher, y_pred), y_true)
    assert (gradient == 0).all()
    _, gradient = value_and_gradient(lambda student: loss(y_true, student), y_pred)
    assert (gradient != 0).any()


def copy_of(loss, **changes):
    """The same loss with some arguments changed."""
    return type(loss).from_config({**loss.get_config(), **changes})


def _check_sample_weights(loss, y_true, y_pred, per_sample):
    weights = np.linspace(0.0, 2.0, per_sample.size).astype("float32").reshape(per_sample.shape)
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


def _check_compiled(loss, y_true, y_pred):
    """The backend's compiler gives the same value and the same gradient."""
    eager, compiled = (
        value_and_gradient(lambda z: loss(y_true, z), y_pred, compiled=compiled) for compiled in (False, True)
    )
    np.testing.assert_allclose(compiled[0], eager[0], rtol=COMPILED_ROUNDING, atol=FLOAT32_ROUNDING)
    assert np.isfinite(eager[1]).all()
    np.testing.assert_allclose(
        compiled[1], eager[1], rtol=COMPILED_ROUNDING, atol=COMPILED_ROUNDING * abs(eager[1]).max()
    )


def _check_float64(loss, y_true, y_pred, per_sample):
    """In float64 a change of the predictions that float32 cannot hold changes the loss by its gradient."""
    in_float64 = copy_of(loss, reduction=None, dtype="float64")
    values = in_float64(y_true, y_pred)
    assert keras.backend.standardize_dtype(values.dtype) == "float64"
    np.testing.assert_allclose(np.asarray(values), per_sample, rtol=COMPILED_ROUNDING, atol=FLOAT32_ROUNDING)
    total = copy_of(loss, reduction="sum", dtype="float64")
    _, gradient = value_and_gradient(lambda z: total(y_true, z), y_pred.astype("float64"))
    step = 1e-6 * np.abs(y_pred) * np.random.default_rng(0).normal(size=y_pred.shape)
    change = float(total(y_true, y_pred + step)) - float(total(y_true, y_pred - step))
    wanted = 2 * (gradient * step).sum()
    assert abs(change - wanted) < FLOAT64_TOLERANCE * np.abs(gradient * step).sum()


def _close(got, wanted):
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)
