"""Fixtures of the tests of caches."""

import numpy as np
import pytest

from tests.distillation.cache.caches import CLASSES, FEATURES, SAMPLES


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)
