"""Shared set-up of the tests."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest

pytest_plugins = ["tests.support.fixtures_bundles", "tests.support.fixtures_report_pages"]


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def pytest_report_header(config):
    return f"keras {keras.__version__} on the {keras.backend.backend()} backend"


def pytest_collection_modifyitems(config, items):
    """Conversion needs the TensorFlow backend; the other backends run what is marked for them."""
    if keras.backend.backend() != "tensorflow":
        items[:] = [item for item in items if item.get_closest_marker("any_backend")]
