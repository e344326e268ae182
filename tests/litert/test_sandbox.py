"""The process in which .tflite files run: whatever happens there is a `BundleError` here, and the next file runs."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from keras_notes._litert import sandbox
from keras_notes._litert.runtime import KERNELS
from keras_notes.bundle import open_bundle
from keras_notes.errors import BundleError
from keras_notes.verification import Limits, verify
from tests.support.bundles import MODEL_FILE, ROOT, TESTDATA, rewrite
from tests.support.hand_made import TURNS, hand_made_bundle, looping_model, swelling_model

MODEL = TESTDATA / MODEL_FILE
SHORT = Limits(cpu_seconds=0.2, wall_seconds=0.5)
# Of a test that waits for less than a second; the machine may be busy.
SOON_SECONDS = 4.5


@pytest.fixture(autouse=True)
def _no_worker_left():
    """Each test begins without a worker, and leaves none of its own program."""
    sandbox._end_workers()
    yield
    sandbox._end_workers()


@pytest.fixture
def run(monkeypatch):
    """`run(task, ...)`: the value of a task of tests/support/failing_worker.py."""
    monkeypatch.setattr(sandbox, "_PROGRAM", ROOT / "tests" / "support" / "failing_worker.py")

    def run(task, limits=SHORT, **arguments):
        return sandbox.run_task(task, MODEL, arguments, {}, limits)[0]

    return run


def _worker_id():
    (worker,) = sandbox._idle
    return worker._process.pid


def _refused(directory, limits=SHORT, **options):
    """The one line that refuses a bundle, which takes less than a few seconds and harms no other."""
    start = time.monotonic()
    with pytest.raises(BundleError) as caught:
        verify(directory, limits=limits, **options)
    assert time.monotonic() - start < SOON_SECONDS
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)
    assert verify(TESTDATA).ok
    return str(caught.value)


# Workers come and go


def test_a_worker_is_used_again_after_success():
    verify(TESTDATA)
    first = _worker_id()
    verify(TESTDATA, kernels="reference")
    assert _worker_id() == first


def test_a_worker_is_used_again_after_a_file_that_litert_never_saw(testdata):
    verify(TESTDATA)
    first = _worker_id()
    rewrite(testdata, MODEL_FILE, MODEL.read_bytes()[:1000])
    assert "must be a .tflite file" in _refused(testdata)
    assert _worker_id() == first


def test_a_worker_is_replaced_after_an_error_of_litert(tmp_path):
    verify(TESTDATA)
    first = _worker_id()
    bomb = hand_made_bundle(tmp_path / "bomb", swelling_model(2**31 - 1), 1)
    assert "cannot be loaded by LiteRT: it gives no reason, which is most likely too little" in _refused(bomb.directory)
    assert _worker_id() != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_died_while_idle_is_replaced(number):
    verify(TESTDATA)
    first = _worker_id()
    os.kill(first, number)
    assert verify(TESTDATA).ok
    assert _worker_id() != first


def test_a_worker_that_hangs_while_idle_is_replaced():
    verify(TESTDATA)
    first = _worker_id()
    os.kill(first, signal.SIGSTOP)
    assert verify(TESTDATA, limits=SHORT).ok
    assert _worker_id() != first


def test_an_interrupt_at_the_terminal_leaves_a_worker_alone():
    verify(TESTDATA)
    first = _worker_id()
    os.kill(first, signal.SIGINT)
    assert verify(TESTDATA).ok
    assert _worker_id() == first


def test_what_an_earlier_file_did_to_a_worker_is_not_this_ones_doing(run):
    first = run("pid")
    assert run("die_if_used") == "alive"
    assert run("pid") != first


def test_threads_take_turns():
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(verify(TESTDATA))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.ok for report in reports] == [True] * 4
    assert len(sandbox._idle) == 1


@pytest.mark.slow
def test_a_hundred_verifications_never_fail(testdata):
    rewrite(testdata, MODEL_FILE, MODEL.read_bytes()[:1000])
    for number in range(100):
        assert verify(TESTDATA, kernels=list(KERNELS)[number % len(KERNELS)]).ok
        if number % 10 == 9:
            _refused(testdata)
            os.kill(_worker_id(), signal.SIGKILL)


# What a task can do


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("die", {"number": int(signal.SIGSEGV)}, "LiteRT crashed with SIGSEGV on "),
        ("die", {"number": int(signal.SIGKILL)}, "LiteRT crashed with SIGKILL on "),
        ("die", {"number": int(signal.SIGRTMIN) + 1}, "LiteRT crashed with signal "),
        ("abort", {}, "LiteRT asked for more than 4 GiB of memory on "),
        ("leave", {}, r"LiteRT ended without an answer \(the last line\) on "),
        ("loop", {}, r"LiteRT computed for more than 0\.2\d* s in one step on "),
        ("wait", {}, r"LiteRT gave no sign of life for 0\.8\d* s on "),
        ("swell", {}, "must run in 4 GiB of memory. Received: it asks for more"),
        ("fail", {}, "must be a .tflite file that LiteRT can run. Received: ZeroDivisionError"),
        ("print_much", {}, "."),
    ],
)
def test_what_goes_wrong_is_one_line_with_file_and_cause(run, task, arguments, message):
    start = time.monotonic()
    with pytest.raises(BundleError, match=message) as caught:
        run(task, **arguments)
    assert time.monotonic() - start < SOON_SECONDS
    assert str(MODEL) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert run("pid") > 0


def test_each_step_has_its_own_time(run):
    run("go_on", Limits(cpu_seconds=0.5))


def test_a_worker_has_no_limit_of_memory_between_two_tasks(run):
    run("pid", Limits(memory_bytes=2**20))
    big = np.zeros(2**25)
    sandbox.run_task("pid", MODEL, {}, {"x": big})


@pytest.mark.parametrize("limits", [{"cpu_seconds": 0}, {"memory_bytes": 0}, {"wall_seconds": -1}])
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)


# What a file can do


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_a_loop_without_end_is_ended(tmp_path, kernels):
    bundle = hand_made_bundle(tmp_path / "endless", looping_model(step=0), TURNS)
    assert "LiteRT computed for more than 0.20" in _refused(bundle.directory, kernels=kernels)


def test_the_limits_of_verify_are_those_of_the_file(tmp_path):
    bundle = hand_made_bundle(tmp_path / "large", swelling_model(2**24), 1)
    assert verify(bundle, kernels="reference").ok
    assert "too little memory" in _refused(bundle.directory, Limits(memory_bytes=2**24), kernels="reference")
    slow = hand_made_bundle(tmp_path / "slow", looping_model(10**6), 10**6)
    assert "computed for more than 0.01" in _refused(slow.directory, Limits(cpu_seconds=0.01))


# The process that asks


# The package without Keras, whose threads make a fork a warning.
_PACKAGE = f"""
import os, sys, types, warnings
package = types.ModuleType("keras_notes")
package.__path__ = [{str(ROOT / "keras_notes")!r}]
sys.modules["keras_notes"] = package
from keras_notes._litert import sandbox
from keras_notes.verification import verify
warnings.simplefilter("error")
"""


def _program(text, **options):
    command = [sys.executable, "-X", "dev", "-c", _PACKAGE + text, str(TESTDATA)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_fork_has_a_worker_of_its_own():
    program = _program("""
