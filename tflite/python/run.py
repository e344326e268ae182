#!/usr/bin/env python3
"""Runs a bundle on this device and compares it with the trained model. Needs numpy and ai-edge-litert, nothing else.

    python run.py BUNDLE [--repeat N] [--outputs DIRECTORY] [--kernels xnnpack | builtin | reference]

Checks every hash, resets the state before each sample, quantizes by model.json, runs all golden samples, and prints one
line of JSON. Exit code: 0 equal within the bundle's tolerance, 1 not equal, 2 cannot run (the reason is on stderr).
The contract is in ../README.md.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

try:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError as error:
    print(f"run.py: cannot run: {error}. Install it: pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

FORMAT_VERSION = 2
EQUAL, NOT_EQUAL, CANNOT_RUN = 0, 1, 2
WARM_UP_RUNS = 10
STANDARD_ERRORS = 3
# XNNPACK is what a program gets that asks for nothing; the reference kernels give the same integers on every processor.
KERNELS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def load_manifest(bundle):
    """Reads model.json and checks the size and SHA-256 of each file that it lists."""
    content = (bundle / "model.json").read_bytes()
    manifest = json.loads(content)
    check_manifest(manifest)
    stated = manifest["manifest_sha256"]
    if hashlib.sha256(content.replace(stated.encode(), b"0" * 64, 1)).hexdigest() != stated:
        raise ValueError("model.json is damaged: its hash is not the one that it states. Copy the bundle again.")
    for name, entry in manifest["files"].items():
        data = (bundle / name).read_bytes()
        if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{name} is damaged: it is not the file that model.json describes. Copy the bundle again.")
    return manifest


def check_manifest(manifest):
    """Raises ValueError for what would make the comparison mean nothing; bundle.schema.json is the definition."""
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version") if isinstance(manifest, dict) else type(manifest).__name__
        raise ValueError(f"format_version must be {FORMAT_VERSION}. Received: {found}.")
    missing = [key for key in ("manifest_sha256", "files", "signatures", "tolerance") if key not in manifest]
    if missing:
        raise ValueError(f"model.json must have the keys {', '.join(missing)}. Copy the bundle again.")
    if not isinstance(manifest["files"], dict) or "model.tflite" not in manifest["files"]:
        raise ValueError("model.json must list model.tflite among its files, by name.")
    for name in manifest["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"Files must lie inside the bundle. Received: {name}.")
    if not manifest["signatures"]:
        raise ValueError("model.json must describe at least one signature.")
    for signature in manifest["signatures"]:
        for tensor in (*signature["inputs"], *signature["outputs"]):
            if tensor["golden"] not in manifest["files"]:
                raise ValueError(f"model.json must have the hash of {tensor['golden']}.")
            if tensor["scale"] is not None and not tensor["scale"] > 0:
                raise ValueError(f"A scale must be > 0. Received: {tensor['scale']} for {tensor['name']}.")


def is_quantized(tensor):
    """Whether the edge of the file takes or gives integers of a grid."""
    return tensor["dtype"] in ("int8", "uint8", "int16") and tensor["scale"] is not None


def quantize(values, tensor):
    """round(values / scale) + zero_point, halves away from zero, saturated; a float edge takes values as they are."""
    if not is_quantized(tensor):
        return values.astype(tensor["dtype"])
    steps = values.astype(np.float32) / np.float32(tensor["scale"])
    whole = np.trunc(steps)
    # Not trunc(steps + 0.5): the sum rounds the float below a half up to 1.
    rounded = (
        whole + np.where(np.abs(steps - whole) >= 0.5, np.copysign(np.float32(1), steps), 0) + tensor["zero_point"]
    )
    limits = np.iinfo(tensor["dtype"])
    return np.clip(rounded, limits.min, limits.max).astype(tensor["dtype"])


def dequantize(values, tensor):
    """(values - zero_point) * scale; a float edge gives the values as they are."""
    if not is_quantized(tensor):
        return values
    return (values.astype(np.float32) - np.float32(tensor["zero_point"])) * np.float32(tensor["scale"])


def golden_values(bundle, tensor, samples):
    """The golden samples of an input or output: raw, little-endian, row-major."""
    values = np.fromfile(bundle / tensor["golden"], dtype=np.dtype(tensor["golden_dtype"]).newbyteorder("<"))
    return values.reshape(samples, *tensor["shape"][1:]).astype(tensor["golden_dtype"])


def run_samples(interpreter, signature, inputs):
    """Runs the samples one by one; outputs by name, in the units of the trained model.

    Each starts from a fresh state; but with states, they are the steps of one sequence, and carry them on.
    """
    runner = interpreter.get_signature_runner(signature["name"])
    outputs = {tensor["name"]: [] for tensor in signature["outputs"]}
    for index in range(signature["golden_samples"]):
        interpreter.reset_all_variables()
        sample = {name: values[index : index + 1] for name, values in inputs.items()}
        if index > 0:
            sample.update({state["input"]: outputs[state["output"]][-1] for state in signature["states"]})
        results = runner(**{t["name"]: quantize(sample[t["name"]], t) for t in signature["inputs"]})
        for tensor in signature["outputs"]:
            outputs[tensor["name"]].append(dequantize(results[tensor["name"]], tensor))
    return {name: np.concatenate(rows) for name, rows in outputs.items()}


def finite(value):
    """The value, or None for what JSON cannot hold."""
    return value if value is not None and np.isfinite(value) else None


def beyond_chance(error):
    """Root mean square and absolute mean, less 3 standard errors: what the draw of the samples does not explain."""
    rows = error.reshape(len(error), -1)
    squares, means = np.square(rows).mean(axis=1), rows.mean(axis=1)
    errors = [v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in (squares, means)]
    rms = np.sqrt(np.maximum(squares.mean() - STANDARD_ERRORS * errors[0], 0.0))
    return float(rms), float(np.maximum(abs(means.mean()) - STANDARD_ERRORS * errors[1], 0.0))


def compare(tensor, golden, got, tolerance):
    """One output's largest error (plain and in LSB), its top-1 agreement, and whether it is within the tolerance."""
    tolerance = tensor.get("tolerance", tolerance)
    scale = tensor["scale"]
    are_ids = scale is None and golden.dtype.kind in "iub"
    golden, got = golden.astype(np.float64), got.astype(np.float64)
    error = got - golden
    largest = float(np.abs(error).max())
    least_rms, least_mean = beyond_chance(error)
    largest_lsb = None if scale is None else largest / scale
    agreement = None
    if are_ids and tolerance.get("agreement") is not None:
        # Negative, because every other measure has an upper limit.
        measures = [(-float((golden == got).mean()), -tolerance["agreement"])]
    elif scale is not None and tolerance["max_error_lsb"] is not None:
        measures = [
            (largest_lsb, tolerance["max_error_lsb"]),
            (least_rms / scale, tolerance["rms_error_lsb"]),
            (least_mean / scale, tolerance["mean_error_lsb"]),
        ]
    else:
        magnitude = tensor.get("magnitude") or float(np.abs(golden).max()) or 1.0
        measures = [(largest / magnitude, tolerance["max_error"]), (least_rms / magnitude, tolerance["rms_error"])]
    if golden.ndim > 1 and golden.shape[-1] > 1 and not are_ids:
        agreement = float((golden.argmax(-1) == got.argmax(-1)).mean())
    measures = [(value, most) for value, most in measures if most is not None]
    # Not `value > most`: a NaN must fail. So must an output that nothing measures.
    ok = bool(measures) and all(np.isfinite(value) and value <= most for value, most in measures)
    return finite(largest), finite(largest_lsb), agreement, ok


