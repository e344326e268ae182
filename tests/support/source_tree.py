"""The package's source files as syntax trees, for the tests of its architecture."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PUBLIC_PACKAGES", "bound_names", "code_lines", "module_counts", "private_keras_reads", "sources"]

PUBLIC_PACKAGES = (
    "keras_notes",
    "keras_notes.losses",
    "keras_notes.layers",
    "keras_notes.distillation",
    "keras_notes.compression",
    "keras_notes.compression.tfmot",
    "keras_notes.conversion",
    "keras_notes.bundle",
    "keras_notes.verification",
    "keras_notes.benchmarking",
    "keras_notes.report",
    "keras_notes.cli",
    "keras_notes.errors",
)
_BETWEEN_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_PRIVATE_KERAS = re.compile(
    r"\._(flatten_layers|nodes_by_depth|functional|inputs_struct|outputs_struct|loss_ids|inbound_nodes|keras_history|call_has_training_arg)\b"
    r"|\"_(functional|keras_history|keras_mask)\"|\bkeras\.src\b(?!\.ops\.)"
)


def sources(folder: Path) -> list[Path]:
    """Returns the Python files below a folder, in order."""
    return sorted(path for path in folder.rglob("*.py") if "node_modules" not in path.parts)


def code_lines(text: str) -> int:
    """Counts the lines that hold code: no docstrings, comments or blank lines."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _BETWEEN_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def module_counts(folder: Path) -> Counter:
    """Counts the modules of each folder below `folder`."""
    return Counter(path.parent for path in sources(folder))


def bound_names(text: str) -> Iterator[tuple[int, str]]:
    """Yields line and name of each local, argument, attribute, function and class that a file binds."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def private_keras_reads(text: str) -> list[str]:
    """Returns what a file reads of Keras's private side."""
    return [match[0] for match in _PRIVATE_KERAS.finditer(text)]
