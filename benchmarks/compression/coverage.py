"""Layers that quantization-aware training covers, and how nearly the device gives what the Keras model gives.

    python -m benchmarks compression coverage [--write]

A net for each layer (tests/compression/zoo.py): calibrated on 256 samples of the standard normal distribution, trained
for ten steps of Adam at 1e-3 on random targets, saved and loaded, converted with the recipe int8, and run on 64 samples
by LiteRT, on XNNPACK and on its plain kernels. "equal" is the share of outputs that are the very integers of `predict`;
"largest" the largest difference in LSB. "float operators" are those of the file in floating point.

TF-MOT beside it (`keras_notes.compression.tfmot`): the same net, weights, samples and steps, its own file against its
own `predict`. "refused": tf_keras, TF-MOT or the conversion of the net to them refuses it; "fails": training or
conversion.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import keras_notes as kn
from benchmarks import command_line
from benchmarks.compression.likeness import Likeness, measure_likeness, measure_likeness_of_bytes
from keras_notes.compression import quantize_aware, tfmot
from keras_notes.errors import KerasNotesError
from tests.compression.zoo import NETS, samples

TABLE = Path(__file__).with_suffix(".md")
CALIBRATION, RUNS, STEPS, RATE = 256, 64, 10, 1e-3


@dataclass(frozen=True)
class Row:
    """Result for a net, here and by TF-MOT."""

    name: str
    trains: bool
    loads: bool
    ours: Likeness
    tfmot: Likeness | str

    def cells(self) -> list[str]:
        """Returns the cells of the table."""
        theirs = self.tfmot
        return [
            self.name,
            yes_or_no(self.trains),
            yes_or_no(self.loads),
            str(self.ours.floats),
            *self.ours.cells(),
            *([theirs, *[""] * 4] if isinstance(theirs, str) else [str(theirs.floats), *theirs.cells()]),
        ]


def measure_layer(name: str) -> Row:
    """Trains, saves, converts and runs the net of a layer."""
    keras.utils.set_random_seed(0)
    net = NETS[name]()
    x = samples(net, CALIBRATION)[0]
    model = quantize_aware(net, calibration=x, freeze_after=STEPS - 2)
    targets = np.random.default_rng(1).normal(size=(CALIBRATION, *net.output_shape[1:])).astype("float32")
    model.compile(keras.optimizers.Adam(RATE), "mse", jit_compile=False)
    before = model.evaluate(x, targets, verbose=0)
    model.fit(x, targets, batch_size=CALIBRATION, epochs=STEPS, verbose=0)
    with tempfile.TemporaryDirectory() as directory:
        model.save(Path(directory) / "model.keras")
        loaded = keras.models.load_model(Path(directory) / "model.keras")
        expected = model.predict(x[:RUNS], verbose=0)
        loads = bool(np.array_equal(loaded.predict(x[:RUNS], verbose=0), expected))
        bundle = kn.convert(model, Path(directory) / "bundle", golden=x[:RUNS])
        ours = measure_likeness(bundle.directory / "model.tflite", x[:RUNS], expected)
    trains = model.evaluate(x, targets, verbose=0) < before
    return Row(name, trains, loads, ours, measure_tfmot(net, x, targets))


def measure_tfmot(net: keras.Model, x: np.ndarray, targets: np.ndarray) -> Likeness | str:
    """Trains the net by TF-MOT in as many steps; returns its likeness, or a word for why there is none."""
    settings = {"steps": STEPS, "batch_size": CALIBRATION, "learning_rate": RATE, "loss": "mean_squared_error"}
    try:
        trained = tfmot.quantize_aware(net, x, targets, golden=x[:RUNS], edges="float32", **settings)
    except (ValueError, RuntimeError) as error:
        return "refused" if isinstance(error, ValueError) else "fails"
    return measure_likeness_of_bytes(trained.tflite, x[:RUNS], trained.outputs)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("compression coverage", __doc__)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--only", nargs="*", choices=tuple(NETS), default=[], metavar="LAYER", help="layers by name")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and writes it if asked to."""
    options = build_parser().parse_args(arguments)
    heads = "equal, XNNPACK | largest | equal, plain | largest"
    lines = [
        f"| layer | trains | loads equal | float operators | {heads} | TF-MOT: float operators | {heads} |",
        f"|{'---|' * 13}",
    ]
    for name in options.only or list(NETS):
        try:
            cells = measure_layer(name).cells()
        except (KerasNotesError, ValueError) as error:
            cells = [name, f"refused: {error}", *[""] * 11]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        keras.backend.clear_session()
    if options.write:
        head = ["# Coverage of quantization-aware training", "", (__doc__ or "").strip(), ""]
        TABLE.write_text("\n".join([*head, *lines, ""]))


def yes_or_no(holds: bool) -> str:
    return "yes" if holds else "NO"
