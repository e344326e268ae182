"""Distillation: what it costs, and whether it helps.

    python benchmarks/distillation/distillation.py cost [--rounds 9] [--samples 12800] [--quick]
    python benchmarks/distillation/distillation.py help [--seeds 5] [--quick]

`--quick` is for trying the programs out: its figures say nothing. What is measured and how stands in
`cost.py` and `help.py`, whose docstrings were written before the first run.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from benchmarks.distillation import cost, help


def parser():
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = top.add_subparsers(dest="part", required=True)
    for module, name in ((cost, "cost"), (help, "help")):
        part = parts.add_parser(name, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        part.add_argument("--quick", action="store_true", help="a minute or less, to try the program out")
    parts.choices["cost"].add_argument("--rounds", type=int, default=9)
    parts.choices["cost"].add_argument("--samples", type=int, default=12_800)
    parts.choices["help"].add_argument("--seeds", type=int, default=5)
    return top


if __name__ == "__main__":
    options = parser().parse_args()
    if options.part == "cost":
        cost.main(options.rounds, options.samples, options.quick)
    else:
        if options.seeds < 2:
            sys.exit(f"--seeds must be >= 2 (a spread is printed). Received: {options.seeds}")
        help.main(options.seeds, options.quick)
