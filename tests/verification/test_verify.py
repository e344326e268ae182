"""Verification: bundles that are equal pass, and everything that is not fails. Errors of integer files are in LSB."""

import json

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert import runtime
from keras_notes._litert.runtime import KERNELS, quantize
from keras_notes.bundle import open_bundle
from tests.support.bundles import (
    GOLDEN_INPUT,
    MODEL_FILE,
    TESTDATA,
    add_signature,
    bars,
    contents,
    copied,
    edit_manifest,
    interpreter,
    output_lsb,
    rewrite,
    rewrite_golden,
)

# A sound conversion of a net this small stays within 2 steps of 255; the recipe's tolerance is for deep ones.
SOUND_LSB = 2.0
# XNNPACK rounds by the machine's instructions: one step off what the machine that made the testdata saw.
OTHER_MACHINE_LSB = 1.0


def _failed(directory):
    """The report of a verification, which must fail."""
    with pytest.raises(errors.VerificationError, match="is not equal to the trained model") as caught:
        kn.verify(directory)
    assert not caught.value.report.ok
    assert caught.value.report.failures
    return caught.value.report


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_testdata_bundle_is_equal_on_every_kernel_set(kernels):
    report = kn.verify(TESTDATA, kernels=kernels)
    assert report.ok
    assert report.kernels == kernels
    assert report.outputs[0].max_error_lsb <= SOUND_LSB
    assert report.outputs[0].top1_agreement == 1.0


@pytest.mark.parametrize(("kernels", "resolver"), KERNELS.items())
def test_the_kernels_are_the_ones_that_were_asked_for(monkeypatch, kernels, resolver):
    # Their results are equal for this net, so the choice itself is what can be seen.
    chosen = []

    def recording(*arguments, experimental_op_resolver_type, **options):
        chosen.append(experimental_op_resolver_type)
        return Interpreter(*arguments, experimental_op_resolver_type=experimental_op_resolver_type, **options)

    monkeypatch.setattr(runtime, "Interpreter", recording)
    bundle = open_bundle(TESTDATA)
    runtime.Runtime(bundle.model_path, bundle.manifest.signatures[0], kernels)
    assert chosen == [resolver]


def test_the_testdata_bundle_states_what_the_reference_kernels_give():
    report = kn.verify(TESTDATA, kernels="reference")
    stated = open_bundle(TESTDATA).manifest.metrics["max_error_lsb_reference"]
    # Integer arithmetic is the same everywhere; the one float32 multiplication behind it is not further off than this.
    assert report.outputs[0].max_error_lsb == pytest.approx(stated, abs=1e-4)


def test_the_testdata_bundle_states_what_xnnpack_gives():
    stated = open_bundle(TESTDATA).manifest.metrics["max_error_lsb_xnnpack"]
    assert kn.verify(TESTDATA).outputs[0].max_error_lsb == pytest.approx(stated, abs=OTHER_MACHINE_LSB)


def test_the_report_says_what_the_file_holds():
    bundle = open_bundle(TESTDATA)
    report = kn.verify(bundle)
    assert report.model_bytes == (TESTDATA / MODEL_FILE).stat().st_size
    assert report.golden_samples == bundle.manifest.signatures[0].golden_samples
    assert report.operators["CONV_2D"] == 1
    assert report.float_islands == ()
    assert (report.accuracy, report.accuracy_samples) == (None, 0)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    assert str(report).startswith("bars: PASS\n  recipe static_int8")


def test_the_errors_equal_those_of_a_second_computation():
    bundle = open_bundle(TESTDATA)
    (signature,) = bundle.manifest.signatures
    inputs, outputs = bundle.golden(signature)
    run = interpreter(bundle.model_path).get_signature_runner(signature.name)
    got = np.concatenate([run(image=image[np.newaxis])["output"] for image in inputs["image"]])
    error_lsb = (got.astype("float64") - outputs["output"]) / output_lsb(bundle)
    (output,) = kn.verify(bundle, kernels="reference").outputs
    assert output.max_error_lsb == pytest.approx(np.abs(error_lsb).max())
    assert output.mean_error_lsb == pytest.approx(error_lsb.mean())


@pytest.mark.parametrize("shift_lsb", [2, -2])
def test_a_golden_output_shifted_by_2_lsb_fails(testdata, shift_lsb):
    shift = shift_lsb * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: values + shift)
    report = _failed(testdata)
    assert "the mean error" in report.failures[-1]
    assert report.outputs[0].mean_error_lsb == pytest.approx(-shift_lsb, abs=1.0)
    assert "bars: FAIL" in str(report)


def test_failures_belong_to_the_output_and_name_its_signature(testdata):
    add_signature(testdata, "step", shift=3 * output_lsb(open_bundle(testdata)))
    report = _failed(testdata)
    sound, failing = report.outputs
    assert (sound.failures, failing.failures) == ((), report.failures)
    assert all("'step/output'" in failure for failure in report.failures)
    assert report.to_dict()["outputs"][1]["failures"] == report.failures


