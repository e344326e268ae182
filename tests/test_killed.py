"""What a kill -9 leaves behind, at whatever moment it comes: nothing, what was there before, or all of it."""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_notes import TeacherCache
from keras_notes.bundle import open_bundle
from keras_notes.verification import verify
from tests.support import killable_jobs
from tests.support.bundles import ROOT, TESTDATA, contents, copied

KILLED = -signal.SIGKILL
_LONGEST_SECONDS = 60


class Jobs:
    """The program of tests/support/killable_jobs.py, running."""

    def __init__(self, directory):
        environment = {**os.environ, "TMPDIR": str(directory), "CUDA_VISIBLE_DEVICES": "-1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._log = (directory / "log").open("w+")
        command = [sys.executable, "-m", "tests.support.killable_jobs"]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=self._log, **pipes)

    def run(self, *job, kill_after=None, kill_when=None):
        """Runs a job, and kills it after so many seconds, or when something is so; returns exit code and duration."""
        print(json.dumps([str(part) for part in job]), file=self._process.stdin, flush=True)
        pid = self._told("begun")
        begin = time.monotonic()
        if kill_when is not None:
            while not kill_when() and time.monotonic() < begin + _LONGEST_SECONDS:
                time.sleep(0.0005)
        if kill_after is not None or kill_when is not None:
            time.sleep(kill_after or 0.0)
            # It may have ended already.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = self._told("ended")
        elapsed = time.monotonic() - begin
        # The converter that it started goes on, in a folder of its own, until it notices; no test needs that.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        assert code in (0, KILLED), self._said()
        return code, elapsed

    def close(self):
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _told(self, what):
        line = self._process.stdout.readline()
        assert line, self._said()
        return json.loads(line)[what]

    def _said(self):
        self._log.seek(0)
        return self._log.read()[-3000:]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The running program."""
    made = Jobs(tmp_path_factory.mktemp("jobs"))
    yield made
    made.close()


def _moments(seed, count):
    return sorted(random.Random(seed).uniform(0.0, 1.0) for _ in range(count))


# Conversion


def _left(directory, old, is_new=lambda directory: verify(directory).name == "small"):
    """What was left: "absent", "old" or "new"; asserts that there is nothing else."""
    if not directory.exists():
        hidden = [contents(path) for path in directory.parent.iterdir()]
        # Between the two renames the old bundle stands beside.
        assert old is None or old in hidden
        return "absent"
    if contents(directory) == old:
        return "old"
    assert is_new(directory)
    return "new"


@pytest.fixture(scope="module")
def duration_of(jobs, tmp_path_factory):
    """`duration_of(recipe)`: how long a whole conversion takes."""

    @functools.cache
    def duration_of(recipe):
        directory = tmp_path_factory.mktemp(recipe) / "bundle"
        code, elapsed = jobs.run("convert", directory, recipe)
        assert (code, _left(directory, None)) == (0, "new")
        return elapsed

    return duration_of


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["float32", "static_int8"])
@pytest.mark.parametrize("before", ["nothing", "an old bundle"])
def test_a_killed_conversion_leaves_nothing_the_old_bundle_or_a_whole_one(jobs, duration_of, tmp_path, recipe, before):
    def target(name):
        directory = tmp_path / name / "bundle"
        directory.parent.mkdir()
        return copied(TESTDATA, directory) if before == "an old bundle" else directory

    old = contents(TESTDATA) if before == "an old bundle" else None
    duration = duration_of(recipe)
    codes = []
    for number, moment in enumerate(_moments(f"{recipe} {before}", 5)):
        directory = target(str(number))
        codes.append(jobs.run("convert", directory, recipe, kill_after=moment * duration)[0])
        left = _left(directory, old)
        assert left == "new" or codes[-1] == KILLED
    assert KILLED in codes
    assert jobs.run("convert", directory, recipe)[0] == 0
    assert _left(directory, old) == "new"


# Of a process that dies at one operation on files after the other, while it replaces a bundle.
_EVERY_OPERATION = f"""
import itertools, json, os, shutil, signal, sys, types
from pathlib import Path
package = types.ModuleType("keras_notes")
package.__path__ = [{str(ROOT / "keras_notes")!r}]
sys.modules["keras_notes"] = package
import dataclasses
from keras_notes.bundle import open_bundle, write_bundle

