"""What tests of distillation share: models that are their own logits, eager training, and weights to compare."""

import keras
import numpy as np
from keras.losses import SparseCategoricalCrossentropy

SAMPLES, CLASSES, RATE = 8, 4, 2.0
# Sums over classes and samples in float32 against float64.
FLOAT32_SUMS = 1e-5
# One step of SGD in float32 against float64: a few roundings of 6e-8 on logits of size 3.
FLOAT32_STEP = 2e-6
# Logits of probabilities: a softmax rounds to 6e-8 of each probability, and its logarithm again.
FLOAT32_PROBABILITIES = 2e-5
X = np.eye(SAMPLES, dtype="float32")
Y = np.random.default_rng(7).integers(0, CLASSES, SAMPLES)


def random_logits(seed, classes=CLASSES, scale=2.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(SAMPLES, classes))


def table(values, activation=None, name=None, **arguments):
    """A model whose logits on X are its kernel, so a step of SGD shows their gradient."""
    layer = keras.layers.Dense(values.shape[-1], use_bias=False, activation=activation, name="scores", **arguments)
    model = keras.Sequential([keras.Input((SAMPLES,)), layer], name=name)
    layer.set_weights([values])
    return model


def kernel(model):
    return np.float64(model.get_weights()[0])


def crossentropy(**arguments):
    return SparseCategoricalCrossentropy(from_logits=True, **arguments)


def linear(name=None, *, features=SAMPLES, classes=CLASSES, **dense):
    """A model of one dense layer, without an activation unless `dense` has one."""
    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(classes, **dense)], name=name)


def compiled(model, loss=None, *, rate=RATE, **arguments):
    """Compiled with SGD; eager, which starts fastest where all tests share their shapes."""
    arguments = {"optimizer": keras.optimizers.SGD(rate), "run_eagerly": True, "jit_compile": False, **arguments}
    model.compile(loss=loss or crossentropy(), **arguments)
    return model


def fitted(distiller, x=X, y=Y, **arguments):
    """The last logs of training on the whole batch."""
    arguments = {"batch_size": len(x), "shuffle": False, "verbose": 0, **arguments}
    return {name: values[-1] for name, values in distiller.fit(x, y, **arguments).history.items()}


def evaluated(distiller, x=X, y=Y, **arguments):
    return distiller.evaluate(x, y, **{"batch_size": len(x), "return_dict": True, "verbose": 0, **arguments})


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
