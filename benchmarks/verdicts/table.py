"""Verdicts of `verify` on files of which the task says whether they are good: no false alarm, and no miss.

    python -m benchmarks verdicts table [--only NAME] [--no-real]

Small nets are made here, on scikit-learn's digits and diabetes and on a made table, converted soundly, or spoiled on
purpose (calibration in another scale, channels of unlike size, other weights). Real networks are those of
`benchmarks.real_networks.verdict_cases`, with sound and with spoiled calibration. A row is the figure of the trained
model on test samples, that of the file, whether the file is good by the task, and the verdict. "spoiled" files are
sound ones whose golden outputs are those of another model, so that no figure is measured. All seeds are 0 or 1.

A file is good if its accuracy is at most a point below the trained model's on labelled test samples. Real networks come
without labels: the classes of the float model are theirs, in place of which a tenth may change.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import keras_notes as kn
from benchmarks import command_line
from benchmarks.verdicts.cases import Case, cases, real_cases
from keras_notes.bundle import Bundle, open_bundle, write_bundle
from keras_notes.errors import BundleError, ConversionError, VerificationError


def judge(case: Case, directory: Path) -> tuple[str, str, str]:
    """Returns the figure of the trained model, that of the file, and the verdict: "ok", or the first failure."""
    options = {"validation_data": case.test if case.is_labelled else None, **case.convert}
    try:
        bundle = kn.convert(case.model, directory, **options)
    except ConversionError as error:
        return "", "", f"not converted: {error}"
    if case.spoil is not None:
        bundle = spoil(bundle, case)
    try:
        report = kn.verify(bundle, *case.test) if case.is_labelled else kn.verify(bundle)
    except VerificationError as error:
        report = error.report
    except BundleError as error:
        return "", "", f"cannot run: {error}"
    figure = next(iter(report.figures), None)
    trained = "" if figure is None or figure.trained_value is None else f"{figure.trained_value:.4f}"
    return trained, "" if figure is None else f"{figure.value:.4f}", report.failures[0] if report.failures else "ok"


def spoil(bundle: Bundle, case: Case) -> Bundle:
    """Returns a copy of a bundle whose golden outputs are those of another model."""
    files = {name: (bundle.directory / name).read_bytes() for name in bundle.manifest.files}
    for signature in bundle.manifest.signatures:
        for entry in signature.outputs:
            values = bundle.golden(signature)[1][entry.name]
            other = np.asarray(case.spoil(values) if case.spoil else values).astype(values.dtype)
            files[entry.golden] = other.tobytes()
    directory = bundle.directory
    manifest = dataclasses.replace(bundle.manifest, files={})
    shutil.rmtree(directory)
    write_bundle(directory, manifest, files)
    return open_bundle(directory)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("verdicts table", __doc__)
    parser.add_argument("--only", metavar="NAME", help="part of the name of the cases to run")
    parser.add_argument("--no-real", action="store_true", help="leave out the networks that need a download")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a row for each file; returns the number of wrong verdicts."""
    options = build_parser().parse_args(arguments)
    print("| file | trained model | file | good by the task | verdict |\n|---|---|---|---|---|", flush=True)
    wrong, count = 0, 0
    for name, build in {**cases(), **({} if options.no_real else real_cases())}.items():
        if options.only and options.only not in name:
            continue
        case = build()
        with tempfile.TemporaryDirectory() as directory:
            trained, own, verdict = judge(case, Path(directory) / "bundle")
        is_wrong = (verdict == "ok") != case.is_good
        wrong, count = wrong + is_wrong, count + 1
        label = "yes" if case.is_good else "no"
        mark = "**wrong** " if is_wrong else ""
        print(f"| {name} | {trained} | {own} | {label} | {mark}{verdict} |", flush=True)
    print(f"\n{count} files, {wrong} wrong verdicts")
    return wrong


if __name__ == "__main__":
    main()