source, work = Path(sys.argv[1]), Path(sys.argv[2])
manifest = dataclasses.replace(open_bundle(source).manifest, name="new")
# Each file is another, so that a folder of some old and some new ones is seen.
files = {{name: (source / name).read_bytes()[::-1] for name in manifest.files}}

def killed_at(directory, last):
    operations = 0
    def hook(event, arguments):
        nonlocal operations
        if arguments and str(arguments[0]).startswith(str(directory.parent)):
            operations += 1
            if operations == last:
                os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        write_bundle(directory, manifest, files, overwrite=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for number in itertools.count(1):
    directory = work / str(number) / "bundle"
    directory.parent.mkdir()
    if len(sys.argv) > 3:
        shutil.copytree(source, directory)
    code = killed_at(directory, number)
    print(json.dumps([code, str(directory)]))
    if code == 0:
        break
"""


def _has_new_files(directory):
    return open_bundle(directory).manifest.name == "new"


@pytest.mark.parametrize("before", ["nothing", "an old bundle"])
def test_a_bundle_that_is_killed_at_any_operation_on_files_is_none_the_old_one_or_whole(tmp_path, before):
    arguments = [str(TESTDATA), str(tmp_path), *(["over"] if before == "an old bundle" else [])]
    command = [sys.executable, "-c", _EVERY_OPERATION, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    old = contents(TESTDATA) if before == "an old bundle" else None
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    found = [(code, _left(Path(directory), old, _has_new_files)) for code, directory in lines]
    assert found[-1] == (0, "new")
    assert {code for code, _ in found[:-1]} == {KILLED}
    assert {left for _, left in found} == ({"absent", "new"} if old is None else {"absent", "old", "new"})
    assert len(found) > 10


# The teacher cache


def _shown(directory):
    """Every file of a cache that has its name; a kill leaves hidden ones, too."""
    return {name: data for name, data in contents(directory).items() if "/." not in f"/{name}"}


def _opened(directory):
    """Why a cache is not opened, or "whole"."""
    try:
        TeacherCache.open(directory)
    except ValueError as error:
        return str(error)
    return "whole"


def _has_files(directory, count):
    return directory.exists() and sum(1 for _ in directory.iterdir()) >= count


@pytest.mark.slow
def test_a_killed_build_of_a_cache_is_refused_or_whole_and_goes_on_to_what_an_unbroken_one_is(jobs, tmp_path):
    whole = tmp_path / "whole"
    jobs.run("cache", whole)
    shutil.rmtree(whole)
    code, duration = jobs.run("cache", whole)
    assert code == 0
    assert TeacherCache.open(whole).samples == killable_jobs.SAMPLES
    outcomes = []
    # Half of them by the clock; half by what is there, because a busy machine spends its time before the first shard.
    moments = [{"kill_after": moment * duration} for moment in _moments("cache", 10)]
    files = [{"kill_when": count} for count in range(1, 21, 2)]
    for number, when in enumerate(moments + files):
        directory = tmp_path / str(number)
        if (count := when.get("kill_when")) is not None:
            when = {"kill_when": functools.partial(_has_files, directory, count)}
        code, _ = jobs.run("cache", directory, **when)
        found = _opened(directory)
        if found == "whole":
            assert _shown(directory) == _shown(whole)
        else:
            assert code == KILLED
            assert "whose build was not finished" in found or "which holds none" in found
        outcomes.append(len(_shown(directory)) if directory.exists() else 0)
        # It is killed once more before it is left to end.
        jobs.run("cache", directory, kill_after=0.3 * duration)
        assert jobs.run("cache", directory)[0] == 0
        assert _opened(directory) == "whole"
        assert _shown(directory) == _shown(whole)
    # The kills came at different moments of the build.
    assert len(set(outcomes)) > 3
