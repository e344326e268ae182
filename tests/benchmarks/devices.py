"""Runner by bundle: whether each runner gives what was trained, and the very values that the others give.

    make devices                                    # builds what is missing, and writes the tables
    python tests/benchmarks/devices.py [--write] [--bundles build] [--repeat 200] [--only PATTERN]

Bundles: those that examples/teacher_to_device.py, activity_on_phone.py and translator_on_phone.py left under --bundles.
Every runner of tflite/ runs all golden samples of each and writes its outputs. For each pair the table has

    ok        whether each output is within the bundle's tolerance of the trained model's
    error     the largest error against the trained model: in steps of the output's grid (LSB), or, of a file without
              one, in the units of the output
    differ    how many values are not, bit for bit, those of Python with XNNPACK on x86-64; and the largest difference
    argmax    the share of golden samples with the same largest value of each output
    p50       milliseconds of an invocation of the first signature; not of emulated machines, where it says nothing

A runner that cannot run a bundle stands there with the reason that it gave. --write puts the tables into
tflite/README.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "tflite" / "README.md"
BEGIN, END = "<!-- devices: written by `make devices` -->", "<!-- /devices -->"
PYTHON, WEB = [sys.executable, "tflite/python/run.py"], [sys.executable, "tflite/web/run.py"]
ARM64 = [sys.executable, "tflite/arm64/run.py"]
FIRST = "Python, x86-64"
RUNNERS = {
    FIRST: PYTHON,
    "Python, x86-64, reference kernels": [*PYTHON, "--kernels", "reference"],
    "Browser, x86-64": WEB,
    "Native, x86-64": ["build/native/run"],
    **{f"Python, ARM64 {cpu}": [*ARM64, "--cpu", cpu] for cpu in ("cortex-a53", "cortex-a76", "cortex-a710", "max")},
    "Native, ARM64 cortex-a76": [*ARM64, "--cpu", "cortex-a76", "--runner", "native"],
}
BUNDLES = {
    "digits CNN, static_int8": "digits/bundle",
    "digits CNN, float32": "digits/float32/student-distilled",
    "activity LSTM, int8": "activity/window",
    "activity LSTM step by step, int16x8": "activity/stream",
    "translator, dynamic_int8": "translator/bundle",
}


def measured(command, bundle, repeat, outputs):
    """The runner's line, with its exit code; or {"reason"}."""
    arguments = [str(bundle), "--repeat", str(repeat), "--outputs", str(outputs)]
    result = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        lines = result.stderr.strip().splitlines()
        return {"reason": lines[-1] if lines else f"ended with {result.returncode}"}
    line = json.loads(result.stdout.splitlines()[-1])
    if line["ok"] != (result.returncode == 0):
        raise AssertionError(f"{command} said ok={line['ok']} and ended with {result.returncode}.")
    return line


def written(bundle, outputs):
    """The (values, scale, samples) of every output that a runner wrote."""
    found = []
    for signature in json.loads((bundle / "model.json").read_text())["signatures"]:
        for tensor in signature["outputs"]:
            dtype = "float32" if tensor["scale"] is not None else tensor["dtype"]
            path = outputs / Path(tensor["golden"]).name
            values = np.fromfile(path, np.dtype(dtype).newbyteorder("<"))
            found.append((values.reshape(signature["golden_samples"], -1), tensor["scale"]))
    return found


def compared(first, other):
    """Differing values, all values, the largest difference (LSB where all outputs have a grid), shared argmax."""
    differing = total = 0
    largest, largest_lsb, same, samples = 0.0, 0.0, 0, 0
    for (a, scale), (b, _) in zip(first, other, strict=True):
        differing += int((a != b).sum())
        total += a.size
        difference = float(np.abs(a.astype("float64") - b.astype("float64")).max())
        largest = max(largest, difference)
        largest_lsb = None if scale is None or largest_lsb is None else max(largest_lsb, difference / scale)
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
        samples += len(a)
    return differing, total, largest, largest_lsb, same / samples


def row(name, line, comparison):
    """Cells of a runner."""
    if "reason" in line:
        return [name, "-", line["reason"].replace("|", "/"), "", "", "", ""]
    error = line["max_error_lsb"]
    error = f"{line['max_error']:.1e}" if error is None else f"{error:.2f} LSB"
    differing, total, largest, largest_lsb, agreement = comparison
    size = f"{largest:.1e}" if largest_lsb is None else f"{largest_lsb:.0f} LSB"
    differ = f"0 of {total:,}" if differing == 0 else f"{differing:,} of {total:,}, by {size} at most"
    latency = "emulated" if "ARM64" in name else f"{line['latency_ms_p50']:.3f}"
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
    """The table of a bundle, as lines of Markdown."""
    manifest = json.loads((bundle / "model.json").read_text())
    size = manifest["files"]["model.tflite"]["bytes"]
    samples = " + ".join(str(signature["golden_samples"]) for signature in manifest["signatures"])
    head = ["runner", "ok", "error against the trained model", "values that differ", "argmax", "p50, ms", "runtime"]
    lines = [f"**{title}** ({size:,} bytes, {samples} golden samples)", "", f"| {' | '.join(head)} |", "|---" * 7 + "|"]
    first = None
    for name, command in runners.items():
        with tempfile.TemporaryDirectory() as directory:
            line = measured(command, bundle, repeat, Path(directory))
            outputs = None if "reason" in line else written(bundle, Path(directory))
        first = outputs if name == FIRST else first
        lines.append(f"| {' | '.join(row(name, line, outputs and compared(first, outputs)))} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def main():
    """Measures and prints, and writes if asked to."""
    parser = argparse.ArgumentParser(description="Runner by bundle.")
    parser.add_argument("--write", action="store_true", help="put the tables into tflite/README.md")
    parser.add_argument("--bundles", type=Path, default=ROOT / "build", metavar="DIR")
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="bundles by title")
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
