"""The native runner against the Python one: the same line, checks, exit codes, and values to the bit."""

import hashlib
import platform
import struct
import subprocess

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn
from keras_notes.bundle import open_bundle
from tests.support.bundles import (
    GOLDEN_INPUT,
    GOLDEN_OUTPUT,
    TESTDATA,
    bars,
    copied,
    edit_manifest,
    output_lsb,
    rewrite,
    rewrite_golden,
    run_device,
    shift_golden_by_2_lsb,
)
from tests.support.native_runners import (
    NATIVE_SHA256,
    assert_same_files,
    build_native,
    line_of,
    native,
    outputs_in_python,
    reason_of,
)

MEASURED = ("ok", "max_error", "max_error_lsb", "top1_agreement", "model_sha256")


@pytest.fixture(scope="session", autouse=True)
def _built():
    build_native()


def assert_as_in_python(directory):
    """The native line has the keys of the Python one, in order, and its values but for times and names."""
    native_result, python_result = native(directory, "--repeat", 3), run_device(directory, "--repeat", 1)
    assert native_result.returncode == python_result.returncode, native_result.stderr
    line, reference = line_of(native_result), line_of(python_result)
    assert list(line) == list(reference)
    assert {key: line[key] for key in MEASURED} == {key: reference[key] for key in MEASURED}


@pytest.mark.parametrize("size", [*range(131), 1_000_003])
def test_sha256_is_that_of_hashlib(size, tmp_path):
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "data").write_bytes(data)
    digits = subprocess.run([NATIVE_SHA256, tmp_path / "data"], capture_output=True, text=True, check=True).stdout
    assert digits.strip() == hashlib.sha256(data).hexdigest()


def test_the_line_is_that_of_the_python_runner():
    assert_as_in_python(TESTDATA)
    line = line_of(native(TESTDATA))
    assert (line["runner"], line["ok"]) == ("native", True)
    assert line["runtime_version"] == "LiteRT 2.3.0 (C API)"
    assert line["device"] == f"{platform.system()} {platform.machine()}"
    assert 0 < line["latency_ms_p50"] <= line["latency_ms_p95"]


def test_nothing_is_on_stderr_if_it_runs():
    assert native(TESTDATA).stderr == ""


@pytest.fixture
def int8_bundle(request, converted):
    """The bundle of tflite/testdata, which quantizes inside; or one whose edges are integers."""
    return TESTDATA if request.param == "float32" else converted("static_int8", request.param).directory


@pytest.mark.parametrize("int8_bundle", ["float32", "int8", "uint8"], indirect=True)
def test_outputs_of_an_int8_net_are_bit_identical_to_python(int8_bundle, tmp_path):
    assert native(int8_bundle, "--repeat", 1, "--outputs", tmp_path / "new" / "folder").returncode == 0
    assert_same_files(tmp_path / "new" / "folder", outputs_in_python(int8_bundle))
    assert_as_in_python(int8_bundle)


def test_int16_edges_are_bit_identical_to_python(net, tmp_path):
    samples = bars(64, seed=1)[0]
    bundle = kn.convert(net, tmp_path / "b", "int16x8", edges="int16", calibration=samples, golden=samples[:8])
    assert native(bundle.directory, "--outputs", tmp_path / "outputs").returncode == 0
    assert_same_files(tmp_path / "outputs", outputs_in_python(bundle.directory))


def test_a_float_file_of_any_batch_runs_with_one(net, tmp_path):
    bundle = kn.convert(net, tmp_path / "bundle", "float32", golden=bars(8, seed=1)[0], batch_size=None)
    assert native(bundle.directory, "--outputs", tmp_path / "outputs").returncode == 0
    assert_same_files(tmp_path / "outputs", outputs_in_python(bundle.directory))


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    """The bundle of an LSTM that takes a step at a time, with 24 golden steps."""
    keras.utils.set_random_seed(0)
    net = [keras.Input(batch_shape=(1, 1, 4), name="x"), layers.LSTM(5, stateful=True, name="cell"), layers.Dense(3)]
    steps = np.random.default_rng(0).normal(size=(24, 1, 4)).astype("float32")
    return kn.convert(keras.Sequential(net), tmp_path_factory.mktemp("lstm") / "b", "float32", golden=steps)


def test_states_are_carried_from_step_to_step(streaming, tmp_path):
    assert_as_in_python(streaming.directory)
    native(streaming.directory, "--outputs", tmp_path / "outputs")
    assert_same_files(tmp_path / "outputs", outputs_in_python(streaming.directory))


