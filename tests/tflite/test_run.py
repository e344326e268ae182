"""The Python runner, where it runs: in a process that has neither Keras nor TensorFlow nor keras_notes."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import OpResolverType

import keras_notes as kn
from keras_notes.bundle import open_bundle
from tests.support.bundles import (
    GOLDEN_INPUT,
    GOLDEN_OUTPUT,
    MODEL_FILE,
    RUNNER,
    TESTDATA,
    copied,
    edit_manifest,
    error_lines,
    interpreter,
    output_lsb,
    rewrite,
    rewrite_golden,
    run_device,
    runner_module,
    shift_golden_by_2_lsb,
)

KEYS = [
    "runner",
    "runtime_version",
    "device",
    "ok",
    "max_error",
    "max_error_lsb",
    "top1_agreement",
    "latency_ms_p50",
    "latency_ms_p95",
    "model_sha256",
]
runner = runner_module()


def _line(result):
    """The one line on stdout, as strict JSON: no NaN, no Infinity."""

    def refuse(constant):
        raise ValueError(f"JSON must not hold {constant}.")

    (line,) = result.stdout.splitlines()
    return json.loads(line, parse_constant=refuse)


def _cannot_run(directory):
    """The one readable line of a runner that must give up."""
    result = run_device(directory, "--repeat", 1)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (line,) = error_lines(result.stderr)
    assert line.startswith(f"run.py: cannot run {directory}: ")
    return line


def _not_equal(directory):
    result = run_device(directory, "--repeat", 1)
    assert result.returncode == 1, result.stderr
    line = _line(result)
    assert line["ok"] is False
    assert list(line) == KEYS
    return line


def test_the_testdata_bundle_is_equal():
    result = run_device(TESTDATA, "--repeat", 5)
    assert result.returncode == 0, result.stderr
    line = _line(result)
    assert list(line) == KEYS
    assert (line["runner"], line["ok"], line["top1_agreement"]) == ("python", True, 1.0)
    assert line["runtime_version"].startswith("ai-edge-litert ")
    assert 0 < line["latency_ms_p50"] <= line["latency_ms_p95"]
    assert line["model_sha256"] == hashlib.sha256((TESTDATA / MODEL_FILE).read_bytes()).hexdigest()


def test_its_errors_are_those_of_verify():
    (output,) = kn.verify(TESTDATA).outputs
    line = runner.run(TESTDATA, 1)
    assert line["max_error"] == output.max_error
    assert line["max_error_lsb"] == output.max_error_lsb
    assert line["top1_agreement"] == output.top1_agreement


@pytest.mark.parametrize("edges", ["uint8", "int8"])
def test_integer_edges_are_equal(converted, edges):
    line = runner.run(converted("static_int8", edges).directory, 1)
    assert line["ok"]
    assert line["max_error_lsb"] == kn.verify(converted("static_int8", edges)).outputs[0].max_error_lsb


def test_a_float_bundle_has_no_lsb(converted):
    line = runner.run(converted("float32").directory, 1)
    assert line["ok"]
    assert line["max_error_lsb"] is None


@pytest.mark.parametrize("shift_lsb", [2, -2])
def test_a_golden_output_shifted_by_2_lsb_fails(testdata, shift_lsb):
    shift = shift_lsb * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: values + shift)
    assert _not_equal(testdata)["max_error_lsb"] > 1.0


@pytest.mark.parametrize(("limit", "exit_code"), [(3.5, 0), (1.5, 1)])
def test_an_output_may_have_a_tolerance_of_its_own(testdata, limit, exit_code):
    shift_golden_by_2_lsb(testdata, limit)
    assert run_device(testdata).returncode == exit_code


def test_a_float32_golden_output_shifted_by_a_hundredth_fails(converted, tmp_path):
    directory = copied(converted("float32"), tmp_path / "bundle")
    rewrite_golden(directory, lambda values: values + np.float32(1e-2))
    assert runner.run(directory, 1)["ok"] is False


def test_classes_shifted_against_each_other_fail(testdata):
    shifts = np.float32([3, -3, 3, -3]) * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: (values.reshape(-1, 4) + shifts).ravel())
    _not_equal(testdata)


def test_flipped_bytes_of_the_manifest_are_found(testdata):
    path = testdata / "model.json"
    content = path.read_bytes()
    for place in range(0, len(content), 41):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises((ValueError, KeyError, TypeError)):
            runner.load_manifest(testdata)


@pytest.mark.parametrize("missing", ["numpy", "ai_edge_litert"])
def test_a_missing_package_is_exit_code_2(missing):
    program = "import runpy, sys; sys.modules[sys.argv[1]] = None; sys.argv = sys.argv[2:];"
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", program, missing, RUNNER, TESTDATA]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "pip install -r requirements.txt" in result.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_golden_output_that_is_not_finite_fails(testdata, value):
    rewrite_golden(testdata, lambda values: np.concatenate([values[:-1], [value]]))
    _not_equal(testdata)


def test_a_model_of_another_training_fails(testdata, converted):
    rewrite(testdata, MODEL_FILE, converted("static_int8").model_path.read_bytes())
    _not_equal(testdata)


def test_an_integer_bundle_whose_output_has_no_grid_does_not_pass(testdata):
    rewrite_golden(testdata, lambda values: values + np.float32(100.0))
    edit_manifest(testdata, lambda m: m["signatures"][0]["outputs"][0].update(scale=None, zero_point=None))
    assert run_device(testdata, "--repeat", 1).returncode != 0


def test_a_flipped_byte_is_named(testdata):
    data = bytearray((testdata / MODEL_FILE).read_bytes())
    data[-1] ^= 1
    (testdata / MODEL_FILE).write_bytes(data)
    assert "model.tflite is damaged" in _cannot_run(testdata)


def _truncate(directory):
    (directory / MODEL_FILE).write_bytes((directory / MODEL_FILE).read_bytes()[:1000])


def _escape(directory):
    (directory.parent / "x").write_bytes(b"x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    edit_manifest(directory, lambda manifest: manifest["files"].update({"../x": entry}))


DAMAGE = {
    "a truncated model": (_truncate, "model.tflite is damaged"),
    "a truncated model of the right hash": (lambda d: rewrite(d, MODEL_FILE, b"TFL3"), "."),
    "a missing golden file": (lambda d: (d / GOLDEN_OUTPUT).unlink(), "No such file"),
    "a short golden file": (lambda d: rewrite(d, GOLDEN_OUTPUT, b"\0" * 4), "reshape"),
    "malformed JSON": (lambda d: (d / "model.json").write_text("{\n\n"), "double quotes"),
    "no manifest": (lambda d: (d / "model.json").unlink(), "model.json"),
    "no object": (lambda d: (d / "model.json").write_text("[]"), "."),
    "a missing key": (lambda d: edit_manifest(d, lambda m: m.pop("files")), "files"),
    "another version": (lambda d: edit_manifest(d, lambda m: m.update(format_version=3)), "format_version must be 2"),
    "an empty tolerance": (
        lambda d: edit_manifest(d, lambda m: m["signatures"][0]["outputs"][0].update(tolerance={})),
        "max_error_lsb",
    ),
    "no signatures": (lambda d: edit_manifest(d, lambda m: m.update(signatures=[])), "."),
    "files in a list": (lambda d: edit_manifest(d, lambda m: m.update(files=[])), "."),
    "a scale of 0": (lambda d: edit_manifest(d, lambda m: m["signatures"][0]["outputs"][0].update(scale=0.0)), "."),
    "a path that leaves the bundle": (_escape, r"\.\./x"),
    "golden values without a hash": (lambda d: edit_manifest(d, lambda m: m["files"].pop(GOLDEN_OUTPUT)), "output"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_exit_code_2_and_one_line(testdata, damage, message):
    damage(testdata)
    reason = _cannot_run(testdata).removeprefix(f"run.py: cannot run {testdata}: ")
    assert re.search(message, reason)


@pytest.mark.parametrize("repeat", ["0", "-1", "many"])
def test_a_repeat_that_is_no_positive_integer_is_refused(repeat):
    result = run_device(TESTDATA, "--repeat", repeat)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--repeat" in error_lines(result.stderr)[-1]


def test_the_training_side_cannot_be_imported_where_these_tests_run(tmp_path):
    for name in ("keras", "keras_notes", "tensorflow"):
        script = tmp_path / "imports.py"
        script.write_text(f"import {name}")
        result = run_device(script=script)
        assert result.returncode == 1
        assert f"import of {name} halted" in result.stderr


def test_the_invocation_that_is_timed_computes():
    manifest = runner.load_manifest(TESTDATA)
    (signature,) = manifest["signatures"]
    (image,) = signature["inputs"]
    inputs = {"image": runner.golden_values(TESTDATA, image, signature["golden_samples"])}
    timed = interpreter(TESTDATA / MODEL_FILE, OpResolverType.AUTO)
    output = timed.get_output_details()[0]["index"]
    for repeat in (1, 2):
        elapsed = runner.latencies_ms(timed, signature, inputs, repeat)
        last = (runner.WARM_UP_RUNS + repeat - 1) % signature["golden_samples"]
        expected = interpreter(TESTDATA / MODEL_FILE, OpResolverType.AUTO).get_signature_runner()(
            image=inputs["image"][last : last + 1]
        )["output"]
        np.testing.assert_array_equal(timed.get_tensor(output), expected)
        assert len(elapsed) == repeat
        assert all(math.isfinite(value) and value > 0 for value in elapsed)


def test_golden_values_are_read_as_the_bundle_reads_them():
    bundle = open_bundle(TESTDATA)
    (signature,) = bundle.manifest.signatures
    raw = json.loads((TESTDATA / "model.json").read_text())["signatures"][0]
    values = runner.golden_values(TESTDATA, raw["inputs"][0], signature.golden_samples)
    np.testing.assert_array_equal(values, bundle.golden(signature)[0]["image"])
    assert values.tobytes() == (TESTDATA / GOLDEN_INPUT).read_bytes()


@pytest.mark.parametrize("edges", ["float32", "uint8"])
def test_outputs_are_written_as_the_golden_values_lie(converted, edges, tmp_path):
    bundle = converted("static_int8", edges)
    result = run_device(bundle.directory, "--repeat", 1, "--outputs", tmp_path / "new" / "outputs")
    assert result.returncode == 0, result.stderr
    (signature,) = bundle.manifest.signatures
    actual = np.fromfile(tmp_path / "new" / "outputs" / Path(signature.outputs[0].golden).name, "<f4")
    golden = bundle.golden(signature)[1]["output"].astype("float32").ravel()
    assert actual.shape == golden.shape
    assert np.abs(actual - golden).max() / output_lsb(bundle) == pytest.approx(_line(result)["max_error_lsb"])


def test_kernel_sets_can_be_named(converted):
    bundle = converted("static_int8", "float32")
    versions = []
    for kernels in ("xnnpack", "builtin", "reference"):
        result = run_device(bundle.directory, "--repeat", 1, "--kernels", kernels)
        assert result.returncode == 0, result.stderr
        versions.append(_line(result)["runtime_version"])
    assert [text.split(", ")[1] for text in versions] == ["xnnpack kernels", "builtin kernels", "reference kernels"]
