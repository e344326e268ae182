"""The command line: `keras-notes convert | verify | inspect`.

Exit codes: 0 done and equal, 1 not equal to the trained model, 2 could not be done (one line on stderr says why).
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_notes import _tflite_process as tflite_process
from keras_notes._litert import KERNELS
from keras_notes.bundle import TensorEntry, check_target, open_bundle
from keras_notes.conversion import convert
from keras_notes.conversion._recipes import EDGES, RECIPES
from keras_notes.errors import KerasNotesError, VerificationError
from keras_notes.verification import Report, verify

__all__ = ["main"]

OK, NOT_EQUAL, CANNOT_RUN = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except VerificationError as error:
        _print_report(error.report, options)
        return NOT_EQUAL
    except (KerasNotesError, ValueError, TypeError, OSError) as error:
        print(f"keras-notes {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return CANNOT_RUN
    except Exception:  # a defect of ours: shown whole, and never with the exit code of "not equal"
        traceback.print_exc()
        return CANNOT_RUN
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keras-notes", description="From a trained Keras model to a verified file.")
    commands = parser.add_subparsers(dest="command", required=True)

    converting = commands.add_parser("convert", help="convert a .keras file to a bundle, and verify it")
    converting.add_argument("model", type=Path, metavar="MODEL.keras")
    converting.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the bundle shall be")
    converting.add_argument("--recipe", default="static_int8", help=f"{', '.join(RECIPES)}; static_int8 by default")
    converting.add_argument("--edges", default="float32", help=f"{', '.join(EDGES)}; type of the inputs and outputs")
    converting.add_argument("--calibration", type=Path, metavar="X.npy", help="typical inputs, (samples, ...)")
    converting.add_argument("--golden", type=Path, metavar="X.npy", help="inputs whose outputs the bundle shall keep")
    converting.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    converting.add_argument("--overwrite", action="store_true", help="replace a bundle that stands in DIR")
    converting.set_defaults(run=_convert)

    verifying = commands.add_parser("verify", help="compare a bundle with the trained model")
    verifying.add_argument("directory", type=Path, metavar="DIR")
    verifying.add_argument("-x", type=Path, metavar="X.npy", help="test inputs")
    verifying.add_argument("-y", type=Path, metavar="Y.npy", help="their class ids, to measure the accuracy")
    verifying.add_argument("--kernels", default="xnnpack", help=f"{', '.join(KERNELS)}; the kernels to run on")
    verifying.set_defaults(run=_verify)

    inspecting = commands.add_parser("inspect", help="say what a bundle holds")
    inspecting.add_argument("directory", type=Path, metavar="DIR")
    inspecting.set_defaults(run=_inspect)
    for command in (verifying, inspecting):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _convert(options: argparse.Namespace) -> None:
    check_target(options.output, options.overwrite)
    model = _model(options.model)
    bundle = convert(
        model,
        options.output,
        options.recipe,
        edges=options.edges,
        calibration=_array(options.calibration),
        golden=_array(options.golden),
        labels=None if options.labels is None else options.labels.read_text().splitlines(),
        overwrite=options.overwrite,
    )
    print(verify(bundle))
    print(f"written to {options.output}")


def _verify(options: argparse.Namespace) -> None:
    report = verify(options.directory, _array(options.x), _array(options.y), kernels=options.kernels)
    _print_report(report, options)


def _inspect(options: argparse.Namespace) -> None:
    bundle = open_bundle(options.directory)
    if options.json:
        print((bundle.directory / "model.json").read_text(), end="")
        return
    manifest, file = bundle.manifest, tflite_process.describe(bundle.model_path)
    print(f"{manifest.name}: recipe {manifest.recipe}, edges {manifest.edges}, {bundle.model_bytes} bytes")
    for signature in manifest.signatures:
        print(f"signature {signature.name}, {signature.golden_samples} golden samples")
        for kind, entries in (("input", signature.inputs), ("output", signature.outputs)):
            for entry in entries:
                print(f"  {kind} {_described(entry)}")
    print("operators: " + ", ".join(f"{count} {name}" for name, count in file.operator_counts().items()))
    if len(file.float_islands()) < sum(file.operator_counts().values()):
        print(f"in floating point: {', '.join(file.float_islands()) or 'none'}")
    if manifest.preprocessing is not None:
        print(f"preprocessing: {manifest.preprocessing}")
    if manifest.labels is not None:
        print(f"labels: {', '.join(manifest.labels)}")
    for name, value in manifest.metrics.items():
        print(f"{name}: {value:g}")
    print("made by " + ", ".join(f"{package} {number}" for package, number in manifest.versions.items()))


def _described(entry: TensorEntry) -> str:
    grid = "" if entry.scale is None else f", 1 LSB = {entry.scale:.6g}, zero point {entry.zero_point}"
    return f"{entry.name}: {entry.dtype} {list(entry.shape)}{grid}"


def _print_report(report: Report, options: argparse.Namespace) -> None:
    as_json = getattr(options, "json", False)
    print(json.dumps(report.to_dict()) if as_json else report)


def _model(path: Path) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file runs into anything from BadZipFile to KeyError
        raise ValueError(f"{str(path)!r} cannot be loaded as a Keras model: {error}") from error


def _array(path: Path | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        return np.load(path, allow_pickle=False)
    except (EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} must be a .npy file of numbers. Received: {error}") from error
