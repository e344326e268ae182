"""Side-by-side measurements of sequence models on LiteRT.

    python benchmarks/sequence/sequence.py lowerings [--steps 10 50 200 1000]  # of an LSTM: lowerings.py
    python benchmarks/sequence/sequence.py streaming [--seeds 3]  # a sample a call: streaming.py

`KERAS_NOTES_DATA` names the folder of the data sets; else Keras's cache is looked in, and what is not there downloaded.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.sequence import lowerings, streaming

MEASURES = {
    "lowerings": lambda given: lowerings.main(given.steps, given.rounds, given.every),
    "streaming": lambda given: streaming.main(given.seeds),
}


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=tuple(MEASURES))
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 50, 200, 1000])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", action="store_true", help="an output a step, not only the last")
    given = parser.parse_args()
    MEASURES[given.measure](given)


if __name__ == "__main__":
    main()
