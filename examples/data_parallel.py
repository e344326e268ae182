"""One distillation on several devices: two processes on JAX, or two replicas on TensorFlow, give one process's weights.

One process, then two processes on this machine (on several machines: the same command on each, with the address of the
first one):

    KERAS_BACKEND=jax python examples/data_parallel.py
    KERAS_BACKEND=jax python examples/data_parallel.py --processes 2 --process 1 &
    KERAS_BACKEND=jax python examples/data_parallel.py --processes 2 --process 0

One process with two replicas, which here are two halves of one CPU:

    KERAS_BACKEND=tensorflow python examples/data_parallel.py --replicas 2

Each run trains a teacher on scikit-learn's digits, caches its outputs and one of its layers (each process builds its
own shards), distils a student from the cache, and then compares the student's weights with those that the run of one
process has left in the output directory. `MultiWorkerMirroredStrategy` fails inside Keras 3's `fit`; use JAX there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_notes as kn

SAMPLES, BATCH_SIZE, TEACHER_EPOCHS, STUDENT_EPOCHS = 1536, 64, 10, 20
SECONDS_TO_WAIT = 300


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1, help="processes in all (JAX)")
    parser.add_argument("--process", type=int, default=0, help="which of them this is")
    parser.add_argument("--address", default="127.0.0.1:29401", help="host:port of process 0")
    parser.add_argument("--replicas", type=int, default=1, help="replicas in this process (TensorFlow)")
    parser.add_argument("--output", type=Path, default=Path("build/data_parallel"))
    return parser.parse_args()


def connect(options) -> None:
    """Joins the processes; each of them then trains on its share of every batch."""
    if keras.backend.backend() != "jax":
        raise SystemExit("Several processes need KERAS_BACKEND=jax.")
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPUs only; GPUs have their own
    keras.distribution.initialize(options.address, num_processes=options.processes, process_id=options.process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def replicas(count: int):
    """Opens the scope under which models are made, so that they live on several devices of one process."""
    if count == 1:
        return contextlib.nullcontext
    if keras.backend.backend() != "tensorflow":
        raise SystemExit("Replicas need KERAS_BACKEND=tensorflow.")
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)]).scope


def classifier(width: int, name: str) -> keras.Model:
    """64-width-10 with logits."""
    layers = [keras.layers.Dense(width, "relu", name="hidden"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *layers], name=name)


def crossentropy():
    """On class ids and logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cached(teacher, x, options) -> kn.TeacherCache:
    """Every process builds its shards, and waits for those of the others."""
    directory = options.output / f"cache-{options.processes}-{options.replicas}-{keras.backend.backend()}"
    part = options.process, options.processes
    cache = kn.TeacherCache.build(teacher, x, directory, features=["hidden"], shard_size=256, process=part)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while cache is None and time.monotonic() < deadline:
        time.sleep(0.2)
        if (directory / "cache.json").is_file():
            cache = kn.TeacherCache.open(directory)
    if cache is None:
        raise SystemExit(f"{directory} was not finished by the other processes in {SECONDS_TO_WAIT} s.")
    return cache


def distilled(options) -> keras.Model:
    """The student, after all of it."""
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = (x[:SAMPLES] / 16.0).astype("float32"), y[:SAMPLES].astype("int32")
    part = options.process, options.processes
    batches = kn.distillation.SeededBatches(x, y, batch_size=BATCH_SIZE, seed=0, process=part)
    scope = replicas(options.replicas)
    with scope():
        teacher = classifier(128, "teacher")
        teacher.compile(keras.optimizers.Adam(2e-3), crossentropy(), jit_compile=False)
    in_order = {"shuffle": False, "callbacks": [batches.epoch_callback()], "verbose": 0}
    teacher.fit(batches, epochs=TEACHER_EPOCHS, **in_order)
    with scope():
        match = kn.FeatureMatch("hidden", "hidden", kn.losses.HintLoss(), weight=0.1)
        student = classifier(8, "student")
        distiller = kn.Distiller(teacher, student, student_loss_weight=0.1, temperature=2.0, features=match)
        distiller.compile(keras.optimizers.Adam(2e-3), crossentropy(), metrics=["accuracy"], jit_compile=False)
    data = cached(teacher, x, options).join(batches)
    logs = distiller.fit(data, epochs=STUDENT_EPOCHS, verbose=0).history
    print(f"accuracy on the training images {logs['accuracy'][-1]:.4f}, loss {logs['loss'][-1]:.6f}")
    return student


def main() -> None:
    """Trains, and compares with the run of one process."""
    options = arguments()
    if options.processes > 1:
        connect(options)
    weights = [keras.ops.convert_to_numpy(weight) for weight in distilled(options).weights]
    reference = options.output / f"one_process-{keras.backend.backend()}.npz"
    if options.processes == options.replicas == 1:
        np.savez(reference, *weights)
        print(f"weights of one process: {reference}")
    elif reference.is_file():
        with np.load(reference) as file:
            difference = max(np.abs(file[name] - weight).max() for name, weight in zip(file, weights, strict=True))
        print(f"largest difference to the weights of one process: {difference:.1e}")


if __name__ == "__main__":
    main()
