"""Checkpoint: a killed run ends with the weights of an unbroken one, and what does not fit is refused."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_notes as kn
from tests.distillation import training

ROOT = Path(__file__).resolve().parent.parent.parent

# Everything that has a state: random layers, normalization, Adam with accumulated gradients, a schedule of the step, a
# connector, shuffled and augmented batches. The epochs are shorter than a pass over the data.
PROGRAM = """
import sys, time
import keras, numpy as np
import keras_notes as kn
from keras import layers

directory, epochs, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
keras.utils.set_random_seed(7)
if sys.argv[4] != "float32":
    keras.config.set_dtype_policy(sys.argv[4])

def model(width, name):
    head = [layers.Dense(width, "relu", name="hidden"), layers.BatchNormalization(), layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((6,)), *head, layers.Dense(4, dtype="float32")], name=name)

rng = np.random.default_rng(0)
x, y = rng.normal(size=(96, 6)).astype("float32"), rng.integers(0, 4, 96)
batches = kn.distillation.SeededBatches(
    x, y, batch_size=16, seed=3, batches_per_epoch=4,
    augment=lambda sample, rng: sample + rng.normal(size=sample.shape).astype("float32"))
distiller = kn.Distiller(
    model(12, "teacher"), model(5, "student"), features=kn.FeatureMatch("hidden", "hidden", kn.losses.HintLoss()),
    temperature=keras.optimizers.schedules.PolynomialDecay(4.0, 20, 1.0))
distiller.compile(keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True))
checkpoint = kn.distillation.Checkpoint(directory)
begin = checkpoint.restore(distiller)
slow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(pause))
print("begins", begin, flush=True)
distiller.fit(batches, epochs=epochs, initial_epoch=begin, callbacks=[checkpoint, slow], verbose=0)
np.savez(directory + "/end.npz", *[np.asarray(keras.ops.convert_to_numpy(v), "float32")
                                   for v in [*distiller.trainable_variables, *distiller.non_trainable_variables]])
"""


def command(directory, epochs, pause=0.0, policy="float32"):
    return [sys.executable, "-c", PROGRAM, str(directory), str(epochs), str(pause), policy]


def run(*arguments):
    result = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return int(result.stdout.split("begins")[1].split()[0])


def end_of(directory):
    with np.load(directory / "end.npz") as file:
        return [file[name] for name in file.files]


def killed_after(directory, files, epochs, policy):
    """Starts a run and kills it, without a chance to clean up, in the epoch after so many checkpoints."""
    process = subprocess.Popen(
        command(directory, epochs, 0.3, policy), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    wanted = directory / f"epoch-{files:05d}.npz"
    while not wanted.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.4)  # into the next epoch
    assert process.poll() is None, process.stderr.read()[-3000:]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "policy",
    [
        "float32",
        pytest.param("mixed_float16", marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one_to_the_last_bit(tmp_path, policy):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, 5, 0.0, policy) == 0
    killed_after(killed, 2, 5, policy)
    assert run(killed, 5, 0.0, policy) == 2
    for got, wanted in zip(end_of(killed), end_of(whole), strict=True):
        np.testing.assert_array_equal(got, wanted)


def small(name="student", classes=3):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(classes)], name=name)


compiled = functools.partial(training.compiled, optimizer="adam", run_eagerly=False, jit_compile="auto")


@pytest.mark.any_backend
def test_a_newer_file_is_never_half_there_and_old_ones_go(tmp_path):
    model = compiled(small())
    model.optimizer.build(model.trainable_variables)
    checkpoint = kn.distillation.Checkpoint(tmp_path / "run", keep=2)
    for epochs in (1, 2, 3):
        checkpoint.save(model, epochs)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["epoch-00002.npz", "epoch-00003.npz"]
    assert checkpoint.restore(model) == 3
    newest = tmp_path / "run" / "epoch-00003.npz"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"epoch-00003\.npz must be a whole checkpoint"):
        checkpoint.restore(model)
    newest.unlink()
    assert checkpoint.restore(model) == 2


@pytest.mark.any_backend
def test_another_teacher_another_model_or_an_uncompiled_one_are_refused(tmp_path):
    checkpoint = kn.distillation.Checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"must be compiled and built .*Received: model='student', compiled=False"):
        checkpoint.restore(small())
    distiller = compiled(kn.Distiller(small("teacher"), small()))
    assert checkpoint.restore(distiller) == 0
    distiller.optimizer.build(distiller.trainable_variables)
    checkpoint.save(distiller, 1)
    with pytest.raises(ValueError, match="The teacher must be that of the run"):
        checkpoint.restore(compiled(kn.Distiller(small("teacher"), small())))
    deeper = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="must hold the state of this model and optimizer"):
        checkpoint.restore(compiled(kn.Distiller(distiller.teacher, deeper)))
    with pytest.raises(ValueError, match="`keep` must be >= 1"):
        kn.distillation.Checkpoint(tmp_path, keep=0)


@pytest.mark.any_backend
def test_the_teachers_weights_are_not_saved_again(tmp_path):
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2000), keras.layers.Dense(3)])
    distiller = compiled(kn.Distiller(teacher, small()))
    distiller.optimizer.build(distiller.trainable_variables)
    path = kn.distillation.Checkpoint(tmp_path).save(distiller, 1)
    with np.load(path) as file:
        meta = json.loads(str(file["meta"]))
        assert sum(file[name].size for name in file.files if name.isdigit()) < 100
    assert meta["epochs"] == 1
    assert len(meta["teachers"]) == 1


def test_the_state_before_the_first_step_comes_back(tmp_path):
    saved, restored = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]) for _ in range(2))
    for model in (saved, restored):
        model.compile("adam", "mse")
    checkpoint = kn.distillation.Checkpoint(tmp_path)
    checkpoint.save(saved, epochs=0)
    assert checkpoint.restore(restored) == 0
    for value, expected in zip(restored.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
