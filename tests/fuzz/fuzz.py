"""Damaged bundles by the thousand: each must be a `BundleError` of one line, a `VerificationError`, or a sound bundle.

    python -m tests.fuzz --count 10000 --seed 0 --processes 2
    python -m tests.fuzz --only SEED

Every case goes through `verify` and through what `keras-notes inspect` does, with the bundle and with its .tflite file
alone, whatever its hashes; anything else that happens (another exception, a warning, ten seconds, hundreds of MiB here,
the death of this process) is a finding, and the exit code is 1. The seed of a case repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from keras_notes._litert import client as tflite_process
from keras_notes._litert.runtime import KERNELS
from keras_notes.bundle import MODEL_FILE, open_bundle
from keras_notes.cli import main as command_line
from keras_notes.cli._inspect import inspect as inspect_command
from keras_notes.errors import BundleError, VerificationError
from keras_notes.verification import Limits, verify
from tests.fuzz.mutations import damage
from tests.support.bundles import TESTDATA
from tests.support.hand_made import TURNS, hand_made_bundle, looping_model

__all__ = ["LIMITS", "Case", "run_cases"]

# Of one step; a case has a step for each of its golden samples, at most 16.
LIMITS = Limits(cpu_seconds=0.3)

SLOWEST_SECONDS = 10.0
MOST_MIB = 300.0
LONGEST_MESSAGE = 2000
# Every so many cases go through the program itself, too.
_PROGRAM_EVERY = 10
# ... and so many damaged models go to LiteRT at once, without the reader that refuses most of them.
_UNREAD_EVERY = 3


@dataclass
class Case:
    """What became of one damaged bundle: an outcome by "verify", "inspect", "file" and "program"; what must not be."""

    seed: int
    what: str
    outcomes: dict[str, str]
    findings: list[str]
    seconds: float


def run_cases(seeds: Iterable[int], limits: Limits = LIMITS) -> Iterator[Case]:
    """Damages a bundle for each seed, and looks at what comes of it."""
    with tempfile.TemporaryDirectory(prefix="keras_notes_fuzz_") as work:
        loop = hand_made_bundle(Path(work) / "loop", looping_model(), TURNS).directory
        for seed in seeds:
            directory = Path(work) / str(seed)
            directory.mkdir()
            source = loop if seed % 3 == 2 else TESTDATA
            what = damage(source, directory, seed)
            yield _looked_at(source, directory, seed, what, limits)
            shutil.rmtree(directory)


def _looked_at(source: Path, directory: Path, seed: int, what: str, limits: Limits) -> Case:
    case = Case(seed, what, {}, [], 0.0)
    kernels = list(KERNELS)[seed // 3 % len(KERNELS)]
    steps = {
        "verify": lambda: verify(directory, kernels=kernels, limits=limits),
        "inspect": lambda: _inspect(directory),
    }
    if (directory / MODEL_FILE).is_file():
        steps["file"] = lambda: _inspect(directory / MODEL_FILE)
    if seed % _PROGRAM_EVERY == 0:
        steps["program"] = lambda: _program(directory)
    if what.startswith("model") and seed % _UNREAD_EVERY == 0:
        steps["unread"] = lambda: _run_unread(source, directory, kernels, limits)
    for name, step in steps.items():
        start, peak = time.monotonic(), _peak_mib()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case.outcomes[name], finding = _outcome(step)
        elapsed = time.monotonic() - start
        swelling = _peak_mib() - peak
        case.seconds = max(case.seconds, elapsed)
        if elapsed > SLOWEST_SECONDS:
            finding = f"{elapsed:.1f} s"
        if swelling > MOST_MIB:
            finding = f"{swelling:.0f} MiB of memory"
        if finding:
            case.findings.append(f"{name}: {finding}")
    return case


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _outcome(step) -> tuple[str, str | None]:
    """The kind of outcome, and what is wrong with it."""
    try:
        step()
    except (BundleError, VerificationError) as error:
        message = str(error)
        outcome = _refusal(message) if isinstance(error, BundleError) else "not equal"
        if "\n" in message or len(message) > LONGEST_MESSAGE:
            return (
                outcome,
                f"a message of {len(message)} characters on {message.count(chr(10)) + 1} lines: {message[:300]!r}",
            )
        return outcome, None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return type(error).__name__, f"{type(error).__name__}: {str(error)[:300]}"
    return "sound", None


_OUTCOMES = {
    "hash or size": ("is damaged", "is incomplete", "must list golden"),
    "crashed": ("LiteRT crashed",),
    "too much": ("computed for more", "GiB of memory", "sign of life"),
    "no manifest": ("must be JSON", "bundle schema", "format_version", "must hold model.json", "nested", "MiB"),
    "other tensors": ("that its manifest describes",),
    "unreadable": ("must be a .tflite file",),
    "refused by LiteRT": ("by LiteRT",),
}


def _refusal(message: str) -> str:
    return next((outcome for outcome, parts in _OUTCOMES.items() if any(part in message for part in parts)), "other")


def _inspect(path: Path) -> None:
    """What `keras-notes inspect` does with a bundle or a file, without the command line, which words the errors."""
    with contextlib.redirect_stdout(io.StringIO()):
        inspect_command(argparse.Namespace(directory=path, json=False, debug=False))


def _run_unread(source: Path, directory: Path, kernels: str, limits: Limits) -> None:
    bundle = open_bundle(source)
    (signature,) = bundle.manifest.signatures
    tflite_process.outputs(directory / MODEL_FILE, signature, bundle.golden(signature)[0], kernels, limits=limits)


def _program(directory: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line(["inspect", str(directory)])
    lines = err.getvalue().splitlines()
    if (code, len(lines)) not in {(0, 0), (2, 1)}:
        raise AssertionError(f"exit code {code}, stderr {lines[-3:]}")
    if code == 2:
        raise BundleError(lines[0])


# The processes: the death of one is a finding of the case that it was at.


def _work(options: argparse.Namespace) -> None:
    """Answers with one line of JSON for each case; the line before it names the seed."""
    seeds = json.loads(sys.stdin.readline())

    def named() -> Iterator[int]:
        for seed in seeds:
            print(seed, flush=True)
            yield seed

    for case in run_cases(named(), LIMITS):
        print(json.dumps(asdict(case)), flush=True)


def _run_share(seeds: list[int], results: queue.Queue) -> None:
    while seeds:
        command = [sys.executable, "-m", "tests.fuzz", "--work"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            print(json.dumps(seeds), file=process.stdin, flush=True)
            done = 0
            for line in process.stdout:
                if line.startswith("{"):
                    results.put(Case(**json.loads(line)))
                    done += 1
        if process.returncode != 0:
            death = f"the calling process ended with {process.returncode}"
            results.put(Case(seeds[done], "", {"process": "died"}, [death], 0.0))
            done += 1
        seeds = seeds[done:]
    results.put(None)


def _run_parallel(seeds: list[int], processes: int) -> Iterator[Case]:
    results: queue.Queue = queue.Queue()
    for share in range(processes):
        threading.Thread(target=_run_share, args=(seeds[share::processes], results), daemon=True).start()
    running = processes
    while running:
        case = results.get()
        if case is None:
            running -= 1
        else:
            yield case


def main() -> int:
    """Runs the cases, prints findings as they come and a table of outcomes at the end; 1 if there was any finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="SEED", help="this case alone, in this process, in full")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        _work(options)
        return 0
    if options.only is not None:
        (case,) = run_cases([options.only], LIMITS)
        print(json.dumps(asdict(case), indent=2))
        return int(bool(case.findings))
    seeds = list(range(options.seed, options.seed + options.count))
    return _report(_run_parallel(seeds, options.processes), len(seeds))


def _report(cases: Iterator[Case], count: int) -> int:
    start, table, slowest, findings = time.monotonic(), Counter(), None, 0
    for number, case in enumerate(cases, 1):
        table.update(case.outcomes.items())
        slowest = max(slowest or case, case, key=lambda case: case.seconds)
        findings += len(case.findings)
        for finding in case.findings:
            print(f"\rFINDING --only {case.seed} ({case.what}): {finding}")
        if number % 50 == 0 or number == count:
            print(f"\r{number}/{count}, {findings} findings, {time.monotonic() - start:.0f} s", end="", flush=True)
    print()
    for (step, outcome), times in sorted(table.items()):
        print(f"{step:10s} {outcome:20s} {times:6d}")
    print(f"slowest: {slowest.seconds:.2f} s, --only {slowest.seed} ({slowest.what})")
    print(f"{findings} findings")
    return int(findings > 0)
