"""A part of the conversion matrix: models of several forms by several recipes. All of it: tests/benchmarks."""

import pytest

import keras_notes as kn
from benchmarks.conversion.zoo import ZOO, samples
from keras_notes.bundle import open_bundle

MODELS = ("multi_input", "nested", "unet_transpose")


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """The models in turn."""
    return request.param, ZOO[request.param]()


@pytest.mark.parametrize("recipe", ["float32", "dynamic_int8", "static_int8"])
def test_a_model_of_the_matrix_converts_and_is_proven(model, tmp_path, recipe):
    name, net = model
    ranges = {"calibration": samples(name, 64, seed=1)} if recipe == "static_int8" else {}
    bundle = kn.convert(net, tmp_path / "bundle", recipe, golden=samples(name, 8, seed=2), **ranges)
    report = kn.verify(bundle)
    assert report.ok
    assert (report.float_islands == ()) == (recipe == "static_int8")
    assert open_bundle(bundle.directory).manifest.name == name
