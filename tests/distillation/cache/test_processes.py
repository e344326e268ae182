"""The files of a TeacherCache: damage, builds that were cut off, and processes that build side by side."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_notes import TeacherCache

ROOT = Path(__file__).resolve().parents[3]
CLASSES, FEATURES, SAMPLES, BATCH = 3, 4, 24, 4
# Sums of a few float32 numbers.
FLOAT32_SUMS = 1e-6
# Shards of two batches.
CUT = {"batch_size": BATCH, "shard_size": 8, "dtype": "float32", "verbose": 0}


class Slow(keras.utils.PyDataset):
    """Batches of samples that take their time."""

    def __init__(self, x, pause=0.0):
        super().__init__()
        self.x, self.pause, self.fails = x, pause, False

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        if self.fails and index == 3:
            raise OSError("the disk is gone")
        time.sleep(self.pause)
        return (self.x[BATCH * index : BATCH * (index + 1)],)


def samples(count=SAMPLES):
    return np.random.default_rng(0).normal(size=(count, FEATURES)).astype("float32")


def fixed_teacher():
    """The same weights in every process."""
    teacher = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    rng = np.random.default_rng(1)
    teacher.set_weights([rng.normal(size=(FEATURES, CLASSES)), rng.normal(size=CLASSES)])
    return teacher


def build(x, directory, **arguments):
    return TeacherCache.build(fixed_teacher(), x, directory, **{**CUT, **arguments})


def assert_holds(cache):
    """The record of each sample is what the teacher says of it."""
    (found,) = cache.lookup(samples())["outputs"][0]
    wanted = keras.ops.convert_to_numpy(fixed_teacher()(samples()))
    np.testing.assert_allclose(found, wanted, atol=FLOAT32_SUMS)


def contents(directory):
    """Every file of a cache."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete cache of three shards."""
    directory = tmp_path_factory.mktemp("whole")
    build(samples(), directory)
    return directory


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "cache")
    return tmp_path / "cache"


# Damage


def flipped(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-3])


