"""Decoding on LiteRT: milliseconds a token with caches and without, by position, on one thread.

    python -m benchmarks sequence decoding [--recipe float32] [--seeds 3] [--rounds 15] [--positions 16 64 256]

A Transformer of width 128, 2 + 2 blocks, a vocabulary of 2,000 and 256 positions, of random weights; a source of 32
ids. With caches: `decode_step` of `keras_notes.layers.decoding_models` at that position. Without: the whole model on a
target of that length, in a file of its own for each, which is what the last token of a target of that length costs then
(the encoder's pass over the source included). In each round all take turns, forwards and backwards; printed are median
and quartiles over the rounds of all seeds, each of the median of REPEAT runs.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import keras_notes as kn
from benchmarks import command_line
from keras_notes.layers import Transformer, decoding_models, decoding_samples

SIZES = {"num_layers": 2, "width": 128, "num_heads": 4, "hidden_width": 512, "max_length": 256}
VOCABULARY, SOURCE_LENGTH = 2000, 32
REPEAT, WARM_UP = 5, 3


def draw_samples(seed, length, count):
    """Draws source and target ids, without padding."""
    rng = np.random.default_rng(seed)
    shapes = (count, SOURCE_LENGTH), (count, length)
    return [rng.integers(1, VOCABULARY, shape).astype("int32") for shape in shapes]


def convert_all(model, recipe, seed, positions, directory):
    """Converts a file with the signatures of decoding, and one of the whole model for each target length."""
    models = decoding_models(model, SOURCE_LENGTH)
    integers = recipe in ("static_int8", "int16x8")
    ranges = {"calibration": decoding_samples(models, *draw_samples(seed, 256, 8), steps=8)} if integers else {}
    golden = decoding_samples(models, *draw_samples(seed + 1, 256, 2), steps=2)
    steps = kn.convert(model, directory / "steps", recipe, signatures=models, golden=golden, **ranges)
    wholes = {}
    for position in positions:
        ranges = {"calibration": draw_samples(seed, position, 8)} if integers else {}
        golden = draw_samples(seed + 1, position, 2)
        wholes[position] = kn.convert(model, directory / f"whole_{position}", recipe, golden=golden, **ranges)
    return steps, wholes


def runner_of(bundle, signature):
    """Returns a function that runs a signature on zeros or ones, or on a position."""
    interpreter = Interpreter(str(bundle.model_path), num_threads=1)
    runner = interpreter.get_signature_runner(signature)
    fed = {
        name: np.ones(detail["shape"], detail["dtype"]) if detail["dtype"] == np.int32
        else np.zeros(detail["shape"], detail["dtype"])
        for name, detail in runner.get_input_details().items()
    }  # fmt: skip

    def run(position=None):
        if position is not None:
            fed["position"] = np.array([position - 1], "int32")
        runner(**fed)

    return run


def time_in_ms(function, *arguments):
    """Returns the median of some runs, in milliseconds."""
    for _ in range(WARM_UP):
        function(*arguments)
    elapsed = []
    for _ in range(REPEAT):
        start = time.perf_counter()
        function(*arguments)
        elapsed.append(1000.0 * (time.perf_counter() - start))
    return float(np.median(elapsed))


def measure(recipe, seeds, rounds, positions):
    """Returns the milliseconds by (way, position): a list of one a round."""
    times = {(way, position): [] for position in positions for way in ("with", "without")}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = Transformer(VOCABULARY, VOCABULARY, **SIZES)
        with tempfile.TemporaryDirectory() as directory:
            steps, wholes = convert_all(model, recipe, seed, positions, Path(directory))
            print(f"seed {seed}: {steps.model_bytes:,} bytes with the signatures of decoding, "
                  f"{wholes[positions[-1]].model_bytes:,} without", flush=True)  # fmt: skip
            step = runner_of(steps, "decode_step")
            calls = {("with", position): (step, position) for position in positions}
            calls |= {
                ("without", position): (runner_of(wholes[position], "serving_default"),) for position in positions
            }
            for turn in range(rounds):
                for key in list(calls) if turn % 2 == 0 else reversed(list(calls)):
                    times[key].append(time_in_ms(*calls[key]))
    return times


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("sequence decoding", __doc__)
    parser.add_argument("--recipe", choices=("float32", "dynamic_int8", "static_int8"), default="float32")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--positions", type=int, nargs="+", default=[16, 64, 256])
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    options = build_parser().parse_args(arguments)
    times = measure(options.recipe, options.seeds, options.rounds, options.positions)
    print(f"\n{options.recipe}, ms a token: median (quartiles)\n{'position':>8} {'with caches':>26} {'without':>26} "
          f"{'without / with':>15}")  # fmt: skip
    medians = {}
    for position in options.positions:
        cells = []
        for way in ("with", "without"):
            low, medians[way, position], high = np.percentile(times[way, position], [25, 50, 75])
            cells.append(f"{medians[way, position]:.3f} ({low:.3f} to {high:.3f})")
        ratio = medians["without", position] / medians["with", position]
        print(f"{position:>8} {cells[0]:>26} {cells[1]:>26} {ratio:>15.1f}")
    first, last = options.positions[0], options.positions[-1]
    print(f"position {last} against {first}: with caches {medians['with', last] / medians['with', first]:.2f} times, "
          f"without {medians['without', last] / medians['without', first]:.2f} times")  # fmt: skip
