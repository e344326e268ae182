"""Damaged bundles: 500 of the cases of tests/fuzz.py, and that it finds what it looks for."""

import re
import subprocess
import sys
import warnings

import pytest

from keras_notes.errors import BundleError
from tests import fuzz
from tests.bundles import ROOT, TESTDATA, contents
from tests.mutations import damage

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
