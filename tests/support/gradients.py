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


def values_and_gradients(loss, y_true, y_pred, compiled=None, *, dtype="float32"):
    """The loss of each row, which is the derivative with respect to a weight of the row, and the gradient of their sum.

    So the values, too, come from the compiler if `compiled`. Predictions are cast to `dtype` on the way.
    Left open, `compiled` is what costs less: JAX compiles every operation of an eager call anyway.
    """
    compiled = keras.backend.backend() == "jax" if compiled is None else compiled
    per_row = type(loss).from_config({**loss.get_config(), "reduction": None})

    def weighted(x):
        return keras.ops.sum(x[:, -1] * per_row(y_true, keras.ops.cast(x[:, :-1], dtype)))

    x = np.concatenate([y_pred, np.ones((len(y_pred), 1))], axis=-1).astype("float32")
    _, gradient = value_and_gradient(weighted, x, compiled=compiled)
    return gradient[:, -1], gradient[:, :-1]


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
