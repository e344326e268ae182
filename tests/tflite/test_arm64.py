"""The runners on an emulated ARM64: what they give is what this machine gives, and their exit codes come through."""

import os
import subprocess
import sys

import numpy as np
import pytest

from keras_notes.bundle import open_bundle
from tests.support.bundles import MODEL_FILE, TESTDATA, output_lsb, rewrite_golden, run_device
from tests.support.native_runners import (
    EMULATE,
    assert_same_files,
    emulated,
    line_of,
    make,
    outputs_in_python,
    reason_of,
)
from tests.support.tools import need

PREPARE = EMULATE.with_name("prepare.py")
CPUS = ("cortex-a76", "cortex-a53", "max")
MEASURED = ("ok", "max_error", "max_error_lsb", "top1_agreement", "model_sha256")


@pytest.fixture(scope="session", autouse=True)
def _prepared():
    for tool, package in (("qemu-aarch64", "qemu-user"), ("apt-get", None), ("dpkg-deb", "dpkg")):
        need(tool, package=package)
    make("build/arm64/sysroot/complete")


@pytest.fixture(scope="session")
def _built():
    need("cmake", package="cmake")
    need("aarch64-linux-gnu-g++", package="g++-aarch64-linux-gnu")
    make("build/native-arm64/run")


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.usefixtures("_built")
def test_the_native_runner_gives_the_same_bits_for_an_int8_net(cpu, tmp_path):
    result = emulated(TESTDATA, "--runner", "native", "--cpu", cpu, "--outputs", tmp_path)
    line = line_of(result)
    assert (result.returncode, result.stderr) == (0, "")
    assert (line["runner"], line["device"]) == ("native", "Linux aarch64")
    assert_same_files(tmp_path, outputs_in_python(TESTDATA))


@pytest.mark.parametrize("cpu", CPUS)
def test_the_python_runner_gives_the_same_bits_for_an_int8_net(cpu, tmp_path):
    result = emulated(TESTDATA, "--cpu", cpu, "--repeat", 2, "--outputs", tmp_path)
    assert result.returncode == 0, result.stderr
    line, here = line_of(result), line_of(run_device(TESTDATA, "--repeat", 1))
    assert list(line) == list(here)
    assert (line["runner"], line["device"]) == ("python", "Linux aarch64")
    assert {key: line[key] for key in MEASURED} == {key: here[key] for key in MEASURED}
    assert_same_files(tmp_path, outputs_in_python(TESTDATA))


@pytest.mark.usefixtures("_built")
def test_edges_of_integers_give_the_same_bits(converted, tmp_path):
    directory = converted("static_int8", "uint8").directory
    assert emulated(directory, "--runner", "native", "--outputs", tmp_path).returncode == 0
    assert_same_files(tmp_path, outputs_in_python(directory))


@pytest.mark.usefixtures("_built")
def test_a_float_net_differs_by_its_last_bits_only(converted, tmp_path):
    directory = converted("float32", "float32").directory
    assert emulated(directory, "--runner", "native", "--outputs", tmp_path).returncode == 0
    for name, expected in outputs_in_python(directory).items():
        actual = np.fromfile(tmp_path / name, "<f4").reshape(expected.shape)
        # The order of a sum is the kernel's: some units in the last place of the largest value.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        np.testing.assert_array_equal(actual.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("runner", ["python", "native"])
@pytest.mark.usefixtures("_built")
def test_exit_codes_come_through(runner, testdata):
    model = (testdata / MODEL_FILE).read_bytes()
    shift = 2 * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: values + shift)
    result = emulated(testdata, "--runner", runner, "--repeat", 1)
    assert (result.returncode, line_of(result)["ok"]) == (1, False)
    (testdata / MODEL_FILE).write_bytes(model[:-1])
    assert "model.tflite is damaged" in reason_of(emulated(testdata, "--runner", runner))


def test_what_python_reads_from_the_environment_stays_outside(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    command = [sys.executable, "-E", str(EMULATE), str(TESTDATA), "--repeat", "1"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_cpu_that_nothing_emulates_is_refused():
    result = emulated(TESTDATA, "--cpu", "z80")
    assert (result.returncode, result.stdout) == (2, "")
    assert "cortex-a76" in result.stderr


def test_a_sysroot_that_is_not_there_is_refused(tmp_path):
    assert "Call make arm64." in reason_of(emulated(TESTDATA, "--sysroot", tmp_path))


def test_a_missing_qemu_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "qemu-aarch64 is missing (apt-get install qemu-user)." in reason_of(emulated(TESTDATA))
    result = _prepare(tmp_path / "arm64")
    assert result.returncode == 1
    assert "qemu-aarch64 is missing (apt-get install qemu-user" in result.stderr


def _prepare(directory):
    command = [sys.executable, str(PREPARE), str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tool", ["apt-get", "dpkg-deb"])
def test_what_cannot_be_prepared_leaves_nothing_behind(tool, tmp_path, monkeypatch):
    """apt-get fails at once; dpkg-deb after all is downloaded."""
    broken = tmp_path / "bin" / tool
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho first >&2\necho no space left >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    result = _prepare(tmp_path / "arm64")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [f"prepare.py: {tool} must succeed. Received: no space left"]
    assert not list((tmp_path / "arm64").glob("sysroot*"))


def test_what_is_prepared_is_not_prepared_again(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = _prepare(EMULATE.parents[2] / "build" / "arm64")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
