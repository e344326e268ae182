"""The worker of the sandbox with tasks that go wrong; a program, for the tests of the sandbox to start in its place."""

import os
import runpy
import signal
import time
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "keras_notes" / "_litert" / "sandbox_worker.py"
served = []


def pid(heartbeat):
    return os.getpid()


def die(heartbeat, number):
    os.kill(os.getpid(), number)


def die_if_used(heartbeat):
    if len(served) > 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return "alive"


def abort(heartbeat):
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'")
    os.abort()


def leave(heartbeat):
    os.write(2, b"first line\nthe last line\n")
    os._exit(3)


def loop(heartbeat):
    while True:
        pass


def wait(heartbeat):
    time.sleep(60)


def go_on(heartbeat):
    for _ in range(10):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        heartbeat()


def swell(heartbeat):
    return len(bytearray(2**34))


def fail(heartbeat):
    raise ZeroDivisionError("a\nb" + "x" * 100_000)


def print_much(heartbeat):
    print("on stdout", flush=True)
    while True:
        os.write(2, b"a line\n" * 10_000)


def _task(run):
    def task(path, arrays, heartbeat, **arguments):
        served.append(path)
        return run(heartbeat, **arguments), {}

    return task


if __name__ == "__main__":
    worker = runpy.run_path(str(PROGRAM), run_name="worker")
    tasks = (pid, die, die_if_used, abort, leave, loop, wait, go_on, swell, fail, print_much)
    worker["TASKS"].update({task.__name__: _task(task) for task in tasks})
    worker["main"]()
