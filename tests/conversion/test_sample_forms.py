"""Samples in the forms in which people have them: datasets, generators, lists, and rows of padding among them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_notes as kn
from keras_notes.compression import equalize, quantize_aware, sensitivity
from keras_notes.conversion import _bundle_builder
from keras_notes.conversion._golden_inputs import check_finite, choose_golden_inputs
from keras_notes.conversion._pipeline import ConversionPipeline, ConvertedFiles
from keras_notes.conversion.graph._deploy_graph import deploy_graph
from keras_notes.conversion.passes._model_file import ModelFile
from tests.support.bundles import MODEL_FILE, TESTDATA, bars

X, Y = bars(100, seed=1)


def batches():
    return ((X[i : i + 32], Y[i : i + 32]) for i in range(0, 100, 32))


FORMS = {
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(32),
    "generator": batches,
    "function": lambda: batches,
    "list of samples": lambda: list(X),
}


@pytest.fixture
def calibration_of(net, tmp_path, monkeypatch):
    """Returns the arrays on which `convert` measures ranges; the converter itself does not run."""
    ranges = {}

    class Pipeline(ConversionPipeline):
        def __init__(self, graphs, batch_size, calibration, *arguments):
            super().__init__(graphs, batch_size, calibration, *arguments)
            ranges.update(calibration)

        def run(self, *_):
            return ConvertedFiles(ModelFile((TESTDATA / MODEL_FILE).read_bytes()), reference=None)

    monkeypatch.setattr(_bundle_builder, "ConversionPipeline", Pipeline)

    def call(**arguments):
        bundle = kn.convert(net, tmp_path / "bundle", "static_int8", overwrite=True, **arguments)
        return bundle, ranges["serving_default"]["image"]

    return call


@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_calibrates_and_is_golden_as_its_arrays_are(calibration_of, form):
    bundle, samples = calibration_of(calibration=FORMS[form](), golden=FORMS[form]())
    np.testing.assert_array_equal(samples, X)
    np.testing.assert_array_equal(bundle.golden(bundle.manifest.signatures[0])[0]["image"], X[:32])


def test_a_dataset_without_end_calibrates(calibration_of):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).repeat()
    # Of 512 samples 32 are golden, and set no ranges.
    assert calibration_of(calibration=dataset)[1].shape == (480, 8, 8, 1)


def test_quantize_aware_equalize_and_sensitivity_take_datasets():
    layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers])
    for form in (FORMS["tf.data"], FORMS["generator"]):
        expected, actual = quantize_aware(model, calibration=X), quantize_aware(model, calibration=form())
        np.testing.assert_array_equal(expected(X[:8]), actual(X[:8]))
        np.testing.assert_array_equal(equalize(model, X).get_weights()[0], equalize(model, form()).get_weights()[0])
    results = sensitivity(model, FORMS["tf.data"](), samples=50)
    assert results == sensitivity(model, X[:50])


def test_verify_takes_datasets_and_lists():
    expected = kn.verify(TESTDATA, X, Y)
    for form in (FORMS["tf.data"], FORMS["generator"]):
        report = kn.verify(TESTDATA, form())
        assert (report.accuracy, report.accuracy_samples) == (expected.accuracy, 100)
    with pytest.raises(ValueError, match="`y` must be None for a dataset `x`"):
        kn.verify(TESTDATA, FORMS["tf.data"](), Y)
    assert kn.verify(TESTDATA, FORMS["list of samples"]()).to_dict() == kn.verify(TESTDATA, X).to_dict()


def test_a_list_of_inputs_is_in_the_order_of_the_model(tmp_path):
    late, early = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    model = keras.Model([late, early], keras.layers.Dense(2)(keras.ops.subtract(late, early)))
    x = [np.random.default_rng(seed).normal(size=(64, 4)).astype("float32") for seed in (0, 1)]
    y = model.predict(x, verbose=0).argmax(-1)
    bundle = kn.convert(model, tmp_path / "bundle", "float32", golden=x)
    assert kn.verify(bundle, x, y).accuracy == 1.0
    assert kn.verify(bundle, dict(zip(("alpha", "zeta"), reversed(x), strict=True)), y).accuracy == 1.0
    # The other order is another question: this shows that the test can fail.
    assert kn.verify(bundle, x[::-1], y).accuracy < 0.5


MASKING = {
    "embedding": lambda: [keras.Input((8,), dtype="int32"), keras.layers.Embedding(50, 8, mask_zero=True)],
    "masking": lambda: [keras.Input((8, 1)), keras.layers.Masking(0.0)],
}


@pytest.mark.parametrize("name", MASKING)
@pytest.mark.parametrize("argument", ["golden", "calibration"])
def test_a_sample_of_padding_is_named(name, argument, tmp_path):
    model = keras.Sequential([*MASKING[name](), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])
    x = np.random.default_rng(0).integers(1, 50, (64, *model.input_shape[1:]))
    x[63] = 0
    message = (
        rf"Received: NaN or infinity for 1 of \d+ of them, sample 63 of `{argument}`; the others are finite. A sample "
        "whose steps are all masked"
    )
    with pytest.raises(kn.errors.ConversionError, match=message):
        kn.convert(model, tmp_path / "bundle", "static_int8", **{"calibration": x, argument: x})


def test_weights_that_are_not_finite_are_no_fault_of_a_sample():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, kernel_initializer="ones")])
    model.layers[0].bias.assign([np.nan, 0.0])
    graph = deploy_graph(model)
    inputs = choose_golden_inputs(graph, None, None)
    with pytest.raises(kn.errors.ConversionError, match="Check its weights"):
        check_finite(model, graph.run(inputs.arrays).outputs, inputs)
