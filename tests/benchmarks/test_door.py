"""The door of the benchmarks: each program is behind it, and each command that is printed anywhere goes through it."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as door
from benchmarks.command_line import ROOT, own_command

BENCHMARKS = ROOT / "benchmarks"
PRINTING = ("Makefile", "*.md", "benchmarks/**/*.py", "benchmarks/**/*.md", "keras_notes/**/*.py", "tflite/**/*.md")
# Words, and options in brackets: what follows in running text (a quotation mark, a comment) is no part of a command.
COMMAND = re.compile(r"(?:-m benchmarks|\$\(BENCHMARK\))((?: +[\w./*-]+| +\[--[^\]]*\])*)")


def programs() -> set[str]:
    """The modules below `benchmarks` that have a `main`, but the door itself."""
    modules = set()
    for path in BENCHMARKS.glob("*/*.py"):
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body):
            modules.add(".".join(path.relative_to(BENCHMARKS).with_suffix("").parts))
    return modules


def printed_commands(text: str) -> list[list[str]]:
    """The words behind each call of the door in a text; options in brackets count as given."""
    return [shlex.split(re.sub(r"[][]", " ", words)) for words in COMMAND.findall(text)]


def files_with_commands() -> list[Path]:
    paths = sorted({path for pattern in PRINTING for path in ROOT.glob(pattern) if "node_modules" not in path.parts})
    return [path for path in paths if COMMAND.search(path.read_text(encoding="utf8"))]


def check(words: list[str]) -> None:
    """Raises ValueError unless the door knows the command, and SystemExit unless its parser takes the options."""
    command, arguments = door.split_command(words)
    if command is None:
        raise ValueError(f"No such benchmark: {words}")
    if command == "translation":
        pytest.importorskip("sacrebleu")
    parser = importlib.import_module(f"benchmarks.{door.MODULES[command]}").build_parser()
    options = re.findall(r"--[\w-]+", parser.format_usage())
    if unknown := [word for word in arguments if word.startswith("--") and word not in options]:
        raise ValueError(f"{command} has no option {unknown}")
    if all(word.startswith("--") or word.isdigit() for word in arguments):
        parser.parse_args([word for word in arguments if word != "--help"])


def test_every_program_is_behind_the_door():
    assert programs() == set(door.MODULES.values())


@pytest.mark.parametrize("command", door.MODULES)
def test_every_benchmark_has_a_line_and_a_parser_of_its_name(command):
    if command == "translation":
        pytest.importorskip("sacrebleu")
        pytest.importorskip("sentencepiece")
    module = importlib.import_module(f"benchmarks.{door.MODULES[command]}")
    assert door.summary_of(door.MODULES[command]) == module.__doc__.partition("\n")[0]
    parser = module.build_parser()
    assert parser.prog == f"python -m benchmarks {command}"
    assert f"python -m benchmarks {command}" in module.__doc__, "The protocol must print the command."
    assert parser.description == module.__doc__
    assert callable(module.main)


@pytest.mark.parametrize("path", files_with_commands(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_printed_command_is_there(path):
    for words in printed_commands(path.read_text(encoding="utf8")):
        if words and words[0] not in ("NAME", "--help"):
            check(words)


def test_the_makefile_and_the_readme_print_commands():
    counts = {name: len(printed_commands((ROOT / name).read_text())) for name in ("Makefile", "README.md")}
    assert min(counts.values()) > 5, counts


@pytest.mark.parametrize("words", [["compression", "nothing"], ["nothing"], ["losses", "accuracy", "--nothing"]])
def test_the_check_finds_a_command_that_is_missing(words):
    with pytest.raises(ValueError, match="nothing"):
        check(words)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_door_lists_all_without_importing_any(arguments):
    script = (
        "import sys; from benchmarks.__main__ import main; code = main(sys.argv[1:]);"
        "print([name for name in ('keras', 'numpy', 'keras_notes') if name in sys.modules]); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *lines, imported = result.stdout.splitlines()
    assert imported == "[]"
    for command, module in door.MODULES.items():
        assert any(line.split() == [*command.split(), *door.summary_of(module).split()] for line in lines), command


def test_what_is_not_there_ends_with_2_and_the_list(capsys):
    assert door.main(["compression", "nothing"]) == 2
    captured = capsys.readouterr()
    assert "Received: compression nothing" in captured.err
    assert "compression accuracy" in captured.err


def test_options_go_to_the_program():
    result = subprocess.run(
        own_command("devices", "table", "--write", "--only", "x"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "--write must be given without --only" in result.stderr


@pytest.mark.parametrize("folder", ["benchmarks", "examples"])
def test_no_program_changes_the_path_of_imports(folder):
    changing = [str(path) for path in (ROOT / folder).rglob("*.py") if "sys.path" in path.read_text(encoding="utf8")]
    assert changing == []
