"""Runs the fuzzer: `python -m tests.fuzz --help`."""

import sys

from tests.fuzz.fuzz import main

sys.exit(main())
