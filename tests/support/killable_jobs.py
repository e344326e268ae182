"""Runs jobs that a test kills: a program that reads one job a line, and forks for each, so that Keras starts once.

It writes {"begun": process id} when a job begins, and {"ended": exit code} when it has ended. Jobs are seeded.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable

import keras
import numpy as np

import keras_notes as kn

SAMPLES, BATCH, SHARD = 800, 8, 32


def small_net() -> keras.Model:
    """The same net in every process."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(4)]
    return keras.Sequential([keras.Input((8, 8, 1), name="image"), *layers], name="small")


def images(count: int) -> np.ndarray:
    """The same images in every process."""
    return np.random.default_rng(0).normal(size=(count, 8, 8, 1)).astype("float32")


def convert(directory: str, recipe: str) -> None:
    """Converts the net, over a bundle if there is one."""
    calibration = images(50) if recipe == "static_int8" else None
    overwrite = os.path.exists(directory)
    kn.convert(small_net(), directory, recipe, calibration=calibration, golden=images(8), overwrite=overwrite)


def cache(directory: str) -> None:
    """Builds the cache of the net's outputs."""
    kn.TeacherCache.build(small_net(), images(SAMPLES), directory, batch_size=BATCH, shard_size=SHARD, verbose=0)


_JOBS: dict[str, Callable[..., None]] = {job.__name__: job for job in (convert, cache)}


def _tell(**what: int) -> None:
    os.write(1, f"{json.dumps(what)}\n".encode())


def _run(job: str, arguments: list[str]) -> None:
    # What it starts can be ended with it.
    os.setsid()
    _tell(begun=os.getpid())
    try:
        _JOBS[job](*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Runs the jobs on stdin."""
    for line in sys.stdin:
        job, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(job, arguments)
        _tell(ended=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
