"""The command lines of the benchmarks: their parsers, and the commands for the processes that they start."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Commands of `own_command` run here, because `python -m benchmarks` needs a checkout as working directory.
ROOT = Path(__file__).resolve().parent.parent


def build_parser(command: str, protocol: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help is the protocol.

    Args:
        command: Words after `python -m benchmarks`.
        protocol: The docstring of the benchmark's module.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {command}",
        description=protocol,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def own_command(*words: str) -> list[str]:
    """Returns the command that runs a benchmark in a process of its own, to be started in `ROOT`."""
    return [sys.executable, "-m", "benchmarks", *words]
