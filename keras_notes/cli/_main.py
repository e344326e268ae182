"""The command line: `keras-notes convert | verify | inspect | bench | report`.

Exit codes: 0 done and equal, 1 not equal to the trained model, 2 could not be done (one line on stderr says why).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import shtab

from keras_notes._litert.runtime import KERNELS
from keras_notes._shared.checks import check_choice
from keras_notes._shared.recipe_names import AUTO, EDGES, RECIPES
from keras_notes._shared.task_metrics import METRICS
from keras_notes.benchmarking import bench
from keras_notes.bundle import Choice, check_target, read_choice
from keras_notes.cli import _arguments, _inspect
from keras_notes.cli._native_output import quiet_start
from keras_notes.errors import KerasNotesError, VerificationError
from keras_notes.report import write_report
from keras_notes.verification import Report, verify

__all__ = ["main"]

OK, NOT_EQUAL, CANNOT_RUN = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: Command and its options, without the name of the program; None for those of this process.

    Returns:
        0 if it is done and the file is equal to the trained model, 1 if the file is not equal, 2 if the command could
        not be run, with the reason on stderr.

    Example:
        >>> main(["verify", "tflite/testdata/bars_static_int8"])  # doctest: +ELLIPSIS
        bars: PASS
          recipe static_int8, 3999 bytes
        ...
        0
    """
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
    except Exception:  # a bug in this package: shown in full, and never with the exit code of "not equal"
        traceback.print_exc()
        return CANNOT_RUN
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keras-notes", description="From a trained Keras model to a verified file.")
    shtab.add_argument_to(parser, help="print a script for the completion of this command line, and end")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('keras_notes')}")
    _add_verbose(parser, default=False)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_convert(commands.add_parser("convert", help="convert a model to a bundle, and verify it"))

    verifying = commands.add_parser("verify", help="compare a bundle with the trained model")
    _add_directory(verifying)
    _add_completion(verifying.add_argument("-x", type=Path, metavar="X.npy", help="test inputs"), shtab.FILE)
    verifying.add_argument("-y", type=Path, metavar="Y.npy", help="their labels, to measure the file by the task")
    verifying.add_argument("--metric", help=f"{', '.join(METRICS)}; the accuracy that suits the labels by default")
    verifying.set_defaults(run=_verify)

    inspecting = commands.add_parser("inspect", help="say what a bundle or a .tflite file holds")
    _add_completion(inspecting.add_argument("directory", type=Path, metavar="DIR|FILE"), shtab.FILE)
    inspecting.add_argument("--debug", action="store_true", help="the error of each tensor down the graph")
    inspecting.set_defaults(run=_inspect.inspect)

    measuring = commands.add_parser("bench", help="measure latency and memory; of two bundles in turn, and their ratio")
    _add_directory(measuring)
    _add_completion(measuring.add_argument("other", type=Path, nargs="?", metavar="OTHER"), shtab.DIRECTORY)
    measuring.add_argument("--threads", default="1,2", metavar="N,N", help="thread counts; 1,2 by default")
    measuring.add_argument("--repeat", type=int, default=200, metavar="N", help="warm invocations; 200 by default")
    measuring.set_defaults(run=_bench)

    reporting = commands.add_parser("report", help="write a page about a bundle, or about two")
    _add_directory(reporting)
    _add_completion(reporting.add_argument("other", type=Path, nargs="?", metavar="OTHER"), shtab.DIRECTORY)
    labelled = "labelled samples: x (or each input by name) and y"
    _add_completion(reporting.add_argument("--data", type=Path, metavar="DATA.npz", help=labelled), shtab.FILE)
    reporting.add_argument("-x", type=Path, metavar="X.npy", help="test inputs, for accuracy and confusion matrix")
    reporting.add_argument("-y", type=Path, metavar="Y.npy", help="their class ids")
    reporting.add_argument("-o", "--output", type=Path, required=True, metavar="REPORT.html")
    reporting.set_defaults(run=_report)
    for command in commands.choices.values():
        # Not given after the command it keeps the value from before it.
        _add_verbose(command, default=argparse.SUPPRESS)
    for command in (verifying, measuring):
        command.add_argument("--kernels", default="xnnpack", help=f"{', '.join(KERNELS)}; the kernels to run on")
    for command in (verifying, inspecting, measuring):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_verbose(parser: argparse.ArgumentParser, default: bool | str) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", default=default, help="say each step on stderr")


def _add_completion(action: argparse.Action, completion: dict[str, str]) -> None:
    """Tells the shell what to offer for an argument; shtab reads an attribute of it."""
    action.complete = completion  # type: ignore[attr-defined]


