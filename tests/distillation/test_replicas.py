"""Distiller under tf.distribute: two replicas on logical CPUs give the step of one process on the same batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Sums over the batch in another order.
FLOAT32_SUMS = 1e-6

PROGRAM = """
import json, sys
import keras, numpy as np, tensorflow as tf
import keras_notes as kn

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
results = []
for strategy in (tf.distribute.get_strategy(), two):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        def model(**dense):
            return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, **dense)])
        student = model(kernel_regularizer=keras.regularizers.L2(1.0))
        distiller = kn.Distiller(model(), student, student_loss_weight=0.3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("float32"), rng.integers(0, 4, 32)
    history = distiller.fit(x, y, batch_size=32, shuffle=False, verbose=0).history
    logs = {name: values[0] for name, values in history.items()}
    results.append({"weights": student.get_weights()[0].tolist(), "logs": logs})
print(json.dumps(results))
"""


def test_two_replicas_give_the_weights_and_logs_of_one():
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    one, two = json.loads(result.stdout.splitlines()[-1])
    for row, same in zip(one["weights"], two["weights"], strict=True):
        assert row == pytest.approx(same, abs=FLOAT32_SUMS)
    assert two["logs"] == pytest.approx(one["logs"], rel=1e-5)
