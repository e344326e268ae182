"""Side-by-side measurements of keras_notes, each with the protocol that was set down before its first run.

    python -m benchmarks                        # this list
    python -m benchmarks NAME [PART] --help     # the protocol and the options of one
    python -m benchmarks NAME [PART] [options]  # runs it

`KERAS_NOTES_DATA` names the folder of the data sets. Otherwise they are looked for in Keras's cache, and downloaded
into it where they are missing.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# The module of each command, below `benchmarks`: its docstring is the protocol; it has `build_parser` and `main`.
MODULES = {
    "losses accuracy": "losses.accuracy",
    "losses imbalance": "losses.imbalance",
    "distillation cost": "distillation.cost",
    "distillation help": "distillation.help",
    "distillation memory": "distillation.memory",
    "compression coverage": "compression.coverage",
    "compression parity": "compression.parity",
    "compression accuracy": "compression.accuracy",
    "compression students": "compression.students",
    "compression cost": "compression.cost",
    "compression size": "compression.size",
    "conversion after_training": "conversion.after_training",
    "conversion tolerance": "conversion.tolerance",
    "conversion engines": "conversion.engines",
    "conversion converter": "conversion.converter",
    "conversion matrix": "conversion.matrix",
    "conversion digests": "conversion.digests",
    "sequence lowerings": "sequence.lowerings",
    "sequence streaming": "sequence.streaming",
    "sequence decoding": "sequence.decoding",
    "translation": "translation.program",
    "real_networks": "real_networks.program",
    "verdicts table": "verdicts.table",
    "verdicts draws": "verdicts.draws",
    "devices table": "devices.table",
    "devices web": "devices.web",
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command that the arguments begin with, or lists all commands; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{(__doc__ or '').strip()}\n\n{list_commands()}")
        return 0
    command, options = split_command(arguments)
    if command is None:
        names = " ".join(arguments[:2])
        print(f"NAME and PART must be one of those below. Received: {names}.\n\n{list_commands()}", file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    return importlib.import_module(f"benchmarks.{MODULES[command]}").main(options) or 0


def split_command(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Returns the command (None if there is none of that name) and the arguments that are left for it."""
    for words in (2, 1):
        command = " ".join(arguments[:words])
        if command in MODULES:
            return command, list(arguments[words:])
    return None, list(arguments)


def list_commands() -> str:
    """Returns a line for each command: its words, and the first line of its module's docstring."""
    width = max(map(len, MODULES))
    return "\n".join(f"  {command:<{width}}  {summary_of(module)}" for command, module in MODULES.items())


def summary_of(module: str) -> str:
    """Returns the first line of a module's docstring. The module is not imported: it may need what is not installed."""
    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
