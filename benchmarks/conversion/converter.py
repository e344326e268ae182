"""static_int8 of `convert` beside TFLiteConverter's own int8 file, layer by layer.

    python -m benchmarks conversion converter [--only NAME]

Untrained nets of one layer each (tests/compression/zoo.py), 100 calibration samples, and 64 other samples for the error
against Keras in float32: its root mean square as a share of the range of the outputs. Operators are counted without
QUANTIZE and DEQUANTIZE; those in floating point in brackets. Bytes are without the description of the bundle that
`convert` adds, some 700. Both files have float32 edges. A row in which ours has
more operators, bytes or errors is marked with *.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import keras

import keras_notes as kn
from benchmarks import command_line
from tests.compression.zoo import NETS, samples
from tests.support.plain_converter import compare, is_worse

CALIBRATION, TEST = 100, 64


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of the options."""
    parser = command_line.build_parser("conversion converter", __doc__)
    parser.add_argument("--only", metavar="NAME", help="the nets whose name has this text")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Prints a row for each net."""
    options = build_parser().parse_args(arguments)
    print("| layer | operators | plain | bytes | plain | error | plain | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, build in NETS.items():
        if options.only is None or options.only in name:
            print(f"| {name} | {_row(build)} |", flush=True)


def _row(build) -> str:
    keras.utils.set_random_seed(0)
    net = build()
    try:
        ours, plain = compare(net, samples(net, CALIBRATION), samples(net, TEST, seed=1))
    except kn.errors.ConversionError as error:
        return f"refused: {str(error)[:60]}"
    cells = [f"{ours.operators}", f"{plain.operators} ({plain.float_operators})", f"{ours.bytes}", f"{plain.bytes}"]
    cells += ["unopenable" if figures.errors is None else f"{max(figures.errors):.4%}" for figures in (ours, plain)]
    return " | ".join([*cells, "*" if is_worse(ours, plain) else ""])