def latencies_ms(interpreter, signature, inputs, repeat):
    """Milliseconds of each of `repeat` invocations on the golden samples in turn, after a warm-up."""
    details = interpreter.get_signature_runner(signature["name"]).get_input_details()
    # `invoke` runs the first graph of the file, while no runner is held; of another one the copies count, too.
    names = {detail["name"] for detail in interpreter.get_input_details()}
    is_first = names == {detail["name"] for detail in details.values()}
    runner = None if is_first else interpreter.get_signature_runner(signature["name"])
    elapsed = []
    for run in range(WARM_UP_RUNS + repeat):
        index = run % signature["golden_samples"]
        interpreter.reset_all_variables()
        fed = {t["name"]: quantize(inputs[t["name"]][index : index + 1], t) for t in signature["inputs"]}
        if is_first:
            for name, values in fed.items():
                interpreter.set_tensor(details[name]["index"], values)
        start = time.perf_counter()
        if is_first:
            interpreter.invoke()
        else:
            runner(**fed)
        elapsed.append(1000.0 * (time.perf_counter() - start))
    return elapsed[WARM_UP_RUNS:]


def open_interpreter(bundle, kernels):
    """The bundle's file on one thread."""
    resolver = KERNELS[kernels]
    interpreter = Interpreter(str(bundle / "model.tflite"), num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter


def write_outputs(directory, signature, outputs):
    """Writes what came out as the golden values lie: raw, little-endian, row-major, in a file of the same name."""
    directory.mkdir(parents=True, exist_ok=True)
    for tensor in signature["outputs"]:
        values = outputs[tensor["name"]]
        (directory / Path(tensor["golden"]).name).write_bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())


