"""The memory of a cached run over mapped arrays: the part of `distillation.py cost` that needs processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from keras_notes.distillation import Distiller, SeededBatches, TeacherCache

BATCH, SHAPE, CLASSES = 128, (28, 28, 1), 10
STATUS, SECONDS_BETWEEN_READINGS = Path("/proc/self/status"), 0.002
FACTOR, MIB = 8, 1 << 20
CHUNK = 4096


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
    """The table of memory for `samples`, and for 8 times as many."""
    sizes = samples, FACTOR * samples
    image_bytes = int(np.prod(SHAPE))
    print(f"\nLargest anonymous memory in MiB, median of {repetitions}; the images take "
          f"{samples * image_bytes / MIB:.1f} and {FACTOR * samples * image_bytes / MIB:.1f}")  # fmt: skip
    print(f"  {'':<24} {f'{sizes[0]} samples':>15} {f'{sizes[1]} samples':>15}  difference (least to largest)")
    peaks = {"build": [], "fit": []}
    with tempfile.TemporaryDirectory() as folder:
        folders = [_written(Path(folder) / str(size), size) for size in sizes]
        for repetition in range(repetitions):
            for step, found in peaks.items():
                found.append(_in_processes(step, folders, f"cache-{repetition}"))
    for step, title in (("build", "build of a cache"), ("fit", "cached epoch")):
        small, large = np.array(peaks[step]).T / MIB
        difference = large - small
        print(f"  {title:<24} {np.median(small):15.1f} {np.median(large):15.1f}  {np.median(difference):+.1f} "
              f"({difference.min():+.1f} to {difference.max():+.1f})")  # fmt: skip


def _written(folder, samples):
    """A folder with random images and labels, written piece by piece."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", "uint8", (samples, *SHAPE))
    for start in range(0, samples, CHUNK):
        part = images[start : start + CHUNK]
        part[:] = rng.integers(0, 256, part.shape, "uint8")
    images.flush()
    np.save(folder / "y.npy", rng.integers(0, CLASSES, samples, "int32"))
    return folder


def _in_processes(step, folders, cache):
    """The peak of each folder; their processes run side by side."""
    commands = [[sys.executable, __file__, step, str(folder), cache] for folder in folders]
    processes = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    results = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, results, strict=True):
        if process.returncode:
            raise RuntimeError(f"`{step}` must run to its end. Received: exit status {process.returncode}.\n{errors}")
    return [json.loads(output.splitlines()[-1]) for output, _ in results]


class PeakReader(threading.Thread):
    """Reads this process's anonymous memory again and again; `peak` is the largest, NaN where Linux does not tell."""

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


def build(x, y, directory):
    """Builds a cache of x."""
    keras.utils.set_random_seed(0)
    TeacherCache.build(student_network(), x, directory, batch_size=BATCH, verbose=0)


def fit(x, y, directory):
    """One epoch on a cache that was built."""
    cache = TeacherCache.open(directory)
    distiller = Distiller(cache, student_network())
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(cache.join(SeededBatches(x, y, batch_size=BATCH)), verbose=0)


if __name__ == "__main__":
    step, folder, cache = sys.argv[1:]
    arrays = [np.load(Path(folder) / name, mmap_mode="r") for name in ("x.npy", "y.npy")]
    with PeakReader() as reader:
        {"build": build, "fit": fit}[step](*arrays, Path(folder) / cache)
        time.sleep(2 * SECONDS_BETWEEN_READINGS)
    print(json.dumps(float(reader.peak)))