def _add_directory(parser: argparse.ArgumentParser) -> None:
    _add_completion(parser.add_argument("directory", type=Path, metavar="DIR"), shtab.DIRECTORY)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    forms = "a .keras file, a SavedModel, or MODULE:FUNCTION that returns a model"
    _add_completion(parser.add_argument("model", metavar="MODEL", help=forms), shtab.FILE)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder for the bundle")
    parser.add_argument(
        "--recipe", default="static_int8", help=f"{', '.join((*RECIPES, AUTO))}; static_int8 by default"
    )
    parser.add_argument(
        "--layer", action="append", default=[], metavar="PATTERN=RECIPE", help="another recipe for some layers"
    )
    parser.add_argument("--edges", default="float32", help=f"{', '.join(EDGES)}; type of the inputs and outputs")
    parser.add_argument(
        "--calibration", type=Path, metavar="X.npy", help="typical inputs, (samples, ...); a .npz by input name"
    )
    parser.add_argument(
        "--input-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="smallest and largest value of the input"
    )
    parser.add_argument("--golden", type=Path, metavar="X.npy", help="inputs whose outputs the bundle keeps")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    parser.add_argument("--preprocessing", metavar="WORDS", help="how raw data becomes the model's input")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json of a model of text, to keep")
    parser.add_argument("--any-batch", action="store_true", help="a file that takes any number of samples at once")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="import a module that registers custom layers"
    )
    parser.add_argument(
        "-x", type=Path, metavar="X.npy", help="test inputs; the bundle keeps the model's figure on them"
    )
    parser.add_argument("-y", type=Path, metavar="Y.npy", help="their labels; class ids for the recipe auto")
    choosing = parser.add_argument_group("the recipe auto", "makes a file by each recipe that fits, and keeps the best")
    choosing.add_argument(
        "--accuracy-budget", type=float, default=0.01, metavar="LOSS", help="accuracy that it may lose; 0.01 by default"
    )
    choosing.add_argument("--prefer", default="bytes", help="bytes (by default) or latency: the measure to minimize")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that stands in DIR")
    parser.add_argument("--json", action="store_true", help="print the report of the verification as JSON")
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> None:
    check_target(options.output, options.overwrite)
    _arguments.check_model_exists(options.model)
    check_choice("edges", options.edges, EDGES)
    arguments = _arguments.conversion_arguments(options)
    with quiet_start():
        # Keras and TensorFlow are imported here: they take seconds, and no other command needs them.
        from keras_notes.conversion import convert

        if options.verbose or sys.stderr.isatty():
            _log_to_stderr()
        bundle = convert(_arguments.load_model(options.model, options.trust), options.output, **arguments)
        report = verify(bundle, *(arguments.get("validation_data") or ()))
    options.choice = read_choice(bundle)
    if options.choice is not None and not options.json:
        print(options.choice)
    _print_report(report, options)
    if not options.json:
        print(f"written to {options.output}")


def _log_to_stderr() -> None:
    """Logs each step of the conversion."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(relativeCreated)7.0f ms  %(message)s"))
    logger = logging.getLogger("keras_notes")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # TensorFlow adds a handler of its own to the root logger.
    logger.propagate = False


def _verify(options: argparse.Namespace) -> None:
    x, y = _arguments.load_labelled(options.x, options.y) or (None, None)
    _print_report(verify(options.directory, x, y, metric=options.metric, kernels=options.kernels), options)


def _bench(options: argparse.Namespace) -> None:
    try:
        threads = tuple(int(number) for number in options.threads.split(","))
    except ValueError as error:
        raise ValueError(f"`--threads` must be numbers and commas. Received: {options.threads!r}.") from error
    report = bench(options.directory, options.other, threads=threads, kernels=options.kernels, repeat=options.repeat)
    print(json.dumps(report.to_dict()) if options.json else report)


def _report(options: argparse.Namespace) -> None:
    x, y = _arguments.load_data(options.data, options.x, options.y)
    arguments = {"x": x, "y": y, "other": options.other}
    try:
        verification = verify(options.directory, x, y)
    except VerificationError as error:
        write_report(options.directory, options.output, verification=error.report, **arguments)
        raise
    print(f"written to {write_report(options.directory, options.output, verification=verification, **arguments)}")


def _print_report(report: Report, options: argparse.Namespace) -> None:
    if not getattr(options, "json", False):
        print(report)
        return
    choice: Choice | None = getattr(options, "choice", None)
    candidates = {} if choice is None else {"choice": choice.to_dict()}
    print(json.dumps({**report.to_dict(), **candidates}))
