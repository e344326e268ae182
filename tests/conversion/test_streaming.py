"""A sequence model step by step: the same outputs, the same weights, on the device too."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn
from keras_notes.conversion import streaming_model
from tests.support.bundles import run_device

STEPS, INPUTS = 10, 4
X = np.random.default_rng(0).normal(size=(1, STEPS, INPUTS)).astype("float32")
# The same products summed in another order, through ten steps.
FLOAT32_ROUNDING = 2e-6


def tagger(sequences=False):
    """An LSTM and a GRU between layers that treat each step alike."""
    return keras.Sequential(
        [
            keras.Input((STEPS, INPUTS)),
            layers.Dense(8, activation="relu"),
            layers.LayerNormalization(),
            kn.layers.LSTM(6, return_sequences=True),
            layers.Dropout(0.5),
            layers.GRU(5, return_sequences=sequences),
            layers.Dense(3),
        ],
        name="tagger",
    )


def steps_of(step, x=X):
    return np.stack([keras.ops.convert_to_numpy(step(x[:, t : t + 1])) for t in range(x.shape[1])])


@pytest.mark.any_backend
def test_outputs_step_by_step_are_those_of_the_whole():
    model = tagger(sequences=True)
    actual = steps_of(streaming_model(model))[:, 0, 0]
    np.testing.assert_allclose(actual, keras.ops.convert_to_numpy(model(X))[0], atol=FLOAT32_ROUNDING)


@pytest.mark.any_backend
def test_the_output_of_each_step_is_that_of_the_sequence_so_far():
    model = tagger()
    actual = steps_of(streaming_model(model))[:, 0]
    whole = keras.Sequential([keras.Input((None, INPUTS)), *model.layers])
    for t in range(STEPS):
        expected = keras.ops.convert_to_numpy(whole(X[:, : t + 1]))[0]
        np.testing.assert_allclose(actual[t], expected, atol=FLOAT32_ROUNDING)


@pytest.mark.any_backend
def test_weights_are_shared_and_the_model_is_left_as_it_was():
    model = tagger()
    step = streaming_model(model)
    assert {id(weight) for weight in step.trainable_weights} == {id(weight) for weight in model.trainable_weights}
    assert not any(layer.stateful for layer in model.layers if isinstance(layer, layers.RNN))
    model.layers[-1].bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(steps_of(step)[-1], keras.ops.convert_to_numpy(model(X)), atol=FLOAT32_ROUNDING)


def test_ids_and_nested_models_stream_too():
    inner = keras.Sequential([keras.Input((STEPS, 4)), layers.LSTM(6, return_sequences=True)], name="inner")
    model = keras.Sequential([keras.Input((STEPS,), dtype="int32"), layers.Embedding(9, 4), inner, layers.Dense(2)])
    ids = np.arange(STEPS, dtype="int32")[None] % 9
    np.testing.assert_allclose(steps_of(streaming_model(model), ids)[:, 0, 0], model(ids)[0], atol=FLOAT32_ROUNDING)


@pytest.mark.parametrize("recipe", ["float32", "dynamic_int8", "static_int8", "int16x8"])
def test_a_phone_feeds_one_sample_at_a_time(recipe, tmp_path):
    stream = np.random.default_rng(1).normal(size=(256, 1, INPUTS)).astype("float32")
    calibration = stream if recipe in ("static_int8", "int16x8") else None
    net = [layers.LSTM(6, return_sequences=True), layers.GRU(5), layers.Dense(3)]
    step = streaming_model(keras.Sequential([keras.Input((STEPS, INPUTS)), *net]))
    bundle = kn.convert(step, tmp_path / "bundle", recipe, golden=stream[:40], calibration=calibration)
    report = kn.verify(bundle)
    assert len(report.outputs) == 4  # y_t, the states h and c of one layer, h of the other
    (signature,) = bundle.manifest.signatures
    assert len(signature.states) == 3
    assert "WHILE" not in report.operators
    assert run_device(bundle.directory).returncode == 0


def test_one_file_holds_the_whole_and_the_step_with_the_weights_once(tmp_path):
    model = keras.Sequential([keras.Input((STEPS, INPUTS)), layers.LSTM(64), layers.Dense(3)])
    series = np.random.default_rng(1).normal(size=(8, STEPS, INPUTS)).astype("float32")
    stream = {"serving_default": series, "step": series.reshape(-1, 1, INPUTS)}
    whole = kn.convert(model, tmp_path / "whole", "float32", golden=series)
    both = kn.convert(model, tmp_path / "both", "float32", signatures={"step": streaming_model(model)}, golden=stream)
    assert kn.verify(both).ok
    weights = 4 * model.count_params()
    assert both.model_path.stat().st_size - whole.model_path.stat().st_size < 0.2 * weights
    assert run_device(both.directory).returncode == 0


@pytest.mark.parametrize(
    ("inside", "received"),
    [
        ([layers.Bidirectional(layers.LSTM(4), name="both")], r"'both' \(Bidirectional\), which looks at several"),
        (
            [layers.LSTM(4, return_sequences=True), layers.GlobalAveragePooling1D(name="mean")],
            r"'mean' \(GlobalAverage",
        ),
        ([layers.LSTM(4, go_backwards=True, name="back")], r"'back', which reads backwards"),
        ([layers.LSTM(4, return_sequences=True), layers.Lambda(lambda x: x[:, ::-1]), layers.LSTM(4)], r"off by \d"),
    ],
)
def test_layers_that_look_at_several_steps_are_refused(inside, received):
    model = keras.Sequential([keras.Input((STEPS, INPUTS)), *inside], name="net")
    with pytest.raises(ValueError, match=rf"Every layer of 'net' must treat each step alike\. Received: .*{received}"):
        streaming_model(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([keras.Input((3, 4)), layers.Dense(2)], name="net"), r"a recurrent layer\. Received: 'net'"),
        (keras.Sequential([layers.LSTM(2)]), r"`model` must be a functional or sequential model with one input"),
        (layers.LSTM(2), r"with one input\. Received: model='LSTM'\."),
    ],
)
def test_what_has_no_steps_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        streaming_model(model)


def test_a_float_layer_at_the_sensors_leaves_the_rest_in_integers(tmp_path):
    mean, variance = np.arange(INPUTS, dtype="float32"), np.full(INPUTS, 0.01, "float32")
    net = [layers.Normalization(mean=mean, variance=variance, name="units"), kn.layers.LSTM(6), layers.Dense(3)]
    step = streaming_model(keras.Sequential([keras.Input((STEPS, INPUTS)), *net]))
    samples = (mean + 0.1 * np.random.default_rng(1).normal(size=(128, 1, INPUTS))).astype("float32")
    # The head reads what the LSTM also gives out as its state.
    recipe = {"default": "static_int8", "layers": {"units": "float32"}}
    bundle = kn.convert(step, tmp_path / "bundle", recipe, calibration=samples)
    assert {output.scale is None for output in bundle.manifest.signatures[0].outputs} == {False}
    assert kn.verify(bundle).ok
