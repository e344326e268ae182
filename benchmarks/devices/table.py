"""Every runner on every bundle: its outputs against the trained model's, and against those of the other runners.

    make devices                       # builds what is missing, and writes the tables
    python -m benchmarks devices table [--write] [--bundles build] [--repeat 200] [--only PATTERN]

Bundles: those that examples/teacher_to_device.py, activity_on_phone.py and translator_on_phone.py left under --bundles.
Every runner of tflite/ runs all golden samples of each and writes its outputs. For each pair the table has

    ok        whether each output is within the bundle's tolerance of the trained model's
    error     the largest error against the trained model: in steps of the output's grid (LSB), or, where an output has
              none, relative to its largest value
    differ    how many values are not, bit for bit, those of Python with XNNPACK on x86-64; and by how much at most. The
              reference kernels of ARM64 are compared with those of x86-64: they are the portable oracle
    argmax    the share of golden samples with the same largest value of each output
    p50       milliseconds of an invocation of the first signature; not of emulated machines, where it says nothing

A runner that cannot run a bundle has a row with the reason that it gave. --write puts the tables into
tflite/README.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import command_line
from benchmarks.command_line import ROOT

README = ROOT / "tflite" / "README.md"
BEGIN, END = "<!-- devices: written by `make devices` -->", "<!-- /devices -->"
PYTHON, WEB = [sys.executable, "tflite/python/run.py"], [sys.executable, "tflite/web/run.py"]
ARM64 = [sys.executable, "tflite/arm64/run.py"]
FIRST = "Python, x86-64"
ORACLE = "Python, x86-64, reference kernels"
ORACLE_ELSEWHERE = "Python, ARM64 cortex-a76, reference kernels (differ: from x86-64's)"
RUNNERS = {
    FIRST: PYTHON,
    ORACLE: [*PYTHON, "--kernels", "reference"],
    "Browser, x86-64": WEB,
    "Native, x86-64": ["build/native/run"],
    **{f"Python, ARM64 {cpu}": [*ARM64, "--cpu", cpu] for cpu in ("cortex-a53", "cortex-a72", "cortex-a76", "max")},
    "Native, ARM64 cortex-a76": [*ARM64, "--cpu", "cortex-a76", "--runner", "native"],
    ORACLE_ELSEWHERE: [*ARM64, "--cpu", "cortex-a76", "--kernels", "reference"],
}
BUNDLES = {
    "digits CNN, static_int8": "digits/bundle",
    "digits CNN, float32": "digits/float32/student-distilled",
    "activity LSTM, int8": "activity/window",
    "activity LSTM step by step, int16x8": "activity/stream",
    "translator, dynamic_int8": "translator/bundle",
}


def run_bundle(command, bundle, repeat, outputs):
    """Runs a bundle and returns the line that the runner prints; or {"reason"}."""
    arguments = [str(bundle), "--repeat", str(repeat), "--outputs", str(outputs)]
    result = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        lines = result.stderr.strip().splitlines()
        return {"reason": lines[-1] if lines else f"ended with {result.returncode}"}
    line = json.loads(result.stdout.splitlines()[-1])
    if line["ok"] != (result.returncode == 0):
        raise AssertionError(f"{command} said ok={line['ok']} and ended with {result.returncode}.")
    return line


def read_outputs(bundle, outputs):
    """Reads the values of every output that a runner wrote, with their scale and golden values."""
    results = []
    for signature in json.loads((bundle / "model.json").read_text())["signatures"]:
        for tensor in signature["outputs"]:
            output_dtype = "float32" if tensor["scale"] is not None else tensor["dtype"]
            paths = {
                outputs / Path(tensor["golden"]).name: output_dtype,
                bundle / tensor["golden"]: tensor["golden_dtype"],
            }
            values, golden = (np.fromfile(path, np.dtype(dtype).newbyteorder("<")) for path, dtype in paths.items())
            samples = signature["golden_samples"]
            results.append(Output(values.reshape(samples, -1), golden.reshape(samples, -1), tensor["scale"]))
    return results


class Output(NamedTuple):
    """Values of a runner and golden values, as (samples, values); and the step of the grid, if there is one."""

    values: np.ndarray
    golden: np.ndarray
    scale: float | None

    def largest(self, other):
        """Returns the largest difference, in steps of the grid or relative to the largest golden value."""
        difference = np.abs(self.values.astype("float64") - other.astype("float64")).max()
        return float(difference / (self.scale or np.abs(self.golden).max() or 1.0))


def compare_outputs(first, other):
    """Returns the numbers of differing and of all values, the largest difference as text, and the shared argmax."""
    pairs = list(zip(first, other, strict=True))
    differing = sum(int((a.values != b.values).sum()) for a, b in pairs)
    total = sum(a.values.size for a, _ in pairs)
    same = sum(int((a.values.argmax(-1) == b.values.argmax(-1)).sum()) for a, b in pairs)
    largest = format_largest(other, [output.values for output in first])
    return differing, total, largest, same / sum(len(output.values) for output in first)


def format_largest(outputs, expected):
    """Returns the largest difference as text: of outputs with a grid in LSB, of the others relative."""
    differences_by_format: dict[str, list[float]] = {}
    for output, values in zip(outputs, expected, strict=True):
        differences_by_format.setdefault("{:.1e}" if output.scale is None else "{:.2f} LSB", []).append(
            output.largest(values)
        )
    return " and ".join(form.format(max(differences)) for form, differences in differences_by_format.items())


def row_of(name, line, first, outputs):
    """Returns the cells of a runner."""
    if "reason" in line:
        return [name, "-", line["reason"].replace("|", "/"), "", "", "", ""]
    differing, total, largest, agreement = compare_outputs(first, outputs)
    differ = f"0 of {total:,}" if differing == 0 else f"{differing:,} of {total:,}, by {largest} at most"
    latency = "emulated" if "ARM64" in name else f"{line['latency_ms_p50']:.3f}"
    error = format_largest(outputs, [output.golden for output in outputs])
    return [
        name,
        "yes" if line["ok"] else "**no**",
        error,
        differ,
        f"{agreement:.4f}",
        latency,
        line["runtime_version"],
    ]


def table_of(title, bundle, runners, repeat):
    """Runs a bundle by all runners and returns its table, as lines of Markdown."""
    manifest = json.loads((bundle / "model.json").read_text())
    size = manifest["files"]["model.tflite"]["bytes"]
    samples = " + ".join(str(signature["golden_samples"]) for signature in manifest["signatures"])
    head = ["runner", "ok", "error against the trained model", "values that differ", "argmax", "p50, ms", "runtime"]
    lines = [f"**{title}** ({size:,} bytes, {samples} golden samples)", "", f"| {' | '.join(head)} |", "|---" * 7 + "|"]
    outputs_by_runner: dict[str, list[Output]] = {}
    for name, command in runners.items():
        with tempfile.TemporaryDirectory() as directory:
            line = run_bundle(command, bundle, repeat, Path(directory))
            outputs_by_runner[name] = [] if "reason" in line else read_outputs(bundle, Path(directory))
        reference = outputs_by_runner[ORACLE if name == ORACLE_ELSEWHERE else FIRST]
        lines.append(f"| {' | '.join(row_of(name, line, reference, outputs_by_runner[name]))} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("devices table", __doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into tflite/README.md")
    parser.add_argument("--bundles", type=Path, default=ROOT / "build", metavar="DIR")
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="bundles by title")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints, and writes if asked to."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.write and options.only != "*":
        parser.error(f"--write must be given without --only: it replaces all tables. Received: --only {options.only}.")
    lines = []
    for title, place in BUNDLES.items():
        if fnmatch.fnmatch(title, options.only):
            bundle = options.bundles.resolve() / place
            if not (bundle / "model.json").is_file():
                sys.exit(f"{bundle} must be a bundle. Call make devices, or the example that builds it.")
            print(title, flush=True)
            lines += table_of(title, bundle, RUNNERS, options.repeat)
    if options.write:
        before, rest = README.read_text().split(BEGIN)
        README.write_text(before + "\n".join([BEGIN, "", *lines, ""]) + END + rest.split(END)[1])
