"""`python -m keras_notes`: the command line."""

import sys

from keras_notes.cli import main

if __name__ == "__main__":
    sys.exit(main())
