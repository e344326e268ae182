"""The converter's process: whatever becomes of it is an error that names the model and the recipe, and no more."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_notes import errors
from keras_notes.conversion import _worker_process
from keras_notes.conversion._deploy_graph import deploy_graph
from keras_notes.conversion._recipes import recipe_named
from keras_notes.conversion._worker_process import convert_in_worker

CALIBRATION = {"input": np.arange(6.0).reshape(2, 3)}

# What the worker is given: job.json, the calibration samples and the SavedModel.
_ECHO = """
import json, numpy, pathlib, sys
job = pathlib.Path(sys.argv[1])
assert (job / "saved_model" / "saved_model.pb").is_file()
with numpy.load(job / "calibration.npz") as arrays:
    given = {"job": str(job), **json.loads((job / "job.json").read_text()), "samples": arrays["arr_0"].tolist()}
(job / "model.tflite").write_text(json.dumps(given))
"""


@pytest.fixture
def convert_by(tmp_path, monkeypatch):
    """Converts a small net by a script of the test in the place of the converter."""
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="net")

    def convert(script, calibration=None):
        path = tmp_path / "converter.py"
        path.write_text(script)
        monkeypatch.setattr(_worker_process._converter, "__file__", str(path))
        return convert_in_worker(deploy_graph(net), recipe_named("static_int8"), "uint8", calibration)

    return convert


def test_the_worker_is_given_the_job_and_cleaned_up_after(convert_by):
    given = json.loads(convert_by(_ECHO, CALIBRATION))
    job = Path(given.pop("job"))
    samples = CALIBRATION["input"].tolist()
    settings = {"signature": "serving_default", "is_integer": True, "edges": "uint8", "inputs": ["input"]}
    assert given == {**settings, "samples": samples}
    assert not job.exists()


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
    with pytest.raises(errors.ConversionError, match=f"'net'.*'static_int8': the converter crashed with {name}"):
        convert_by(f"import os, signal\nos.kill(os.getpid(), signal.{name})")


def test_an_exit_without_an_exception_is_told_by_what_it_printed(convert_by):
    with pytest.raises(errors.ConversionError, match="static_int8': out of luck"):
        convert_by("import sys\nsys.stderr.write('out of luck')\nsys.exit(3)")


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_without_a_file_or_a_word_is_an_error(convert_by, code):
    with pytest.raises(errors.ConversionError, match=f"ended with exit code {code} and wrote nothing"):
        convert_by(f"raise SystemExit({code})")