def test_classes_shifted_against_each_other_fail(testdata):
    # The mean over all classes is 0, and no single error is beyond the limit.
    shifts = np.float32([3, -3, 3, -3]) * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: (values.reshape(-1, 4) + shifts).ravel())
    report = _failed(testdata)
    assert abs(report.outputs[0].mean_error_lsb) < 1
    assert report.outputs[0].max_error_lsb < 24
    assert "root mean square" in report.failures[0]


def test_small_outputs_are_compared_by_their_own_size(converted, tmp_path):
    directory = copied(converted("float32"), tmp_path / "bundle")
    rewrite_golden(directory, lambda values: values * np.float32(1e-6))
    assert "largest error" in _failed(directory).failures[0]


def test_one_golden_output_far_off_fails(testdata):
    far = 70 * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: np.concatenate([values[:1] + far, values[1:]]))
    assert "largest error" in _failed(testdata).failures[0]


@pytest.mark.parametrize("shift", [1e-2, -1e-2])
def test_a_float32_golden_output_shifted_by_a_hundredth_fails(converted, tmp_path, shift):
    directory = copied(converted("float32"), tmp_path / "bundle")
    rewrite_golden(directory, lambda values: values + np.float32(shift))
    assert _failed(directory).outputs[0].max_error == pytest.approx(abs(shift), rel=1e-2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("recipe", ["float32", "static_int8"])
def test_a_golden_output_that_is_not_finite_fails(converted, tmp_path, recipe, value):
    directory = copied(converted(recipe), tmp_path / "bundle")
    rewrite_golden(directory, lambda values: np.concatenate([values[:-1], [value]]))
    _failed(directory)


@pytest.mark.parametrize("recipe", ["float32", "static_int8"])
def test_another_golden_input_fails(converted, tmp_path, recipe):
    directory = copied(converted(recipe), tmp_path / "bundle")
    rewrite_golden(directory, np.zeros_like, GOLDEN_INPUT)
    _failed(directory)


def test_a_model_of_another_training_is_a_bundle_error(testdata, converted):
    rewrite(testdata, MODEL_FILE, (converted("static_int8").model_path).read_bytes())
    with pytest.raises(errors.BundleError, match="must have the inputs that its manifest describes"):
        kn.verify(testdata)


def test_a_model_with_other_weights_on_the_same_grids_fails(testdata, tmp_path):
    model = flatbuffer_utils.read_model(str(testdata / MODEL_FILE))
    beside = {entry.buffer for entry in model.metadata}
    held = [buffer for index, buffer in enumerate(model.buffers) if index not in beside and buffer.data is not None]
    weights = max(held, key=lambda buffer: len(buffer.data))
    weights.data = np.roll(weights.data, 1)
    flatbuffer_utils.write_model(model, str(tmp_path / "other.tflite"))
    rewrite(testdata, MODEL_FILE, (tmp_path / "other.tflite").read_bytes())
    _failed(testdata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(b"", "0 is less than the minimum of 1"), (b"not a flatbuffer", r"model\.tflite' must be a \.tflite file")],
)
def test_a_model_that_cannot_be_loaded_is_a_bundle_error(testdata, damage, message):
    rewrite(testdata, MODEL_FILE, damage)
    with pytest.raises(errors.BundleError, match=message):
        kn.verify(testdata)


def test_a_truncated_model_with_a_right_hash_is_a_bundle_error(testdata):
    rewrite(testdata, MODEL_FILE, (testdata / MODEL_FILE).read_bytes()[:1000])
    with pytest.raises(errors.BundleError, match=r"must be a \.tflite file"):
        kn.verify(testdata)


@pytest.mark.parametrize(("recipe", "edges"), [("float32", "float32"), ("static_int8", "uint8")])
def test_a_model_that_the_manifest_does_not_describe_is_a_bundle_error(converted, tmp_path, recipe, edges):
    directory = copied(converted("static_int8"), tmp_path / "bundle")
    rewrite(directory, MODEL_FILE, converted(recipe, edges).model_path.read_bytes())
    with pytest.raises(errors.BundleError):
        kn.verify(directory)


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_a_tensor_that_the_model_does_not_have_is_a_bundle_error(testdata, kind):
    edit_manifest(testdata, lambda manifest: manifest["signatures"][0][kind][0].update(name="other"))
    with pytest.raises(errors.BundleError):
        kn.verify(testdata)


def test_a_coarser_grid_than_the_model_has_is_a_bundle_error(testdata):
    edit_manifest(testdata, lambda manifest: manifest["signatures"][0]["outputs"][0].update(scale=100.0))
    with pytest.raises(errors.BundleError):
        kn.verify(testdata)


