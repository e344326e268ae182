"""The shape of the package: imports point one way, names are true, tools agree, the wheel holds the package only."""

import ast
import configparser
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import grimp
import keras
import numpy as np
import pytest

import keras_notes as kn
from tests.support.source_tree import (
    PUBLIC_PACKAGES,
    bound_names,
    code_lines,
    module_counts,
    private_keras_reads,
    sources,
)

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "keras_notes"
# Names that say nothing of what they hold; a reader has to look the value up each time.
EMPTY_NAMES = {
    "one",
    "found",
    "given",
    "wanted",
    "kind",
    "most",
    "least",
    "made",
    "got",
    "settled",
    "taken",
}


def run(*command, **arguments):
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False, **arguments
    )


def test_the_import_contract_holds():
    result = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_import_contract_can_fail(tmp_path):
    package = tmp_path / "keras_notes"
    package.mkdir()
    for source in (ROOT / "keras_notes").rglob("*.py"):
        copy = package / source.relative_to(ROOT / "keras_notes")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text())
    (tmp_path / "setup.cfg").write_text((ROOT / "setup.cfg").read_text())
    (package / "bundle" / "__init__.py").write_text("import keras_notes.conversion\nimport keras\n")
    command = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; "
    result = subprocess.run(
        [sys.executable, "-c", command + "lint_imports_command()"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "keras_notes.bundle is not allowed to import keras" in result.stdout


@pytest.mark.parametrize("arguments", [("format", "--check", "."), ("check", ".")])
def test_ruff_finds_nothing(arguments):
    result = run("-m", "ruff", *arguments)
    assert result.returncode == 0, result.stdout


def test_mypy_finds_nothing():
    result = run("-m", "mypy")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", PUBLIC_PACKAGES)
def test_all_names_are_there_once_and_described(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert getattr(module, public).__doc__, public


def test_every_public_class_of_losses_layers_and_distillation_is_registered_for_saving():
    # The base classes of a user's own losses compute nothing themselves.
    bases = {kn.losses.TeacherLoss, kn.losses.WholeSampleLoss}
    classes = [item for item in vars(kn.losses).values() if isinstance(item, type) and item not in bases]
    assert len(classes) == 12
    layers = [item for item in vars(kn.layers).values() if isinstance(item, type)]
    assert len(layers) == 7
    distillation = kn.Distiller, kn.FeatureMatch, kn.TeacherCache, kn.distillation.MutualDistiller
    for cls in (*classes, *layers, *distillation):
        assert keras.saving.get_registered_name(cls) == f"keras_notes>{cls.__name__}"


def test_importing_the_package_never_imports_tf_mot_and_leaves_the_environment_alone():
    code = (
        "import os, sys; before = dict(os.environ); import keras_notes; "
        "assert not {'tensorflow_model_optimization', 'tf_keras'} & set(sys.modules); "
        "assert os.environ.get('TF_USE_LEGACY_KERAS') is None"
    )
    assert run("-c", code).returncode == 0


def test_a_file_has_at_most_250_lines_of_code():
    lengths = {path: code_lines(path.read_text()) for path in (*sources(PACKAGE), *sources(ROOT / "tflite"))}
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 250} == {}


def test_a_folder_has_at_most_16_modules():
    counts = module_counts(PACKAGE)
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > 16} == {}


def test_docstrings_comments_and_blank_lines_are_no_code():
    assert code_lines('"""Module.\n\nMore."""\n\n# A comment.\nx = """text\nmore"""  # a comment\n') == 2


def test_names_are_nouns_of_what_they_hold():
    empty = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(PACKAGE)
        for line, name in bound_names(path.read_text())
        if name.strip("_") in EMPTY_NAMES
    ]
    assert empty == []


def test_an_empty_name_is_seen_wherever_it_is_bound():
    text = "def f(given, *, kind=1):\n    self.found = [one for one in given]\n    with x as (got, y):\n        pass\n"
    assert {name for _, name in bound_names(text)} >= {"given", "kind", "found", "one", "got"}


def test_types_are_said():
    words = sum(len(re.findall(r"\bAny\b", path.read_text())) for path in sources(PACKAGE))
    assert words <= 250