DAMAGES = {
    "flipped byte": (
        lambda d: flipped(d / "shard-00001/output_0_0.npy"),
        r"output_0_0.npy must hold .*shard-00001 and",
    ),
    "flipped fingerprint": (lambda d: flipped(d / "shard-00001/fingerprints.npy"), r"other bytes. Delete shard-00001"),
    "truncated file": (lambda d: truncated(d / "shard-00001/output_0_0.npy"), r"must have \d+ bytes.*shard-00001"),
    "missing file": (lambda d: (d / "shard-00001/output_0_0.npy").unlink(), r"no such file. Delete shard-00001"),
    "missing shard": (lambda d: shutil.rmtree(d / "shard-00001"), "must hold shard-00001"),
    "missing account": (lambda d: (d / "shard-00001/shard.json").unlink(), "shard-00001"),
    "corrupt account": (lambda d: (d / "shard-00001/shard.json").write_text("{"), r"shard-00001.*must hold JSON"),
    "empty account": (lambda d: (d / "shard-00001/shard.json").write_text("{}"), "shard-00001"),
    "corrupt manifest": (lambda d: (d / "cache.json").write_text("{"), r"cache.json must hold JSON"),
    "binary manifest": (lambda d: (d / "cache.json").write_bytes(b"\xff\xfe"), r"cache.json must hold JSON"),
    "empty manifest": (lambda d: (d / "cache.json").write_text("{}"), "cache.json"),
    "missing manifest": (lambda d: (d / "cache.json").unlink(), "whose build was not finished"),
    "flipped key of the index": (lambda d: flipped(d / "index-keys.npy"), "index-keys.npy"),
    "flipped row of the index": (lambda d: flipped(d / "index-rows.npy", -8), "index-rows.npy"),
    "truncated index": (lambda d: truncated(d / "index-rows.npy"), "index-rows.npy"),
    "missing index": (lambda d: (d / "index-keys.npy").unlink(), "index-keys.npy"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_an_error_that_names_what_is_damaged(copy, kind):
    TeacherCache.open(copy, check_bytes=True)
    damage, message = DAMAGES[kind]
    damage(copy)
    with pytest.raises(ValueError, match=message):
        TeacherCache.open(copy, check_bytes=True)


def test_without_reading_every_byte_sizes_are_checked_alone(copy):
    flipped(copy / "shard-00001/output_0_0.npy")
    TeacherCache.open(copy, check_bytes=False)
    truncated(copy / "shard-00001/output_0_0.npy")
    with pytest.raises(ValueError, match=r"must have \d+ bytes"):
        TeacherCache.open(copy, check_bytes=False)


@pytest.mark.parametrize("kind", ["flipped byte", "truncated file", "missing account", "corrupt account"])
def test_a_damaged_shard_is_built_again_once_it_is_deleted_and_no_other(copy, counted, kind):
    DAMAGES[kind][0](copy)
    with pytest.raises(ValueError, match="shard-00001"):
        build(samples(), copy)
    assert counted == []
    shutil.rmtree(copy / "shard-00001")
    cache = build(samples(), copy)
    assert counted == [BATCH, BATCH]
    assert_holds(cache)
    TeacherCache.open(copy, check_bytes=True)


@pytest.mark.parametrize("kind", ["missing manifest", "missing index", "flipped row of the index", "truncated index"])
def test_a_damaged_index_is_written_again_without_the_teacher(copy, counted, kind):
    DAMAGES[kind][0](copy)
    assert_holds(build(samples(), copy))
    TeacherCache.open(copy, check_bytes=True)
    assert counted == []


def test_a_cache_of_a_later_format_is_an_error(copy):
    manifest = json.loads((copy / "cache.json").read_text())
    manifest["settings"]["format"] += 1
    (copy / "cache.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="format"):
        TeacherCache.open(copy)


def test_a_folder_without_a_cache_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"must hold a complete teacher cache.*which holds none"):
        TeacherCache.open(tmp_path / "nowhere")


# Builds that were cut off


def test_a_finished_build_runs_no_teacher_again(tmp_path, counted):
    build(samples(), tmp_path)
    assert sum(counted) == SAMPLES
    before = contents(tmp_path)
    build(samples(), tmp_path)
    assert sum(counted) == SAMPLES
    assert contents(tmp_path) == before


def test_a_build_that_failed_goes_on(tmp_path, whole, counted):
    dataset = Slow(samples())
    dataset.fails = True
    with pytest.raises(OSError, match="the disk is gone"):
        build(dataset, tmp_path)
    # The first shard, and the first batch of the second.
    assert sum(counted) == 3 * BATCH
    dataset.fails = False
    assert_holds(build(dataset, tmp_path))
    assert sum(counted) == 3 * BATCH + SAMPLES - 2 * BATCH


def test_what_a_killed_process_left_behind_is_no_shard(tmp_path, whole, counted):
    build(samples(), tmp_path, process=(0, 3))
    unfinished = tmp_path / ".shard-00001.4194304"
    unfinished.mkdir()
    (unfinished / "output_0_0.npy").write_bytes(b"\x93NUMPY")
    build(samples(), tmp_path)
    assert sum(counted) == SAMPLES
    shutil.rmtree(unfinished, ignore_errors=True)
    assert contents(tmp_path) == contents(whole)


# Builds one cache after another, each once its folder's gate is open.
PROGRAM = """
import json, sys, time
from pathlib import Path
from tests.distillation.cache.test_processes import Slow, build, samples

for directory, count, pause, process in json.loads(sys.argv[1]):
    directory = Path(directory)
    directory.with_suffix(f".ready-{sys.argv[2]}").touch()
    while not directory.with_suffix(".go").exists():
        time.sleep(0.01)
    begin = time.time()
    cache = build(Slow(samples(count), pause), directory, process=process)
    print("built", begin, time.time(), cache and cache.samples)
"""


@pytest.fixture
def start():
    """Starts a process that builds caches, and ends at the end of the test what is still running."""
    running = []

    def start(*builds):
        command = [sys.executable, "-c", PROGRAM, json.dumps(builds), str(len(running))]
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_for(condition, process):
    """Waits while a process runs, two minutes at most."""
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < end
        time.sleep(0.01)


def shards_of(directory):
    return sorted(directory.glob("shard-*"))


def test_a_killed_build_goes_on_where_it_stopped(tmp_path, start, counted):
    directory, count = tmp_path / "killed", 10 * SAMPLES
    directory.with_suffix(".go").touch()
    process = start([str(directory), count, 0.05, (0, 1)])
    wait_for(lambda: len(shards_of(directory)) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()

    finished = shards_of(directory)
    assert 2 <= len(finished) < count // 8
    with pytest.raises(ValueError, match="whose build was not finished"):
        TeacherCache.open(directory)
    times = {path: path.stat().st_mtime_ns for shard in finished for path in (shard, *shard.iterdir())}
    build(Slow(samples(count)), directory)
    assert sum(counted) == count - 8 * len(finished)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    # Half a shard may lie beside, under the name of the process that was killed.
    for unfinished in directory.glob(f".*.{process.pid}"):
        shutil.rmtree(unfinished)
    build(Slow(samples(count)), tmp_path / "unbroken")
    assert contents(directory) == contents(tmp_path / "unbroken")


# Processes side by side


def test_processes_build_the_shards_of_one_cache(whole, tmp_path, counted):
    assert build(samples(), tmp_path, process=(1, 2)) is None
    assert sum(counted) == 8
    with pytest.raises(ValueError, match="was not finished"):
        TeacherCache.open(tmp_path)
    assert build(samples(), tmp_path, process=(0, 2)).samples == SAMPLES
    assert sum(counted) == SAMPLES
    assert contents(tmp_path) == contents(whole)


def test_two_processes_at_once_build_what_one_builds(whole, tmp_path, start):
    # Each its share; and both asked for every shard.
    caches = {tmp_path / "shares": [(0, 2), (1, 2)], tmp_path / "same": [(0, 1), (0, 1)]}
    builds = [[[str(path), SAMPLES, 0.1, pair[i]] for path, pair in caches.items()] for i in range(2)]
    processes = [start(*build) for build in builds]
    for path in caches:
        for number, process in enumerate(processes):
            wait_for(path.with_suffix(f".ready-{number}").exists, process)
        path.with_suffix(".go").touch()
    results = []
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
        results.append([line.split()[1:] for line in out.splitlines() if line.startswith("built")])
    for path, *pair in zip(caches, *results, strict=True):
        # They did run side by side.
        assert max(float(begin) for begin, _, _ in pair) < min(float(end) for _, end, _ in pair)
        found = {samples for _, _, samples in pair}
        assert str(SAMPLES) in found
        assert found <= {"None", str(SAMPLES)}
        assert contents(path) == contents(whole)
        assert_holds(TeacherCache.open(path))