def test_files_are_checked_again_for_an_open_bundle(testdata):
    bundle = open_bundle(testdata)
    (testdata / MODEL_FILE).write_bytes(b"swapped")
    with pytest.raises(errors.BundleError, match=rf"damaged: {MODEL_FILE}"):
        kn.verify(bundle)


def test_verification_changes_nothing(testdata):
    before = contents(testdata)
    kn.verify(testdata)
    assert contents(testdata) == before


def test_accuracy_equals_that_of_a_second_computation():
    x, y = bars(200, seed=3)
    y[::5] = 0
    run = interpreter(TESTDATA / MODEL_FILE).get_signature_runner("serving_default")
    classes = np.array([run(image=image[np.newaxis])["output"].argmax() for image in x])
    report = kn.verify(TESTDATA, x, y, kernels="reference")
    assert report.accuracy == (classes == y).mean()
    assert report.accuracy_samples == 200
    assert 0.5 < report.accuracy < 1.0
    assert f"accuracy {report.accuracy:.4f} on 200 samples" in str(report)


def test_x_is_taken_by_name():
    x, y = bars(20, seed=3)
    assert kn.verify(TESTDATA, {"image": x}, y).accuracy == kn.verify(TESTDATA, x, y).accuracy


X, Y = bars(5, seed=0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (None, Y, "`x` and `y` must be given together"),
        (X, [0, 1, 2, 3, 4], r"class ids in \[0, 4\)\. Received: 4 \(1 of 5"),
        (X, [0, 1, -1, 3, -1], r"class ids in \[0, 4\)\. Received: -1 \(2 of 5"),
        (X, Y[:4], r"must have the shape \(4, 8, 8, 1\).* Received: shape \(5, 8, 8, 1\) for the input 'image'"),
        (X[..., 0], Y, r"must have the shape \(5, 8, 8, 1\).* Received: shape \(5, 8, 8\)"),
        (X, Y.astype("float32"), "must hold class ids: integers of shape .* Received: dtype float32"),
        (X, np.eye(5, 4), r"must hold class ids: integers of shape .* and shape \(5, 4\)"),
        (X[:0], Y[:0], "must hold class ids"),
        ({"photo": X}, Y, r"one array for each input. Received: \['photo'\] for \['image'\]"),
        (X, 3, "must hold class ids"),
        (X * np.nan, Y, "must be finite"),
        (X.astype(str), Y, "must hold numbers"),
    ],
)
def test_samples_that_do_not_fit_are_refused(x, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kn.verify(TESTDATA, x, y)


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match="`kernels` must be one of 'xnnpack', 'builtin', 'reference'"):
        kn.verify(TESTDATA, kernels="gpu")


def test_quantize_rounds_halves_away_from_zero_and_saturates():
    values = np.array([0.0, 0.5, -0.5, 1.5, -2.5, 0.49, 1e9, -1e9], "float32")
    assert quantize(values, 1.0, 3, "int8").tolist() == [3, 4, 2, 5, 0, 3, 127, -128]
    assert quantize(values, 0.5, 3, "uint8").tolist() == [3, 4, 2, 6, 0, 4, 255, 0]


def test_quantize_takes_the_float_below_a_half_down():
    half = np.float32(0.5)
    below = np.nextafter(half, np.float32(0))
    assert quantize(np.array([below, -below, half]), 1.0, 0, "int8").tolist() == [0, 0, 1]


def test_an_output_that_only_its_own_tolerance_accepts_is_said(testdata):
    shifts = np.float32([3, -3, 3, -3]) * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: (values.reshape(-1, 4) + shifts).ravel())
    assert "the root mean square error" in _failed(testdata).failures[0]
    tolerance = json.loads((testdata / "model.json").read_text())["tolerance"]
    own = {**tolerance, "rms_error_lsb": 5.0}
    edit_manifest(testdata, lambda m: m["signatures"][0]["outputs"][0].update(tolerance=own))
    report = kn.verify(testdata)
    assert report.ok
    (warning,) = report.warnings
    assert "more than the 2 of small networks" in warning
    assert not kn.verify(testdata, *bars(50, seed=2)).warnings, "a figure of the task says more"


def test_an_error_that_only_the_draw_of_the_samples_explains_is_said_too(testdata):
    lsb = output_lsb(open_bundle(testdata))
    # One sample of 16 is off by 20 LSB in all classes: 5 LSB root mean square, and as much as its standard error.
    rewrite_golden(testdata, lambda values: np.concatenate([values[:4] + np.float32(20 * lsb), values[4:]]))
    tolerance = json.loads((testdata / "model.json").read_text())["tolerance"]
    edit_manifest(
        testdata, lambda m: m["signatures"][0]["outputs"][0].update(tolerance={**tolerance, "rms_error_lsb": 3.0})
    )
    (warning,) = kn.verify(testdata).warnings
    assert "its own limit is 3" in warning
