"""examples/data_parallel.py: two processes on JAX and two replicas on TensorFlow end with one process's weights."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "examples" / "data_parallel.py"
# Sums over the batch in another order, carried through 480 steps of Adam.
SAME_WEIGHTS = 1e-5

pytestmark = pytest.mark.slow


def start(backend, output, *options):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), "--output", str(output), *map(str, options)],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return output


def difference(output):
    return float(re.search(r"weights of one process: (\S+)$", output, re.MULTILINE)[1])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_on_jax_cache_and_distil_to_the_weights_of_one(tmp_path):
    finished(start("jax", tmp_path))
    shared = ("--processes", 2, "--address", f"127.0.0.1:{free_port()}")
    processes = [start("jax", tmp_path, *shared, "--process", index) for index in (0, 1)]
    for process in processes:
        assert difference(finished(process)) <= SAME_WEIGHTS
    shards = tmp_path / "cache-2-1-jax"
    assert (shards / "cache.json").is_file()
    assert len(list(shards.glob("shard-*"))) == 6


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory):
    """The folder that TensorFlow's run with one replica leaves, and what it prints."""
    folder = tmp_path_factory.mktemp("one_replica")
    return folder, finished(start("tensorflow", folder))


def test_two_replicas_on_tensorflow_cache_and_distil_to_the_weights_of_one(one_replica):
    folder, output = one_replica
    assert float(re.search(r"images (0\.\d+)", output)[1]) > 0.8
    assert difference(finished(start("tensorflow", folder, "--replicas", 2))) <= SAME_WEIGHTS


def test_the_comparison_can_fail(one_replica, tmp_path):
    reference = "one_process-tensorflow.npz"
    with np.load(one_replica[0] / reference) as file:
        weights = [file[name] for name in file.files]
    weights[0] = weights[0] + 0.01
    np.savez(tmp_path / reference, *weights)
    assert difference(finished(start("tensorflow", tmp_path, "--replicas", 2))) > 100 * SAME_WEIGHTS


def test_the_wrong_backend_is_named(tmp_path):
    process = start("tensorflow", tmp_path, "--processes", 2)
    assert "need KERAS_BACKEND=jax" in process.communicate(timeout=120)[1]
    assert process.returncode == 1