def test_states_that_are_not_carried_fail(streaming, tmp_path):
    directory = copied(streaming, tmp_path / "bundle")
    (signature,) = open_bundle(directory).manifest.signatures
    for tensor in signature.inputs:
        if tensor.name != "x":
            rewrite_golden(directory, np.zeros_like, tensor.golden)
    edit_manifest(directory, lambda m: m["signatures"][0].update(states=[]))
    result = native(directory)
    assert (result.returncode, line_of(result)["ok"]) == (1, False)


def test_a_state_that_nothing_has_is_named(streaming, tmp_path):
    directory = copied(streaming, tmp_path / "bundle")
    edit_manifest(directory, lambda m: m["signatures"][0]["states"][0].update(output="nothing"))
    assert "Received: nothing." in reason_of(native(directory))


def test_several_signatures_are_all_run_and_ids_stay_integers(tmp_path):
    shared = layers.Dense(3)
    ids, x = keras.Input((2,), dtype="int32", name="ids"), keras.Input((8,), name="x")
    net = keras.Model(x, shared(x))
    lookup = keras.Model(ids, shared(layers.Flatten()(layers.Embedding(7, 4)(ids))))
    golden = {
        "serving_default": np.random.default_rng(0).normal(size=(5, 8)).astype("float32"),
        "lookup": np.arange(12, dtype="int32").reshape(6, 2) % 7,
    }
    bundle = kn.convert(net, tmp_path / "bundle", "float32", signatures={"lookup": lookup}, golden=golden)
    assert_as_in_python(bundle.directory)
    native(bundle.directory, "--outputs", tmp_path / "outputs")
    expected = outputs_in_python(bundle.directory)
    assert [len(values) for _, values in sorted(expected.items())] == [6, 5]
    assert_same_files(tmp_path / "outputs", expected)


def test_a_fused_lstm_is_refused_in_one_line(tmp_path):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((6, 4), name="x"), layers.LSTM(5, name="cell"), layers.Dense(3)])
    golden = np.random.default_rng(0).normal(size=(4, 6, 4)).astype("float32")
    bundle = kn.convert(net, tmp_path / "bundle", "float32", golden=golden, lowering="fused")
    assert "such as a fused LSTM. Convert it with another lowering." in reason_of(native(bundle.directory))


@pytest.mark.parametrize(("limit", "exit_code"), [(3.5, 0), (1.5, 1)])
def test_an_output_may_have_a_tolerance_of_its_own(testdata, limit, exit_code):
    shift_golden_by_2_lsb(testdata, limit)
    assert native(testdata).returncode == exit_code


@pytest.mark.parametrize("shift_lsb", [2, -2])
def test_a_golden_output_shifted_by_2_lsb_fails(testdata, shift_lsb):
    shift = shift_lsb * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: values + shift)
    result = native(testdata)
    assert result.returncode == 1
    assert line_of(result)["ok"] is False
    assert_as_in_python(testdata)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_golden_output_that_is_not_finite_fails(testdata, value):
    rewrite_golden(testdata, lambda values: np.concatenate([values[:-1], [value]]))
    assert native(testdata).returncode == 1
    assert_as_in_python(testdata)


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract")  # NumPy of the infinite step.
@pytest.mark.parametrize("edges", ["int8", "uint8"])
def test_an_edge_is_quantized_as_in_python(converted, edges, tmp_path):
    """Halves, the floats beside them, what saturates, and what is not finite."""
    directory = copied(converted("static_int8", edges), tmp_path / "bundle")
    scale = open_bundle(directory).manifest.signatures[0].inputs[0].scale
    steps = np.arange(-300, 301, dtype="float32") / 2
    hard = np.concatenate([steps, np.nextafter(steps, np.float32(0)), np.nextafter(steps, np.float32(1e9))])
    hard = np.concatenate([hard * np.float32(scale), np.array([0.0, -0.0, 1e30, -1e30, np.inf], "float32")])
    rewrite_golden(directory, lambda values: np.resize(hard, values.size), GOLDEN_INPUT)
    native(directory, "--outputs", tmp_path / "outputs")
    assert_same_files(tmp_path / "outputs", outputs_in_python(directory))


def test_golden_integers_of_each_type_are_compared_as_they_are(testdata):
    """The output's golden values as int16: what `compare` reads is what the file holds."""
    values = np.fromfile(testdata / GOLDEN_OUTPUT, "<f4").round().astype("<i2")
    edit_manifest(testdata, lambda m: m["signatures"][0]["outputs"][0].update(golden_dtype="int16"))
    rewrite(testdata, GOLDEN_OUTPUT, struct.pack(f"<{values.size}h", *values.tolist()))
    assert_as_in_python(testdata)
