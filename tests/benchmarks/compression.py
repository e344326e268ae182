"""Side-by-side measurements of compression.

    python tests/benchmarks/compression.py coverage [--write]    # layer by layer: compression_coverage.py
    python tests/benchmarks/compression.py accuracy [--seeds 5]  # float, after training, aware: compression_accuracy.py
    python tests/benchmarks/compression.py cost [--rounds 15]    # a step of training
    python tests/benchmarks/compression.py size [--seeds 3]      # zeros, clusters, bytes: compression_size.py

`KERAS_NOTES_DATA` names the folder of the data sets; else Keras's cache is looked in.
"""

import argparse
import sys
from pathlib import Path

# In the place of this folder: there this file would hide `compression` of Python 3.14 from those who look for it.
sys.path[0] = str(Path(__file__).resolve().parents[2])
from tests.benchmarks import compression_accuracy, compression_cost, compression_coverage, compression_size

TABLE = Path(__file__).parent / "compression_coverage.md"


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("coverage", "accuracy", "cost", "size"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--only", nargs="*", default=[], help="names of layers, for coverage")
    arguments = parser.parse_args()
    match arguments.measure:
        case "coverage":
            compression_coverage.main(TABLE if arguments.write else None, arguments.only)
        case "accuracy":
            compression_accuracy.main(arguments.seeds)
        case "cost":
            compression_cost.main(arguments.rounds)
        case "size":
            compression_size.main(arguments.seeds)


if __name__ == "__main__":
    main()
