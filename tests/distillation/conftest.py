"""Fixtures of the tests of distillation."""

import keras
import numpy as np
import pytest

from tests.distillation.features import CLASSES, FEATURES, SAMPLES


@pytest.fixture
def counted(monkeypatch):
    """The sizes of the batches that models answered."""
    sizes = []
    original = keras.Model.predict_on_batch

    def predict_on_batch(self, x):
        sizes.append(len(keras.tree.flatten(x)[0]))
        return original(self, x)

    monkeypatch.setattr(keras.Model, "predict_on_batch", predict_on_batch)
    return sizes


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, 4, 2, 3)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)
