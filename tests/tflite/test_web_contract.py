"""The contract of tflite/README.md in a browser: same verdicts, same numbers, same refusals as the Python runner."""

import hashlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import OpResolverType

from keras_notes.bundle import open_bundle
from tests.support.bundles import (
    GOLDEN_INPUT,
    GOLDEN_OUTPUT,
    MODEL_FILE,
    TESTDATA,
    edit_manifest,
    error_lines,
    interpreter,
    output_lsb,
    rewrite,
    rewrite_golden,
    runner_module,
)
from tests.support.tools import need
from tests.support.web_pages import WEB, contract, in_node, outputs, web_module

# One product in another order, and what comes of it in 75 steps or a softmax.
FLOAT32_ROUNDING = 1e-5
python_runner = runner_module()
serving = web_module("serve").serving


def run_web(*arguments, environment=None):
    command = [sys.executable, WEB / "run.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)


def refused(result, message):
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (line,) = error_lines(result.stderr)
    assert line.startswith("run.py: cannot run ")
    assert message in line


@pytest.fixture
def contract_of(page, web_dist):
    """`contract_of(directory)`: the exit code, and the line or the reason."""

    def run(directory, **options):
        with serving(web_dist, mounts={"bundle": directory}) as address:
            return contract(page, address, **options)

    return run


def python_outputs(bundle):
    """The outputs of the Python runner, by the path of their golden values."""
    manifest = python_runner.load_manifest(bundle)
    runtime = interpreter(bundle / MODEL_FILE, OpResolverType.AUTO)
    results_by_path = {}
    for signature in manifest["signatures"]:
        samples = signature["golden_samples"]
        inputs = {t["name"]: python_runner.golden_values(bundle, t, samples) for t in signature["inputs"]}
        results = python_runner.run_samples(runtime, signature, inputs)
        results_by_path.update({tensor["golden"]: results[tensor["name"]] for tensor in signature["outputs"]})
    return results_by_path


def test_the_command_prints_the_line_and_writes_the_outputs_of_python_bit_by_bit(web_dist, tmp_path):
    need("chromium", "playwright")
    result = run_web(TESTDATA, "--repeat", 5, "--outputs", tmp_path / "outputs", "--dist", web_dist)
    assert result.returncode == 0, result.stderr
    (line,) = (json.loads(text) for text in result.stdout.splitlines())
    expected = python_runner.run(TESTDATA, 1)
    assert list(line) == list(expected)
    assert line["runner"] == "web"
    assert line["runtime_version"].startswith("litert.js 2.5.3 (wasm")
    for key in ("ok", "max_error", "max_error_lsb", "top1_agreement", "model_sha256"):
        assert line[key] == expected[key], key
    assert 0 <= line["latency_ms_p50"] <= line["latency_ms_p95"]
    (file,) = (tmp_path / "outputs").iterdir()
    assert file.name == GOLDEN_OUTPUT.removeprefix("golden/")
    assert file.read_bytes() == python_outputs(TESTDATA)[GOLDEN_OUTPUT].astype("<f4").tobytes()


def test_the_command_says_not_equal_and_cannot_run(testdata, web_dist):
    need("chromium", "playwright")
    rewrite_golden(testdata, lambda values: values + 2 * output_lsb(open_bundle(testdata)))
    result = run_web(testdata, "--repeat", 1, "--dist", web_dist)
    assert result.returncode == 1, result.stderr
    assert json.loads(result.stdout)["ok"] is False
    (testdata / MODEL_FILE).write_bytes(b"TFL3")
    refused(run_web(testdata, "--dist", web_dist), "model.tflite is damaged")


def test_the_command_names_what_is_missing(testdata, web_dist, tmp_path):
    need("playwright")
    refused(run_web(tmp_path, "--dist", web_dist), "A bundle must be a folder with model.json.")
    refused(run_web(TESTDATA, "--dist", tmp_path), "Run `make web`.")
    environment = {"PATH": str(tmp_path)}
    refused(run_web(TESTDATA, "--dist", web_dist, environment=environment), "Chromium must be installed.")
    environment["CHROMIUM"] = "/nowhere/chromium"
    refused(run_web(TESTDATA, "--dist", web_dist, environment=environment), "CHROMIUM=/nowhere/chromium")
    assert "--repeat must be >= 1" in run_web(TESTDATA, "--repeat", 0).stderr


@pytest.mark.parametrize("name", ["uint8_edges", "int8_stream"])
def test_int8_outputs_are_those_of_python_bit_by_bit(page, address, web_bundle, name):
    bundle = web_bundle(name)
    code, line = contract(page, address, name)
    expected = python_runner.run(bundle, 1)
    assert code == (0 if expected["ok"] else 1)
    assert json.loads(line)["max_error_lsb"] == expected["max_error_lsb"]
    actual = outputs(page)
    for path, values in python_outputs(bundle).items():
        np.testing.assert_array_equal(actual[path].astype("float32"), values.ravel())


@pytest.mark.parametrize("name", ["float32", "stream", "window", "translator"])
def test_float32_outputs_are_those_of_python(page, address, web_bundle, name):
    bundle = web_bundle(name)
    code, line = contract(page, address, name)
    assert code == 0, line
    expected = python_outputs(bundle)
    actual = outputs(page)
    assert list(actual) == list(expected)
    for path, values in expected.items():
        scale = max(1.0, np.abs(values).max())
        np.testing.assert_allclose(actual[path] / scale, values.ravel() / scale, atol=FLOAT32_ROUNDING)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_golden_output_that_is_not_finite_fails(contract_of, testdata, value):
    rewrite_golden(testdata, lambda values: np.concatenate([values[:-1], [value]]))
    code, line = contract_of(testdata)
    assert code == 1
    assert json.loads(line)["max_error"] is None


def _flip(directory):
    data = bytearray((directory / MODEL_FILE).read_bytes())
    data[-1] ^= 1
    (directory / MODEL_FILE).write_bytes(data)


def _flip_manifest(directory):
    content = (directory / "model.json").read_bytes()
    (directory / "model.json").write_bytes(content.replace(b'"bars"', b'"bart"', 1))


def _escape(directory):
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    edit_manifest(directory, lambda manifest: manifest["files"].update({"../x": entry}))


def _edit_tensor(side, **changes):
    return lambda d: edit_manifest(d, lambda m: m["signatures"][0][side][0].update(changes))


DAMAGE = {
    "a flipped byte": (_flip, "model.tflite is damaged"),
    "a flipped byte of the manifest": (_flip_manifest, "model.json is damaged"),
    "a model that is none": (lambda d: rewrite(d, MODEL_FILE, b"TFL3"), "LiteRT.js cannot load model.tflite"),
    "a missing golden file": (lambda d: (d / GOLDEN_OUTPUT).unlink(), f"The bundle must have {GOLDEN_OUTPUT}"),
    "a short golden file": (lambda d: rewrite(d, GOLDEN_OUTPUT, b"\0" * 4), "must hold 16 samples, 64 values"),
    "half a value": (lambda d: rewrite(d, GOLDEN_INPUT, b"\0" * 3), "must be whole float32 numbers"),
    "a wrong shape": (_edit_tensor("inputs", shape=[1, 4, 16, 1]), "image must be float32 [1, 4, 16, 1]"),
    "a wrong name": (_edit_tensor("outputs", name="logits"), "Received: no such tensor"),
    "malformed JSON": (lambda d: (d / "model.json").write_text("{\n\n"), "model.json must be JSON text"),
    "no object": (lambda d: (d / "model.json").write_text("[]"), "format_version must be 2. Received: no object"),
    "a missing key": (lambda d: edit_manifest(d, lambda m: m.pop("files")), "files"),
    "another version": (lambda d: edit_manifest(d, lambda m: m.update(format_version=3)), "must be 2. Received: 3."),
    "a tolerance without a limit": (
        lambda d: edit_manifest(d, lambda m: m["tolerance"].pop("rms_error_lsb")),
        "The tolerance must have max_error",
    ),
    "an output's tolerance without a limit": (
        lambda d: edit_manifest(d, lambda m: m["signatures"][0]["outputs"][0].update(tolerance={})),
        "The tolerance must have max_error",
    ),
    "no signatures": (lambda d: edit_manifest(d, lambda m: m.update(signatures=[])), "at least one signature"),
    "files in a list": (lambda d: edit_manifest(d, lambda m: m.update(files=[])), "must list model.tflite"),
    "a scale of 0": (_edit_tensor("outputs", scale=0.0), "A scale must be > 0. Received: 0 for output."),
    "a path that leaves the bundle": (_escape, "Files must lie inside the bundle. Received: ../x."),
    "golden values without a hash": (
        lambda d: edit_manifest(d, lambda m: m["files"].pop(GOLDEN_OUTPUT)),
        f"model.json must have the hash of {GOLDEN_OUTPUT}.",
    ),
    "int8 edges": (_edit_tensor("inputs", dtype="int8"), 'Received: int8 for image. Convert with edges="float32".'),
    "int64 edges": (_edit_tensor("outputs", dtype="int64"), "Received: int64 for output."),
    "any batch": (lambda d: edit_manifest(d, lambda m: m.update(batch_size=None)), "Convert with batch_size=1."),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_exit_code_2_and_one_line(contract_of, testdata, damage, message):
    damage(testdata)
    code, reason = contract_of(testdata)
    assert code == 2, reason
    assert message in reason
    assert "\n" not in reason


@pytest.mark.parametrize("repeat", ["0", "-1", "many"])
def test_a_repeat_that_is_no_positive_integer_is_refused(contract_of, testdata, repeat):
    assert contract_of(testdata, repeat=repeat) == (2, f"repeat must be in [1, 100000]. Received: {repeat}.")


def test_quantize_is_that_of_the_python_runner():
    need("node")
    tensor = {"dtype": "uint8", "scale": 0.1, "zero_point": 7}
    rng = np.random.default_rng(0)
    halves = np.float32(0.1) * (np.arange(-30, 600) / np.float32(2))
    below = np.nextafter(halves, np.float32(0))
    values = np.concatenate([halves, below, rng.normal(0, 20, 1000), [1e30, -1e30]]).astype("float32")
    program = """import { dequantize, quantize } from "./numbers.js";
        const integers = quantize(Float32Array.from(argument.values), argument.tensor);
        console.log(JSON.stringify([Array.from(integers), Array.from(dequantize(integers, argument.tensor))]));"""
    integers, back = in_node(program, {"values": values.tolist(), "tensor": tensor})
    expected = python_runner.quantize(values, tensor)
    np.testing.assert_array_equal(integers, expected)
    np.testing.assert_array_equal(np.float32(back), python_runner.dequantize(expected, tensor))


TOLERANCE = {"max_error": 0.2, "rms_error": 0.1, "max_error_lsb": 2.0, "rms_error_lsb": 1.0, "mean_error_lsb": 0.5}
LIMITS = {
    "all": TOLERANCE,
    "relative": TOLERANCE | dict.fromkeys(("max_error_lsb", "rms_error_lsb", "mean_error_lsb")),
    "steps": TOLERANCE | dict.fromkeys(("max_error", "rms_error")),
    "largest": dict.fromkeys(TOLERANCE) | {"max_error_lsb": 2.0},
    "agreement": TOLERANCE | {"agreement": 0.7},
}


@pytest.mark.parametrize(("limit", "ok"), [(2.5, True), (1.5, False)])
def test_an_output_may_have_a_tolerance_of_its_own(limit, ok):
    need("node")
    program = """import { compare } from "./compare.js";
        const tensor = { shape: [1, 1], scale: 1, tolerance: argument.own };
        console.log(JSON.stringify(compare(tensor, Float32Array.of(1), Float32Array.of(3), argument.tolerance)));"""
    own, other = (dict.fromkeys(TOLERANCE) | {"max_error_lsb": value} for value in (limit, 4 - limit))
    assert in_node(program, {"own": own, "tolerance": other})["ok"] is ok


@pytest.mark.parametrize("tolerance", LIMITS.values(), ids=LIMITS)
def test_compare_is_that_of_the_python_runner(tolerance):
    need("node")
    rng = np.random.default_rng(0)
    cases = []
    for shape, scale, spread in (((1, 3), 0.1, 0.05), ((1, 3), 0.1, 0.2), ((1, 2, 4), None, 0.01), ((1, 1), None, 1.0)):
        golden = rng.normal(size=(5, *shape[1:])).astype("float32")
        cases.append((shape, scale, golden, (golden + rng.normal(0, spread, golden.shape)).astype("float32")))
    cases.append(((1, 3), None, np.zeros((2, 3), "float32"), np.full((2, 3), 0.05, "float32")))
    cases.append(((1, 3), None, np.ones((2, 3), "float32"), np.float32([[1, np.nan, 1], [1, 1, 1]])))
    # A few values far off are explained by the draw of the samples; and ids, of which 3 of 4 agree, and 2 of 4.
    cases.append(((1, 1), None, np.ones((40, 1), "float32"), np.float32([[1.5]] + [[1]] * 39)))
    cases += [((1,), None, np.int32([0, 9, 5, 3]), np.int32(actual)) for actual in ([0, 9, 5, 0], [9, 0, 5, 3])]
    program = """import { compare } from "./compare.js";
        const values = (row, type) => (type === "int32" ? Int32Array : Float32Array).from(row, (v) => v ?? NaN);
        console.log(JSON.stringify(argument.cases.map(([shape, scale, type, magnitude, golden, actual]) =>
            compare({ shape, scale, magnitude }, values(golden, type), values(actual, type), argument.tolerance))));"""
    magnitudes = [9.0 if index == 2 else None for index in range(len(cases))]
    as_json = [
        [
            shape,
            scale,
            pair[0].dtype.name,
            magnitude,
            *([None if np.isnan(v) else float(v) for v in values.ravel()] for values in pair),
        ]
        for (shape, scale, *pair), magnitude in zip(cases, magnitudes, strict=True)
    ]
    lines = in_node(program, {"cases": as_json, "tolerance": tolerance})
    for (_, scale, golden, actual), magnitude, line in zip(cases, magnitudes, lines, strict=True):
        expected = python_runner.compare({"scale": scale, "magnitude": magnitude}, golden, actual, tolerance)
        assert (line["maxError"], line["maxErrorLsb"], line["agreement"], line["ok"]) == expected
