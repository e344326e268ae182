"""Many small networks of one shape, trained side by side as one Keras model: a member for each seed and setting.

A model of its own for each of them would spend its time on compiling. Members share nothing but the steps: each has its
own weights and sees its own data, in arrays of shape (samples, members, features).
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


def dense(units, members, activation=None, *, seeds=None):
    """One dense layer a member: (batch, members, features) to (batch, members, units).

    Args:
        units: Outputs of each member.
        members: How many there are.
        activation: As in `keras.layers.Dense`.
        seeds: One a member, for Glorot's uniform start; None starts at zero.
    """

    def glorot(shape, dtype=None):
        # Keras would take the member axis for part of a convolution's kernel, and start too near zero.
        return ops.stack([keras.initializers.GlorotUniform(seed=int(seed))(shape[1:], dtype=dtype) for seed in seeds])

    return keras.layers.EinsumDense(
        "bmf,mfu->bmu",
        (members, units),
        activation=activation,
        bias_axes="mu",
        kernel_initializer="zeros" if seeds is None else glorot,
    )


def train(model, loss, x, y, *, epochs, batch_size, learning_rate, sample_weight=None):
    """Fits `model` with Adam, whose step falls to zero along a cosine: the last epoch's model is a settled one.

    Adam divides by the gradient's size, so the mean over the members in the loss changes none of their steps.
    """
    steps = -(-len(x) // batch_size)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps * epochs)), loss)
    rng = np.random.default_rng(0)
    # `fit` would spend more time between epochs than in these small ones.
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for batch in (order[i : i + batch_size] for i in range(0, len(x), batch_size)):
            weights = None if sample_weight is None else sample_weight[batch]
            model.train_on_batch(x[batch], y[batch], sample_weight=weights)
    return model


def predict(model, x):
    """The outputs for all of `x`, as float64."""
    return ops.convert_to_numpy(model(x)).astype(np.float64)
