"""What a worker that no longer does what it was made for can answer: all of it is a `BundleError`, and soon."""

import io
import json
import struct

import numpy as np
import pytest

from keras_notes._litert import client as tflite_process
from keras_notes._litert import sandbox
from keras_notes._litert.messages import read_message, write_message
from keras_notes.errors import BundleError
from keras_notes.verification import Limits, verify
from tests.support.bundles import MODEL_FILE, TESTDATA

MODEL = TESTDATA / MODEL_FILE
SHORT = Limits(cpu_seconds=0.2, wall_seconds=0.5)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """`refused(program)`: what is said of a worker that is another program."""
    sandbox._end_workers()

    def refused(text, limits=SHORT, **arrays):
        program = tmp_path / "worker.py"
        program.write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "_PROGRAM", program)
            with pytest.raises(BundleError) as caught:
                sandbox.run_task("describe", MODEL, {}, arrays, limits)
        assert str(MODEL) in str(caught.value)
        assert sandbox._idle == []
        return str(caught.value)

    return refused


def _answering(answer, then=""):
    return (
        "import sys, time; sys.stdin.buffer.read(8); "
        f"sys.stdout.buffer.write({answer!r}); sys.stdout.flush(); {then or 'time.sleep(60)'}"
    )


def _message(text, arrays=b""):
    return struct.pack(">Q", len(text)) + text + arrays


def _arrays(*described):
    return _message(json.dumps({"content": {"value": 0}, "arrays": described}).encode(), b"\0" * 64)


NO_ANSWERS = {
    "a length": b"\xff" * 64,
    "no JSON": _message(b"text"),
    "no object": _message(b"3"),
    "levels without end": _message(b"[" * 100_000),
    "no content": _message(b'{"content": 3, "arrays": []}'),
    "no value": _message(b'{"content": {}, "arrays": []}'),
    "no arrays": _message(b'{"content": {"value": 0}}'),
    "an object of arrays": _message(b'{"content": {"value": 0}, "arrays": {"a": 3}}'),
    "4 TiB": _arrays(["a", "<f4", [2**40]]),
    "more than an address holds": _arrays(["a", "<f4", [10**30]]),
    "a negative size": _arrays(["a", "<f4", [-1]]),
    "half a size": _arrays(["a", "<f4", [1.5]]),
    "no shape": _arrays(["a", "<f4", 3]),
    "objects": _arrays(["a", "O", [1]]),
    "no type": _arrays(["a", "no type", [1]]),
    "records": _arrays(["a", "i4,i4", [1]]),
    "a number for a type": _arrays(["a", 3, [1]]),
    "a list for a name": _arrays([["a"], "<f4", [1]]),
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_an_answer_that_is_none_is_refused(refused, answer):
    assert "LiteRT gave an answer that cannot be read on " in refused(_answering(answer), sandbox.DEFAULT_LIMITS)


@pytest.mark.parametrize("sent", [b"", _message(b"{}")[:5], _arrays(["a", "<f4", [2**20]])])
def test_an_answer_that_stops_in_the_middle_is_refused(refused, sent):
    assert "LiteRT ended without an answer (exit code 0) on " in refused(_answering(sent, "sys.exit()"))
    assert "LiteRT gave no sign of life for 0.8" in refused(_answering(sent))


def test_a_worker_that_closes_its_answers_is_ended(refused, monkeypatch):
    monkeypatch.setattr(sandbox, "_SECONDS_TO_END", 0.3)
    assert "LiteRT closed its streams on " in refused(_answering(b"", "import os; os.close(1); time.sleep(60)"))


def test_a_worker_that_does_not_listen_is_ended(refused):
    program = "import time; time.sleep(60)"
    assert "LiteRT gave no sign of life for 0.8" in refused(program, x=np.zeros(2**20))


def test_a_sound_worker_follows(refused):
    refused(_answering(NO_ANSWERS["no JSON"]))
    assert verify(TESTDATA).ok


ARRAYS = {
    "a": np.arange(6, dtype="float32").reshape(2, 3),
    "none": np.zeros((0, 3), "int8"),
    "one": np.array(1.5),
    "bools": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    "columns": np.arange(6).reshape(2, 3).T,
}


def test_a_message_is_received_as_it_was_sent():
    stream = io.BytesIO()
    write_message(stream, {"value": [1, None, "\ud800"]}, ARRAYS)
    stream.seek(0)
    content, arrays = read_message(stream)
    assert content == {"value": [1, None, "\ud800"]}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


@pytest.mark.parametrize("value", [0, [], {}, {"graphs": [{}]}, {"graphs": 3}])
def test_a_description_of_another_form_is_an_error_of_the_file(monkeypatch, value):
    monkeypatch.setattr(tflite_process, "run_task", lambda *_: (value, {}))
    with pytest.raises(BundleError, match="made its own process answer what no reader says"):
        tflite_process.describe(MODEL)