verify(sys.argv[1])
ours = sandbox._idle[0]._process.pid
sandbox._lock.acquire()
child = os.fork()
if child == 0:
    assert verify(sys.argv[1]).ok
    assert sandbox._idle[0]._process.pid != ours
    sys.exit(7)
sandbox._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert verify(sys.argv[1]).ok
assert sandbox._idle[0]._process.pid == ours
print("done")
""")
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out, err) == (0, "done\n", "")


@pytest.mark.parametrize("end", ["sys.exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_worker_does_not_outlive_the_process_that_asks(end):
    program = _program(f"""
verify(sys.argv[1])
print(sandbox._idle[0]._process.pid, flush=True)
{end}
""")
    out, err = program.communicate(timeout=60)
    assert err == ""
    deadline = time.monotonic() + SOON_SECONDS
    while Path(f"/proc/{int(out)}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{int(out)}").exists()


def test_no_core_and_no_endless_log_is_written():
    verify(TESTDATA)
    limits = Path(f"/proc/{_worker_id()}/limits").read_text()
    found = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()}
    assert found["Max core file size"] == "0"
    assert int(found["Max file size"]) == 2**24


def test_a_bundle_that_was_opened_runs_in_the_worker_too():
    assert verify(open_bundle(TESTDATA)).ok
