"""Value and gradient of a scalar function on the Keras backend in use, eagerly and compiled."""

import keras
import numpy as np


def value_and_gradient(function, x, *, compiled=False):
    """Returns f(x) and df/dx as NumPy arrays, the gradient 0 where f does not depend on x.

    `compiled` uses the backend's compiler, where it has one here.
    """
    backend = keras.backend.backend()
    value, gradient = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[backend](function, x, compiled)
    return np.asarray(value), np.asarray(gradient)


def _tensorflow(function, x, compiled):
    import tensorflow as tf

    def run(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = function(values)
        return value, tape.gradient(value, values, unconnected_gradients="zero")

    run = tf.function(run, jit_compile=True, autograph=False) if compiled else run
    value, gradient = run(tf.constant(x))
    return value.numpy(), gradient.numpy()


def _jax(function, x, compiled):
    import jax

    run = jax.value_and_grad(function)
    return (jax.jit(run) if compiled else run)(jax.numpy.asarray(x))


def _torch(function, x, compiled):
    import torch

    # torch.compile needs a C++ toolchain at run time; the eager result is the one that Keras trains with.
    values = torch.tensor(x, requires_grad=True)
    value = function(values)
    if value.requires_grad:
        value.backward()
    gradient = torch.zeros_like(values) if values.grad is None else values.grad
    return value.detach().numpy(), gradient.numpy()
