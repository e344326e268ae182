"""Largest anonymous memory of building a cache, and of a cached epoch, over memory-mapped images.

    python -m benchmarks distillation memory [--samples 16384] [--repetitions 3]

It is a part of `distillation cost`, whose protocol it follows. Each figure is that of a process of its own.
"""

import argparse
import functools
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from benchmarks import command_line
from keras_notes.distillation import Distiller, SeededBatches, TeacherCache

BATCH, SHAPE, CLASSES = 128, (28, 28, 1), 10
STATUS, SECONDS_BETWEEN_READINGS = Path("/proc/self/status"), 0.002
FACTOR, MIB = 8, 1 << 20
CHUNK = 4096
SAMPLES, REPETITIONS = 16_384, 3


def network(widths, pooled_after):
    """Convolutions `conv_1`, `conv_2`, ... of these widths on grey images, max pooling after some; ten logits."""
    layers = [keras.layers.Rescaling(1 / 255)]
    for number, width in enumerate(widths, start=1):
        layers.append(keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv_{number}"))
        if number in pooled_after:
            layers.append(keras.layers.MaxPooling2D())
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input(SHAPE, dtype="uint8"), *layers])


def student_network():
    """Four convolutions, 8 wide."""
    return network([8] * 4, pooled_after=(1, 2))


def print_memory(samples, repetitions):
    """Measures and prints the table of memory for `samples`, and for 8 times as many."""
    sizes = samples, FACTOR * samples
    image_bytes = int(np.prod(SHAPE))
    print(f"\nLargest anonymous memory in MiB, median of {repetitions}; the images take "
          f"{samples * image_bytes / MIB:.1f} and {FACTOR * samples * image_bytes / MIB:.1f}")  # fmt: skip
    print(f"  {'':<24} {f'{sizes[0]} samples':>15} {f'{sizes[1]} samples':>15}  difference (least to largest)")
    peaks = {"build": [], "fit": []}
    with tempfile.TemporaryDirectory() as folder:
        folders = [_write_images(Path(folder) / str(size), size) for size in sizes]
        for repetition in range(repetitions):
            for step, bytes_by_size in peaks.items():
                bytes_by_size.append(_measure_in_processes(step, folders, f"cache-{repetition}"))
    for step, title in (("build", "build of a cache"), ("fit", "cached epoch")):
        small, large = np.array(peaks[step]).T / MIB
        difference = large - small
        print(f"  {title:<24} {np.median(small):15.1f} {np.median(large):15.1f}  {np.median(difference):+.1f} "
              f"({difference.min():+.1f} to {difference.max():+.1f})")  # fmt: skip


def _write_images(folder, samples):
    """Writes random images and labels piece by piece and returns their folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", "uint8", (samples, *SHAPE))
    for start in range(0, samples, CHUNK):
        part = images[start : start + CHUNK]
        part[:] = rng.integers(0, 256, part.shape, "uint8")
    images.flush()
    np.save(folder / "y.npy", rng.integers(0, CLASSES, samples, "int32"))
    return folder


def _measure_in_processes(step, folders, cache):
    """Returns the peak of each folder; their processes run side by side."""
    run = functools.partial(
        subprocess.Popen, cwd=command_line.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    steps = (("distillation", "memory", "--step", step, str(folder), cache) for folder in folders)
    processes = [run(command_line.own_command(*words)) for words in steps]
    results = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, results, strict=True):
        if process.returncode:
            raise RuntimeError(f"`{step}` must run to its end. Received: exit status {process.returncode}.\n{errors}")
    return [json.loads(output.splitlines()[-1]) for output, _ in results]


class PeakReader(threading.Thread):
    """Reads this process's anonymous memory repeatedly; `peak` is the largest, NaN where Linux does not tell."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self._is_over = float("nan"), threading.Event()

    def run(self):
        while not self._is_over.wait(SECONDS_BETWEEN_READINGS):
            self._read()

    def _read(self):
        try:
            lines = STATUS.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if line.startswith("RssAnon"):
                self.peak = np.fmax(self.peak, int(line.split()[1]) * 1024)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self.join()


def build_cache(x, y, directory):
    """Builds a cache of x."""
    keras.utils.set_random_seed(0)
    TeacherCache.build(student_network(), x, directory, batch_size=BATCH, verbose=0)


def fit_student(x, y, directory):
    """One epoch on a cache that was built."""
    cache = TeacherCache.open(directory)
    distiller = Distiller(cache, student_network())
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(cache.join(SeededBatches(x, y, batch_size=BATCH)), verbose=0)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("distillation memory", __doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--step", nargs=3, metavar=("STEP", "FOLDER", "CACHE"), help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; or, with --step, the peak of one step in this process."""
    options = build_parser().parse_args(arguments)
    if not options.step:
        print_memory(options.samples, options.repetitions)
        return
    step, folder, cache = options.step
    arrays = [np.load(Path(folder) / name, mmap_mode="r") for name in ("x.npy", "y.npy")]
    with PeakReader() as reader:
        {"build": build_cache, "fit": fit_student}[step](*arrays, Path(folder) / cache)
        time.sleep(2 * SECONDS_BETWEEN_READINGS)
    print(json.dumps(float(reader.peak)))
