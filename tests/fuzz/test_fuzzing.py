"""Damaged bundles: 500 of the cases of tests/fuzz/fuzz.py, and that it finds what it looks for."""

import re
import subprocess
import sys
import warnings

import pytest

from keras_notes._litert import client as tflite_process
from keras_notes._litert import reader
from keras_notes._litert.model import TfliteFile
from keras_notes.errors import BundleError
from tests.fuzz import fuzz
from tests.fuzz.mutations import damage
from tests.support.bundles import ROOT, TESTDATA, contents

SEEDS = range(500)


def test_no_damage_is_more_than_an_error_of_one_line():
    cases = list(fuzz.run_cases(SEEDS))
    assert [(case.seed, case.what, case.findings) for case in cases if case.findings] == []
    outcomes = {outcome for case in cases for outcome in case.outcomes.values()}
    assert {"hash or size", "no manifest", "unreadable", "refused by LiteRT", "not equal", "sound"} <= outcomes


def test_a_seed_repeats_its_damage(tmp_path):
    for seed in range(50):
        first, second = tmp_path / f"{seed}", tmp_path / f"{seed} again"
        for directory in (first, second):
            directory.mkdir()
        assert damage(TESTDATA, first, seed) == damage(TESTDATA, second, seed)
        assert contents(first) == contents(second)


def _raising(error):
    def raise_it(*arguments, **options):
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("step", "finding"),
    [
        (_raising(IndexError("tuple index out of range")), "verify: IndexError: tuple index out of range"),
        (_raising(BundleError("two\nlines")), "verify: a message of 9 characters on 2 lines: 'two\\nlines'"),
        (_raising(SystemExit(2)), "verify: SystemExit: 2"),
        (lambda *arguments, **options: warnings.warn("odd", stacklevel=1), "verify: UserWarning: odd"),
    ],
)
def test_what_must_not_be_is_a_finding(monkeypatch, step, finding):
    monkeypatch.setattr(fuzz, "verify", step)
    (case,) = fuzz.run_cases([1])
    assert case.findings == [finding]


def test_what_inspect_does_with_a_file_alone_is_looked_at(monkeypatch):
    monkeypatch.setattr(TfliteFile, "float_operators", _raising(IndexError("tuple index out of range")))
    (case,) = fuzz.run_cases([0])
    assert case.what.startswith("manifest")
    assert case.outcomes["inspect"] == "no manifest"
    assert case.findings == ["file: IndexError: tuple index out of range"]


def test_a_reader_that_lets_a_damaged_cast_pass_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "_ONE_TO_ONE", ("QUANTIZE", "DEQUANTIZE"))
    monkeypatch.setattr(tflite_process, "describe", lambda path: reader.read_tflite(path))
    monkeypatch.setattr(fuzz, "verify", lambda *arguments, **options: None)
    damages = {seed: damage(TESTDATA, tmp_path / f"{seed}", seed) for seed in SEEDS}
    seeds = [seed for seed, what in damages.items() if what.startswith("edge operator: CAST from []")]
    findings = [case.findings for case in fuzz.run_cases(seeds)]
    assert seeds
    assert all("file: IndexError: tuple index out of range" in finding for finding in findings)


@pytest.mark.parametrize(("limit", "finding"), [("SLOWEST_SECONDS", r"verify: .* s"), ("MOST_MIB", r"verify: .* MiB")])
def test_time_and_memory_are_findings(monkeypatch, limit, finding):
    monkeypatch.setattr(fuzz, limit, -1.0)
    (case,) = fuzz.run_cases([1])
    assert re.match(finding, case.findings[0])


def test_the_program_ends_with_a_table():
    command = [sys.executable, "-m", "tests.fuzz", "--count", "4", "--seed", "8", "--processes", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "4/4, 0 findings" in result.stdout
    assert result.stdout.endswith("\n0 findings\n")