def test_the_package_asserts_nothing():
    asserts = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert asserts == []


def test_the_private_side_of_keras_is_read_in_one_file():
    reads = {str(path.relative_to(PACKAGE)): private_keras_reads(path.read_text()) for path in sources(PACKAGE)}
    assert [name for name, read in reads.items() if read] == ["_shared/keras_internals.py"]


def test_no_loss_is_asked_by_getattr():
    asked = re.compile(r"\b(getattr|hasattr)\((self\.)?_?\w*loss\b")
    assert [path for path in sources(PACKAGE / "distillation") if asked.search(path.read_text())] == []


def test_no_subpackage_imports_a_private_module_of_another():
    graph = grimp.build_graph("keras_notes", cache_dir=None)
    private = [
        f"{importer} imports {module}"
        for module in graph.modules
        for importer in graph.find_modules_that_directly_import(module)
        if _is_private_to_another(importer, module)
    ]
    assert private == []


def _is_private_to_another(importer, module):
    """Whether a module below keras_notes.SUBPACKAGE has a private part in its path and the importer is elsewhere."""
    parts = module.split(".")
    inner = any(part.startswith("_") for part in parts[2:])
    rooms = {"_shared", "_litert"}
    return inner and parts[1] not in rooms and importer.split(".")[:2] != parts[:2]


def test_a_private_import_is_seen():
    assert _is_private_to_another("keras_notes.report._page", "keras_notes.bundle._bundle")
    assert _is_private_to_another("keras_notes.conversion._convert", "keras_notes.compression.quantization._affine")
    assert not _is_private_to_another("keras_notes.report._page", "keras_notes.bundle")
    assert not _is_private_to_another("keras_notes.bundle", "keras_notes.bundle._bundle")
    assert not _is_private_to_another("keras_notes.bundle._bundle", "keras_notes._shared.checks")


def test_the_contract_stays_short():
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg")
    assert len(contract["importlinter:contract:layers"]["layers"].split("\n")) - 1 <= 10
    assert len(contract["importlinter:contract:device-border"]["source_modules"].split("\n")) - 1 <= 6


def test_the_readme_shows_the_public_names():
    readme = (ROOT / "README.md").read_text()
    for name in (*kn.losses.__all__, *kn.distillation.__all__, "convert", "verify", "make demo", "make test"):
        assert name in readme


def test_the_readme_has_every_figure():
    assert "@@" not in (ROOT / "README.md").read_text()


def test_the_readme_runs_as_printed(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)

    def model(*last):
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), *last])

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
    models = {"teacher": model(), "student": model(), "classifier": model(keras.layers.Softmax())}
    exec(code, {**models, "x": x, "y": np.where(np.arange(64) < 32, y, -1), "x_test": x, "y_test": y})
    assert (tmp_path / "build" / "my_bundle" / "model.tflite").is_file()


def test_the_version_has_one_home():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    found = [
        path
        for path in (ROOT / "keras_notes").rglob("*.py")
        if re.search(rf"\b{re.escape(version)}\b", path.read_text())
    ]
    assert found == []


@pytest.mark.slow
def test_the_wheel_holds_the_package_only_and_works_in_a_clean_environment(tmp_path):
    built = run("-m", "build", "--wheel", "--outdir", tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"keras_notes"}
    data = (
        *("py.typed", "CHANGELOG.md", "report/page.css"),
        *(f"bundle/{name}.schema.json" for name in ("bundle", "candidates", "tensors")),
    )
    assert {f"keras_notes/{name}" for name in data} <= set(names)
    assert run("-m", "venv", tmp_path / "clean").returncode == 0
    python = tmp_path / "clean" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
    code = (
        "import keras, numpy as np, keras_notes as kn;"
        "model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]);"
        "x = np.random.default_rng(0).normal(size=(64, 8)).astype('float32');"
        f"print(kn.verify(kn.convert(model, {str(tmp_path / 'bundle')!r}, calibration=x)).ok)"
    )
    result = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.strip().endswith("True"), result.stderr
    assert (tmp_path / "clean" / "bin" / "keras-notes").exists()
