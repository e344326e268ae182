"""Common parts of the tests of feature matching: small models, their features, and losses of features alone."""

import functools

import keras
import numpy as np

import keras_notes as kn
from tests.distillation import training

SAMPLES, FEATURES, CLASSES, STEPS = 8, 6, 4, 3


# Two matrix products and a mean in float32 against float64.
FLOAT32_SUMS = 1e-5


# Eager steps start fastest, but for JAX, which compiles each operation on shapes that are new to it.
NEW_SHAPES = {"run_eagerly": False, "jit_compile": True} if keras.backend.backend() == "jax" else {}


def perceptron(width, name=None):
    layers = [keras.layers.Dense(width, "relu", name="hidden"), keras.layers.Dense(CLASSES, name="logits")]
    return keras.Sequential([keras.Input((FEATURES,)), *layers], name=name)


def hidden(model, x):
    weight, bias = map(np.float64, model.get_layer("hidden").get_weights())
    return np.maximum(x.astype("float64") @ weight + bias, 0)


compiled = functools.partial(training.compiled, rate=0.1)


def features_alone(teacher, student, *matches, **arguments):
    """Nothing but the features counts. The weight of 0 spares Keras's warning of layers without a gradient."""
    outputs = [keras.losses.MeanSquaredError()], [0.0]
    return compiled(kn.Distiller(teacher, student, *outputs, student_loss_weight=0.0, features=matches), **arguments)


fitted = training.fitted


def feature_loss(distiller, x, y):
    return distiller.evaluate(x, y, batch_size=len(x), return_dict=True, verbose=0)["distillation_loss"]


def mean_square(teacher, student):
    return ((np.float64(teacher) - np.float64(student)) ** 2).mean()


def with_inner_model():
    """A functional model around a Sequential one around another."""
    inmost = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, name="deep")], name="inmost")
    inner = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(7, name="first"), inmost], name="inner")
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(inner(inputs)))
