"""Common parts of the tests of caches: small models, builds, and checkers of records and of training."""

import functools

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import TeacherCache
from keras_notes.losses import DistillationLoss
from tests.distillation import training

CLASSES, FEATURES, SAMPLES = 3, 4, 24


# Sums of a few float32 numbers, which XLA may take in another order.
FLOAT32_SUMS = 1e-6


linear = functools.partial(training.linear, features=FEATURES, classes=CLASSES)


def build(teacher, dataset, directory, **arguments):
    return TeacherCache.build(teacher, dataset, directory, **{"dtype": "float32", "verbose": 0, **arguments})


def answers(model, inputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, training=False))


def assert_holds(cache, teacher, inputs, rtol=FLOAT32_SUMS, atol=FLOAT32_SUMS):
    """The record of each sample is what the teacher says of it now."""
    wanted = keras.tree.flatten(answers(teacher, inputs))
    (found,) = cache.lookup(inputs)["outputs"]
    assert len(found) == len(wanted)
    for record, answer in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(record, "float32"), answer, rtol=rtol, atol=atol)


# Tiny models train faster than XLA compiles them for TensorFlow; JAX has no other way.
compiled = functools.partial(
    training.compiled, rate=0.5, run_eagerly=False, jit_compile=keras.backend.backend() == "jax"
)


def history_of(distiller, dataset, **arguments):
    return distiller.fit(dataset, **{"epochs": 2, "shuffle": False, "verbose": 0, **arguments}).history


def distance(first, second):
    """The largest difference between the weights of two models."""
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


def assert_trains_alike(teacher, make_student, batches, directory, *, cache=None, loss=None, **arguments):
    """A student that is trained on the cache ends with the weights of one that is trained on the live teacher."""
    cached, live, start = make_student(), make_student(), make_student()
    for student in (cached, live):
        student.set_weights(start.get_weights())
    store = build(teacher, batches, directory, **(cache or {}))
    history_of(compiled(kn.Distiller(teacher, live, **arguments), loss), batches)
    history_of(compiled(kn.Distiller(store, cached, **arguments), loss), store.join(batches))
    assert distance(live, start) > 1e-3
    assert distance(live, cached) <= FLOAT32_SUMS


def evaluated(distiller, dataset):
    return distiller.evaluate(dataset, return_dict=True, verbose=0)


def assert_measures_alike(teacher, student, batches, directory, *, cache=None, loss=None, **arguments):
    """The losses on the cache are those on the live teacher, and another student has others."""
    store = build(teacher, batches, directory, **(cache or {}))
    live = evaluated(compiled(kn.Distiller(teacher, student, **arguments), loss), batches)
    distiller = compiled(kn.Distiller(store, student, **arguments), loss)
    assert evaluated(distiller, store.join(batches)) == pytest.approx(live, rel=1e-5)
    student.set_weights([2 * weight for weight in student.get_weights()])
    assert evaluated(distiller, store.join(batches)) != pytest.approx(live, rel=1e-3)


def deep(hidden=5):
    layers = [keras.layers.Dense(hidden, "relu", name="hidden"), keras.layers.Dense(CLASSES, name="head")]
    return keras.Sequential([keras.Input((FEATURES,)), *layers])


def top_k_loss(temperature):
    return DistillationLoss(temperature, teacher="top_k", teacher_temperature=temperature)


def halved(inputs):
    return inputs * 0.5


def two_inputs(structure):
    left, right = keras.Input((FEATURES,), name="left"), keras.Input((2,), name="right")
    inputs = {"left": left, "right": right} if structure is dict else (left, right)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Concatenate()([left, right]))
    return keras.Model(inputs, outputs)


class Loader:
    """Batches of 6 in another order each time, as lists or tuples, with or without a length."""

    def __init__(self, x, y, kind=tuple):
        self.x, self.y, self.kind = x, y, kind
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        order = self.rng.permutation(len(self.x))
        for start in range(0, len(order), 6):
            rows = order[start : start + 6]
            yield self.kind([self.x[rows], self.y[rows]])


class SizedLoader(Loader):
    def __len__(self):
        return len(self.x) // 6