def run(bundle, repeat, kernels="xnnpack", directory=None):
    """Runs the bundle and returns the line to print; the outputs go into the directory, if one is given."""
    manifest = load_manifest(bundle)
    interpreter = open_interpreter(bundle, kernels)
    compared = []
    for signature in manifest["signatures"]:
        samples = signature["golden_samples"]
        inputs = {tensor["name"]: golden_values(bundle, tensor, samples) for tensor in signature["inputs"]}
        outputs = run_samples(interpreter, signature, inputs)
        if directory is not None:
            write_outputs(directory, signature, outputs)
        for tensor in signature["outputs"]:
            golden = golden_values(bundle, tensor, samples)
            compared.append(compare(tensor, golden, outputs[tensor["name"]], manifest["tolerance"]))
    signature = manifest["signatures"][0]
    inputs = {t["name"]: golden_values(bundle, t, signature["golden_samples"]) for t in signature["inputs"]}
    elapsed = latencies_ms(interpreter, signature, inputs, repeat)
    errors, errors_lsb, agreements, oks = zip(*compared, strict=True)
    return {
        "runner": "python",
        "runtime_version": f"ai-edge-litert {version('ai-edge-litert')}, {kernels} kernels",
        "device": f"{platform.system()} {platform.machine()}",
        "ok": all(oks),
        "max_error": None if None in errors else max(errors),
        "max_error_lsb": max((e for e in errors_lsb if e is not None), default=None),
        "top1_agreement": min((a for a in agreements if a is not None), default=None),
        "latency_ms_p50": float(np.percentile(elapsed, 50)),
        "latency_ms_p95": float(np.percentile(elapsed, 95)),
        "model_sha256": manifest["files"]["model.tflite"]["sha256"],
    }


def main():
    """Parses the command line, prints the result, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Run a bundle on this device and compare it with the trained model.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--repeat", type=int, default=100, metavar="N", help="invocations to time (default 100)")
    parser.add_argument("--outputs", type=Path, metavar="DIRECTORY", help="where to write what comes out")
    parser.add_argument("--kernels", choices=tuple(KERNELS), default="xnnpack", help="xnnpack by default")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error(f"--repeat must be >= 1. Received: {options.repeat}.")
    try:
        result = run(options.bundle, options.repeat, options.kernels, options.outputs)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        print(f"run.py: cannot run {options.bundle}: {error}", file=sys.stderr)
        return CANNOT_RUN
    print(json.dumps(result))
    return EQUAL if result["ok"] else NOT_EQUAL


if __name__ == "__main__":
    sys.exit(main())
