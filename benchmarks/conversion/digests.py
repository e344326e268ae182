"""SHA-256 of every file of the bundles of the conversion matrix, to compare two states of the code.

    python -m benchmarks conversion digests [MODEL ...] > after.txt; diff before.txt after.txt

A change of the code that is to leave the files as they are must print the same lines. The versions of packages are left
out. Half a minute a model on a CPU.
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence

from benchmarks import command_line
from benchmarks.conversion.zoo import ZOO, samples
from keras_notes.conversion import RECIPES
from keras_notes.conversion._bundle_builder import BundleBuilder
from keras_notes.conversion._recipes import parse_recipe
from keras_notes.errors import ConversionError

CALIBRATION, GOLDEN = 64, 8


def digests_of(name: str) -> Iterator[str]:
    """Yields a line for each file of each recipe, or the error in its place."""
    builder = BundleBuilder(
        ZOO[name](), calibration=samples(name, CALIBRATION, seed=1), golden=samples(name, GOLDEN, seed=2)
    )
    for recipe in RECIPES:
        try:
            manifest, files = builder.build(parse_recipe(recipe), "float32")
        except ConversionError as error:
            yield f"{name} {recipe} {type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        content = {key: value for key, value in dataclasses.asdict(manifest).items() if key != "versions"}
        files["manifest"] = json.dumps(content, sort_keys=True).encode()
        for path, data in sorted(files.items()):
            yield f"{name} {recipe} {path} {hashlib.sha256(data).hexdigest()}"


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("conversion digests", __doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of models of the matrix; all by default")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each file."""
    options = build_parser().parse_args(arguments)
    for model in options.models or ZOO:
        for line in digests_of(model):
            print(line, flush=True)
