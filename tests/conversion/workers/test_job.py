"""The converter's process: whatever becomes of it is an error that names the model and the recipe, and no more."""

import tempfile

import keras
import numpy as np
import pytest

from keras_notes import errors
from keras_notes.conversion._pipeline import ConversionPipeline
from keras_notes.conversion._recipes import parse_recipe
from keras_notes.conversion.graph._deploy_graph import deploy_graph
from keras_notes.conversion.workers import _job

CALIBRATION = {"serving_default": {"input": np.arange(6.0).reshape(2, 3)}}

# A converter that makes nothing of what it is given: the SavedModel and job.json.
_NO_FILE = """
import pathlib, sys
assert (pathlib.Path(sys.argv[1]) / "saved_model" / "saved_model.pb").is_file()
(pathlib.Path(sys.argv[1]) / "float.tflite").write_bytes(b"")
"""


@pytest.fixture
def convert_by(tmp_path, monkeypatch):
    """Converts a small net by a script of the test in the place of the converter."""
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="net")

    def convert(script):
        (tmp_path / "_run_converter.py").write_text(script)
        monkeypatch.setattr(_job, "_PROGRAMS", tmp_path)
        return ConversionPipeline((deploy_graph(net),), 1, CALIBRATION).run(parse_recipe("static_int8"), "uint8")

    return convert


def test_an_exception_is_told_with_its_message(convert_by):
    message = "The model 'net' could not be converted with the recipe 'static_int8': ValueError: no such operator"
    with pytest.raises(errors.ConversionError, match=message):
        convert_by("raise ValueError('no such operator')")


def test_the_last_exception_is_the_one_that_is_told(convert_by):
    script = "try:\n    raise KeyError('first')\nexcept KeyError as error:\n    raise RuntimeError('last') from error"
    with pytest.raises(errors.ConversionError, match="static_int8': RuntimeError: last"):
        convert_by(script)


def test_a_long_reason_is_cut(convert_by):
    with pytest.raises(errors.ConversionError) as caught:
        convert_by("raise ValueError('x' * 10_000)")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_signal_is_told_by_name(convert_by, name):
    with pytest.raises(errors.ConversionError, match=f"'net'.*'static_int8': its process crashed with {name}"):
        convert_by(f"import os, signal\nos.kill(os.getpid(), signal.{name})")


def test_an_exit_without_an_exception_is_told_by_what_it_printed(convert_by):
    with pytest.raises(errors.ConversionError, match="static_int8': out of luck"):
        convert_by("import sys\nsys.stderr.write('out of luck')\nsys.exit(3)")


def test_an_exit_without_a_word_is_an_error(convert_by):
    with pytest.raises(errors.ConversionError, match="ended with exit code 3 and wrote nothing"):
        convert_by("raise SystemExit(3)")


@pytest.mark.parametrize("script", [_NO_FILE, "pass"])
def test_an_exit_without_a_file_is_an_error(convert_by, script):
    with pytest.raises(
        errors.ConversionError, match=r"'static_int8': its process ended well, but gave no \.tflite file"
    ):
        convert_by(script)


def test_nothing_is_left_behind(convert_by, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(errors.ConversionError):
        convert_by("raise SystemExit(3)")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_log_names_the_program_without_its_file(convert_by, caplog):
    caplog.set_level("INFO", logger="keras_notes")
    with pytest.raises(errors.ConversionError):
        convert_by("raise ValueError")
    assert "running converter" in caplog.messages
