"""Side-by-side measurements of compression, most of them beside TF-MOT (`pip install 'keras_notes[tfmot]'`).

    python benchmarks/compression/compression.py coverage [--write]    # layer by layer: coverage.py
    python benchmarks/compression/compression.py parity [--seeds 5]    # device and trained model: parity.py
    python benchmarks/compression/compression.py accuracy [--seeds 5]  # float, after training, aware: accuracy.py
    python benchmarks/compression/compression.py students [--seeds 5]  # distilled students in int8: students.py
    python benchmarks/compression/compression.py cost [--rounds 15]    # a step of training: cost.py
    python benchmarks/compression/compression.py size [--seeds 5]      # zeros, clusters, channels: size.py

`KERAS_NOTES_DATA` names the folder of the data sets; else Keras's cache is looked in, and what is not there downloaded.
"""

import argparse
import sys
from pathlib import Path

# Not this folder: from there, this file would hide Python 3.14's `compression` from those who look for it.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.compression import accuracy, cost, coverage, parity, size, students

TABLE = Path(__file__).parent / "coverage.md"
MEASURES = {
    "coverage": lambda given: coverage.main(TABLE if given.write else None, given.only),
    "parity": lambda given: parity.main(given.seeds, given.only),
    "accuracy": lambda given: accuracy.main(given.seeds, given.only),
    "students": lambda given: students.main(given.seeds),
    "cost": lambda given: cost.main(given.rounds),
    "size": lambda given: size.main(given.seeds),
}


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=tuple(MEASURES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--only", nargs="*", default=[], help="names of layers, networks or tasks")
    given = parser.parse_args()
    MEASURES[given.measure](given)


if __name__ == "__main__":
    main()
