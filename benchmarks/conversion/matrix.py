"""The models that convert, by recipe, and how near each file is to its model; beside Keras's own export.

    python -m benchmarks conversion matrix [--only NAME ...] [--processes 2] [--write]

Every model of zoo.py (random weights that look trained), 256 calibration samples, 16 others as golden
samples, each recipe; a row a model, made in a process of its own. A cell holds the size of the file in KiB and the
largest error: of integer files in steps of the output's grid, of others as a share of the largest output; or why there
is no file ("refused"), or that the verification failed ("strays"), with how far rounding alone moves such a model: one
with random weights has no reason to be robust to it. The last column is `model.export(format="litert")`.
--write renews matrix.md beside this file, with every reason in full.
"""

import argparse
import concurrent.futures
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import command_line

TABLE = Path(__file__).with_suffix(".md")
RECIPES = ("float32", "float16", "dynamic_int8", "static_int8", "int16x8", "weight_int4")
CALIBRATION, GOLDEN = 256, 16
SECONDS = 1800
BAD_DB = 10


def measure_model(name):
    """Converts one model by every recipe; returns its cells by recipe, as {"text", "reason"}."""
    import keras

    import keras_notes as kn
    from benchmarks.conversion.zoo import ZOO, samples
    from keras_notes.bundle import write_bundle
    from keras_notes.conversion._bundle_builder import BundleBuilder
    from keras_notes.conversion._recipes import parse_recipe

    model = ZOO[name]()
    calibration, golden = samples(name, CALIBRATION, seed=1), samples(name, GOLDEN, seed=2)
    cells = {"parameters": {"text": f"{model.count_params():,}", "reason": ""}}
    with tempfile.TemporaryDirectory() as directory:
        # What `convert` does, with the steps that recipes share made once.
        builder = BundleBuilder(model, calibration=calibration, golden=golden)
        for recipe in RECIPES:
            try:
                content = builder.build(parse_recipe(recipe), "float32")
                bundle = write_bundle(Path(directory) / recipe, *content)
                cells[recipe] = verify_bundle(bundle)
                if cells[recipe]["reason"]:
                    cells[recipe]["reason"] += f". {explain_error(builder.graphs[0], bundle)}"
            except kn.errors.ConversionError as error:
                cells[recipe] = {"text": "refused", "reason": str(error)}
        reference = bundle if (bundle := _float_bundle(directory)) else None
        cells["keras export"] = export_by_keras(keras, model, Path(directory), reference)
    return cells


def verify_bundle(bundle):
    """Verifies a bundle and returns its cell."""
    import keras_notes as kn

    try:
        report, reason, state = kn.verify(bundle), "", ""
    except kn.errors.VerificationError as error:
        report, reason, state = error.report, str(error), "strays "
    output = max(report.outputs, key=lambda output: output.max_error_lsb or 0.0)
    if output.max_error_lsb is not None and bundle.manifest.tolerance.max_error_lsb is not None:
        error = f"{output.max_error_lsb:.1f} LSB"
    else:
        signature = bundle.manifest.signatures[0]
        largest = {name: abs(values).max() or 1.0 for name, values in bundle.golden(signature)[1].items()}
        error = f"{max(output.max_error / largest[output.name] for output in report.outputs):.1e}"
    return {"text": f"{state}{bundle.model_bytes / 1024:.0f} K, {error}", "reason": reason}


def explain_error(graph, bundle):
    """Returns why a file strays: what rounding does without any converter, and where in the file the error begins.

    The weights of the Keras model are rounded to the recipe's format, a scale for each output channel, and nothing
    else: not the activations.
    """
    from keras_notes.bundle import read_tensor_errors

    inputs, exact = bundle.golden(bundle.manifest.signatures[0])
    samples = {name: inputs[name] for name in graph.input_specs}
    before = graph.model.get_weights()
    graph.model.set_weights([_round_weights(weight, bundle.manifest.recipe) for weight in before])
    rounded = graph.run(samples)[1]
    graph.model.set_weights(before)
    moved = max(abs(exact[name] - rounded[name]).max() / (abs(exact[name]).max() or 1.0) for name in exact)
    below = [error.name for error in read_tensor_errors(bundle) or () if error.sqnr_db < BAD_DB]
    first = f"the first tensor below {BAD_DB} dB is {below[0]}" if below else f"no tensor is below {BAD_DB} dB"
    return f"Rounding its weights alone, in Keras, moves its outputs by up to {moved:.1e} of the largest; {first}"


