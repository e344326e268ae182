"""Fixtures of bundles. A conversion starts TensorFlow in a process of its own, so each is made once for all tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import keras
import pytest

import keras_notes as kn
from tests.support.bundles import LABELS, TESTDATA, bars, copied, trained_net


@pytest.fixture(scope="session")
def net() -> keras.Model:
    """The trained net that `converted` converts; the one behind the bundle of tflite/testdata is another training."""
    return trained_net(seed=0)


@pytest.fixture(scope="session")
def converted(net, tmp_path_factory) -> Callable[..., kn.Bundle]:
    """`converted(recipe, edges)`: the bundle of `net`. Never change it; `copied` it."""
    directory = tmp_path_factory.mktemp("converted")
    samples = bars(200, seed=1)[0]

    @functools.cache
    def convert(recipe: str, edges: str) -> kn.Bundle:
        return kn.convert(
            net,
            directory / f"{recipe}_{edges}",
            recipe,
            edges=edges,
            calibration=samples if recipe == "static_int8" else None,
            golden=samples[:32],
            labels=list(LABELS),
        )

    def bundle(recipe: str, edges: str = "float32") -> kn.Bundle:
        return convert(recipe, edges)

    return bundle


@pytest.fixture
def testdata(tmp_path) -> Path:
    """A copy of the bundle in tflite/testdata, to damage."""
    return copied(TESTDATA, tmp_path / "bundle")
