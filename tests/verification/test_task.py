"""Verdicts by the task: the file's figure on labelled samples beside the trained model's own, and data off the grid."""

import json
import logging

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import errors
from keras_notes.bundle import open_bundle
from keras_notes.cli import main
from tests.support.bundles import TESTDATA, bars, run_device, trained_net

X, Y = bars(400, seed=3)
CALIBRATION = bars(200, seed=1)[0]


@pytest.fixture(scope="module")
def net():
    return trained_net(0)


@pytest.fixture(scope="module")
def sound(net, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sound") / "bundle"
    return kn.convert(net, directory, calibration=CALIBRATION, validation_data=(X, Y))


def test_the_trained_models_figure_stands_beside_the_files(sound, net, capsys):
    expected = float((net.predict(X, verbose=0).argmax(-1) == Y).mean())
    (figure,) = kn.verify(sound, X, Y).figures
    assert (figure.metric, figure.trained_value, figure.is_on_same_data) == ("accuracy", expected, True)
    assert figure.low < figure.value < figure.high
    assert abs(figure.loss) <= 0.01
    assert f"trained model {expected:.4f}" in str(kn.verify(sound, X, Y))
    # On other data it stands there too, and says so.
    (other,) = kn.verify(sound, X[:100], Y[:100]).figures
    assert (other.is_on_same_data, other.loss) == (False, None)
    assert "on 400 other samples" in str(other)
    assert main(["inspect", str(sound.directory)]) == 0
    assert f"accuracy of the trained model at 'output': {expected:.4f} on 400" in capsys.readouterr().out
    assert run_device(sound.directory).returncode == 0


def test_calibration_in_another_scale_fails_by_the_task(net, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        bundle = kn.convert(net, tmp_path / "bundle", calibration=255 * CALIBRATION, validation_data=(X, Y),
                            golden=CALIBRATION[:32])  # fmt: skip
    assert "the golden samples must use the grid of the input 'image'" in caplog.text
    with pytest.raises(
        errors.VerificationError, match="the accuracy of the file at the output 'output' must be within"
    ):
        kn.verify(bundle, X, Y)


def test_data_off_the_grid_are_said_without_the_models_figure(net, tmp_path):
    bundle = kn.convert(net, tmp_path / "bundle", calibration=255 * CALIBRATION)
    (warning,) = kn.verify(bundle, X).warnings
    assert "`x` must use the grid of the input 'image'" in warning
    with pytest.raises(errors.VerificationError, match="`x` must use the grid") as caught:
        kn.verify(bundle, X, Y)
    assert caught.value.report.figures[0].trained_value is None
    (outside,) = kn.verify(bundle, 255 * 255 * X).warnings
    assert "must lie on the grid" in outside


def test_data_on_the_grid_are_no_alarm(sound):
    assert kn.verify(sound, X).warnings == ()
    assert kn.verify(TESTDATA, X, Y).warnings == ()


def test_a_budget_is_the_largest_loss(sound):
    (figure,) = open_bundle(sound.directory).manifest.trained_figures
    assert figure.budget == 0.01
    assert len(sound.scores(figure)) == len(X)


def test_a_model_at_chance_is_said(tmp_path):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1), name="image")
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))
    report = kn.verify(kn.convert(model, tmp_path / "bundle", "float32", validation_data=(X, Y)), X, Y)
    assert "of the file, and of the trained model," in report.warnings[0]
    assert "no better than the most frequent answer" in report.warnings[0]


def test_heads_of_several_kinds_are_judged_each_by_its_metric(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype("float32")
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    probability = keras.layers.Dense(1, activation="sigmoid", name="probability")(hidden)
    logits = keras.layers.Dense(3, name="labels")(hidden)
    number = keras.layers.Dense(1, name="number")(hidden)
    model = keras.Model(inputs, [probability, logits, number])
    outputs = model.predict(x, verbose=0)
    y = {"probability": (outputs[0] > 0.5).astype(int), "labels": (outputs[1] > 0).astype(int), "number": outputs[2]}
    bundle = kn.convert(model, tmp_path / "bundle", calibration=x, validation_data=(x, y))
    figures = {figure.output: figure for figure in kn.verify(bundle, [x], y).figures}
    assert {name: figure.metric for name, figure in figures.items()} == {
        "probability": "binary_accuracy", "labels": "binary_accuracy", "number": "mae"}  # fmt: skip
    thresholds = {figure.output: figure.threshold for figure in bundle.manifest.trained_figures}
    assert thresholds == {"probability": 0.5, "labels": 0.0, "number": None}
    assert figures["probability"].value > 0.95
    # The labels are the model's own outputs, by another order of sums.
    assert figures["number"].trained_value == pytest.approx(0.0, abs=1e-5)
    assert figures["number"].interval == "bootstrap"
    report = kn.verify(bundle, x, {"number": outputs[2]}, metric=lambda y_true, y_pred: abs(y_true - y_pred).max())
    assert json.dumps(report.to_dict())


def test_a_quantization_aware_bundle_holds_the_distance_to_its_float_model(net, tmp_path, capsys):
    aware = kn.compression.quantize_aware(net, calibration=CALIBRATION)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=CALIBRATION[:32])
    (output,) = kn.verify(bundle).outputs
    twin = net.predict(CALIBRATION[:32], verbose=0)
    assert 0 < output.distance.rms_error < 0.05 * output.distance.spread
    assert output.distance.spread == pytest.approx(twin.std(), rel=1e-3)
    main(["inspect", str(bundle.directory)])
    assert "trained model against the float model: rms" in capsys.readouterr().out
    opposite = kn.convert(aware, tmp_path / "opposite", golden=CALIBRATION[:32], reference=-twin)
    report = kn.verify(opposite)
    assert report.outputs[0].distance.top1_agreement < 0.5
    assert "is far from the float model" in report.warnings[0]
    with pytest.raises(ValueError, match="`reference` must give outputs of the shapes"):
        kn.convert(aware, tmp_path / "wrong", golden=CALIBRATION[:32], reference=twin[:5])