def _round_weights(weight, recipe):
    import numpy as np

    if weight.ndim < 2 or weight.dtype != np.float32:
        return weight
    if recipe == "float16":
        return weight.astype("float16").astype("float32")
    maximum = 7 if recipe == "weight_int4" else 127
    # A depthwise kernel, (height, width, channels, 1), has its channels before the last axis.
    axes = tuple(range(weight.ndim - 1 - (weight.ndim == 4 and weight.shape[-1] == 1)))
    scale = np.maximum(abs(weight).max(axis=axes, keepdims=True), 1e-30) / maximum
    return np.round(weight / scale) * scale


def _float_bundle(directory):
    from keras_notes.bundle import open_bundle

    path = Path(directory) / "float32"
    return open_bundle(path) if path.exists() else None


def export_by_keras(keras, model, directory, bundle):
    """Exports by Keras alone; returns its cell: whether LiteRT runs the file, and gives what the model gives."""
    import numpy as np

    path = directory / "keras.tflite"
    try:
        model.export(str(path), format="litert", verbose=False)
    except Exception as error:
        text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        return {"text": "no file", "reason": f"{type(error).__name__}: {text[:300]}"}
    if bundle is None:
        return {"text": f"{path.stat().st_size / 1024:.0f} K", "reason": "not run: there is nothing to compare with"}
    inputs, outputs = bundle.golden(bundle.manifest.signatures[0])
    np.savez(directory / "golden.npz", *inputs.values(), *outputs.values())
    program = [sys.executable, str(Path(__file__).with_name("run_tflite.py")), str(path), str(directory / "golden.npz")]
    result = subprocess.run([*program, str(len(inputs))], capture_output=True, text=True, check=False, timeout=300)
    size = f"{path.stat().st_size / 1024:.0f} K"
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        return {"text": f"{size}, does not run", "reason": reason[:300]}
    return {"text": f"{size}, {float(result.stdout):.1e}", "reason": ""}


def measure_models(names, processes):
    """Yields (name, cells) as they come, each made in a process of its own."""

    def run_row(name):
        command = command_line.own_command("conversion", "matrix", "--row", name)
        settings = {"cwd": command_line.ROOT, "capture_output": True, "text": True, "timeout": SECONDS}
        try:
            result = subprocess.run(command, **settings, check=False)
        except subprocess.TimeoutExpired:
            return name, None, f"longer than {SECONDS} s"
        lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
        return name, json.loads(lines[-1]) if lines else None, result.stderr[-2000:]

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        yield from pool.map(run_row, names)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    from benchmarks.conversion.zoo import ZOO

    parser = command_line.build_parser("conversion matrix", __doc__)
    parser.add_argument("--only", nargs="+", choices=list(ZOO), default=list(ZOO), metavar="NAME")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"renew {TABLE.name}")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, and writes it if asked to; returns 1 if there is a model without a row."""
    options = build_parser().parse_args(arguments)
    if options.row:
        print(json.dumps(measure_model(options.row)))
        return 0
    columns = ("parameters", *RECIPES, "keras export")
    lines = ["| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    reasons, without_row = [], []
    for name, cells, log in measure_models(options.only, options.processes):
        if cells is None:
            without_row.append(name)
            print(f"{name}: no row\n{log}", flush=True)
            continue
        lines.append(f"| {name} | " + " | ".join(cells[column]["text"] for column in columns) + " |")
        reasons += [f"- {name}, {c}: {cells[c]['reason']}" for c in columns if cells[c]["reason"]]
        print(lines[-1], flush=True)
    if options.write:
        head = "Made by `python -m benchmarks conversion matrix --write`; `--help` says what a cell means.\n"
        TABLE.write_text("\n".join([head, *lines, "", "Reasons:", "", *reasons]) + "\n")
    else:
        print("\n".join(["", *reasons]))
    return 1 if without_row else 0
