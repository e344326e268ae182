"""Helpers of the tests of the native and the emulated runners: building and calling them, and LiteRT in Python."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.bundles import ROOT, error_lines, runner_module
from tests.support.tools import need

NATIVE = ROOT / "build" / "native" / "run"
NATIVE_SHA256 = NATIVE.with_name("sha256")
EMULATE = ROOT / "tflite" / "arm64" / "run.py"

_runner = runner_module()


def make(*targets: str) -> None:
    """Calls make on files. One process at a time: tests of several files want the same ones."""
    need("make", package="make")
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", f"VENV={sys.prefix}", *targets]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def build_native() -> None:
    """Builds the native runner of this machine; skips the test where its tools are missing."""
    need("cmake", package="cmake")
    need("g++", package="g++")
    make("build/native/run")


def native(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Runs the native runner on this machine."""
    return subprocess.run([str(NATIVE), *map(str, arguments)], capture_output=True, text=True, check=False)


def emulated(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Runs a runner on the emulated ARM64."""
    command = [sys.executable, str(EMULATE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def line_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one line on stdout, as strict JSON: no NaN, no Infinity."""

    def refuse(constant):
        raise ValueError(f"JSON must not hold {constant}.")

    assert result.stdout, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line, parse_constant=refuse)


def reason_of(result: subprocess.CompletedProcess[str]) -> str:
    """The one readable line of a runner that cannot run."""
    assert (result.returncode, result.stdout) == (2, ""), result
    (line,) = error_lines(result.stderr)
    return line


def outputs_in_python(directory: Path) -> dict[str, np.ndarray]:
    """All outputs of a bundle by their golden file's name, on LiteRT's Python interpreter with its default kernels."""
    manifest = _runner.load_manifest(directory)
    interpreter = _runner.Interpreter(str(directory / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    outputs = {}
    for signature in manifest["signatures"]:
        samples = signature["golden_samples"]
        inputs = {t["name"]: _runner.golden_values(directory, t, samples) for t in signature["inputs"]}
        results = _runner.run_samples(interpreter, signature, inputs)
        outputs.update({Path(t["golden"]).name: results[t["name"]] for t in signature["outputs"]})
    return outputs


def assert_same_files(directory: Path, expected: dict[str, np.ndarray]) -> None:
    """Every output that `--outputs` wrote has exactly the expected bytes."""
    assert sorted(path.name for path in directory.iterdir()) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.fromfile(directory / name, values.dtype), values.ravel(), err_msg=name)
