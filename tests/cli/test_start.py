"""The start of the program: what it imports, what it writes to stderr, its version and its steps."""

import subprocess
import sys
from importlib.metadata import version

import keras
import pytest

import keras_notes as kn
from keras_notes._shared.recipe_names import RECIPES
from keras_notes.conversion._recipes import parse_recipe
from tests.support.bundles import ROOT, TESTDATA

HEAVY = ("tensorflow", "keras", "jax", "torch", "ai_edge_quantizer")
COMMANDS = {
    "help": (["--help"], 0),
    "help of a command": (["convert", "--help"], 0),
    "version": (["--version"], 0),
    "no such command": (["invert"], 2),
    "a missing argument": (["verify"], 2),
    "a missing bundle": (["verify", "missing"], 2),
    "a missing model": (["convert", "missing.keras", "-o", "out"], 2),
    "an unknown recipe": (["convert", __file__, "-o", "out", "--recipe", "int2"], 2),
    "inspect": (["inspect", str(TESTDATA)], 0),
    "verify": (["verify", str(TESTDATA)], 0),
}
# Runs the program as the installed script does, and reports which heavy packages it has imported.
PROGRAM = f"""
import sys
sys.argv = ["keras-notes", *sys.argv[1:]]
from keras_notes.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"imported {{loaded}}" if loaded else code)
"""


@pytest.mark.parametrize("which", COMMANDS)
def test_a_command_without_a_model_starts_without_keras(which, tmp_path):
    arguments, code = COMMANDS[which]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    assert len(result.stderr.splitlines()) == (0 if code == 0 else 1) or which in (
        "no such command",
        "a missing argument",
    )
    if which == "version":
        assert result.stdout == f"keras-notes {version('keras_notes')}\n"


def test_the_names_of_the_package_are_there_in_the_program_too():
    code = f"""
import sys
sys.argv = ["keras-notes"]
import keras_notes as kn
assert "keras" not in sys.modules
assert sorted(kn.__all__) == {sorted(kn.__all__)!r}
assert set(kn.__all__) <= set(dir(kn))
from keras_notes import Bundle, verify
assert "keras" not in sys.modules
assert not hasattr(kn, "nothing")
for name in kn.__all__:
    assert getattr(kn, name).__doc__
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_saved_model_is_loaded_after_the_import_of_the_package_alone(tmp_path):
    teacher, student = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
    kn.Distiller(teacher, student).save(tmp_path / "distiller.keras")
    code = f"import keras_notes, keras; print(keras.saving.load_model({str(tmp_path / 'distiller.keras')!r}).name)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "distiller\n", result.stderr


def test_a_conversion_writes_no_line_but_its_steps(net, tmp_path):
    net.save(tmp_path / "net.keras")
    command = ["convert", "net.keras", "-o", "bundle", "--recipe", "float32", "--verbose"]
    result = subprocess.run(
        [sys.executable, "-m", "keras_notes", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    steps = result.stderr.splitlines()
    assert len(steps) >= 3
    assert all(" ms  " in step for step in steps), result.stderr


def test_each_name_of_a_recipe_stands_for_one():
    assert [parse_recipe(name).default.name for name in RECIPES] == list(RECIPES)
