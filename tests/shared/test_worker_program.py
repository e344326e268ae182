"""A program in a process of its own: its success, and the reason of each failure."""

import pytest

from keras_notes._shared.worker_program import run_program


@pytest.fixture
def reason_of(tmp_path):
    """The reason why a script fails."""

    def run(script, env=None):
        (tmp_path / "program.py").write_text(script)
        return run_program(tmp_path / "program.py", tmp_path, env)

    return run


@pytest.mark.any_backend
def test_a_program_that_succeeds_has_no_reason_and_works_in_the_directory(reason_of, tmp_path):
    script = (
        "import os, pathlib, sys\n"
        "names = 'KERAS_BACKEND', 'CUDA_VISIBLE_DEVICES', 'EXTRA'\n"
        "(pathlib.Path(sys.argv[1]) / 'result').write_text(' '.join(os.environ[name] for name in names))"
    )
    assert reason_of(script, {"EXTRA": "more"}) is None
    assert (tmp_path / "result").read_text() == "tensorflow -1 more"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise ValueError('no such operator')", "ValueError: no such operator"),
        ("raise ValueError('first line\\nsecond line')", "ValueError: first line second line"),
        (
            "try:\n    raise KeyError('first')\nexcept KeyError as error:\n    raise RuntimeError('last') from error",
            "RuntimeError: last",
        ),
        ("import sys\nsys.stderr.write('out of luck')\nsys.exit(3)", "out of luck"),
        ("raise SystemExit(3)", "its process ended with exit code 3 and wrote nothing."),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "its process crashed with SIGSEGV."),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "its process crashed with SIGKILL. Likely cause: the machine ran out of memory. Give fewer samples.",
        ),
    ],
)
def test_a_failure_has_its_reason(reason_of, script, reason):
    assert reason_of(script) == reason


@pytest.mark.any_backend
@pytest.mark.parametrize("script", ["raise ValueError('x' * 10_000)", "import sys\nsys.exit('x' * 10_000)"])
def test_a_long_reason_is_cut(reason_of, script):
    reason = reason_of(script)
    assert len(reason) < 1000
    assert "xxx ... xxx" in reason
