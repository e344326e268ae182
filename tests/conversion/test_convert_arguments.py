"""What `convert` refuses, and that a refusal or a failure leaves nothing behind. The converter itself does not run."""

import logging

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import errors
from keras_notes.bundle import _bundle, open_bundle
from keras_notes.conversion import _bundle_builder
from keras_notes.conversion._golden_inputs import choose_golden_inputs
from keras_notes.conversion._pipeline import ConversionPipeline, ConvertedFiles
from keras_notes.conversion.graph._deploy_graph import deploy_graph
from keras_notes.conversion.passes._model_file import ModelFile
from tests.support.bundles import LABELS, MODEL_FILE, TESTDATA, bars, contents, failing_after

X = bars(100, seed=1)[0]


def _with(values, *places):
    """A copy of X with other values at some places."""
    changed = X.copy()
    for place, value in zip(places, values, strict=True):
        changed[place] = value
    return changed


@pytest.fixture
def without_converter(monkeypatch):
    """`convert` with the file of another training of the same net in the place of the converter's."""

    def run(*_):
        return ConvertedFiles(ModelFile((TESTDATA / MODEL_FILE).read_bytes()), reference=None)

    monkeypatch.setattr(ConversionPipeline, "run", run)


@pytest.fixture
def must_not_convert(monkeypatch):
    """Lets the test fail if `convert` comes to the converter."""

    def run(*_):
        pytest.fail("The converter must not run.")

    monkeypatch.setattr(ConversionPipeline, "run", run)


@pytest.fixture
def refused(net, tmp_path, must_not_convert):
    """Calls `convert`, which must raise before it comes to the converter, and must leave nothing."""

    def call(error, message, model=net, **arguments):
        with pytest.raises(error, match=message):
            kn.convert(model, tmp_path / "bundle", **{"recipe": "static_int8", **arguments})
        assert list(tmp_path.iterdir()) == []

    return call


ARGUMENTS = {
    "an unknown recipe": (
        {"recipe": "int4", "calibration": X},
        r"`recipe` must be one of 'float32', .*'static_int8'.*\. Received: recipe='int4'",
    ),
    "auto for a layer": (
        {"recipe": {"default": "auto", "layers": {"a": "auto"}}},
        r"`recipe\['layers'\]\['a'\]` must be one of .* Received: recipe\['layers'\]\['a'\]='auto'",
    ),
    "integer edges by auto without calibration": (
        {"recipe": "auto", "edges": "int8"},
        "`calibration` must hold typical inputs for a recipe with edges='int8'. Received: calibration=None",
    ),
    "a negative budget": (
        {"recipe": "auto", "accuracy_budget": -0.1},
        r"`accuracy_budget` must be >= 0\. Received: accuracy_budget=-0\.1",
    ),
    "another preference": (
        {"recipe": "auto", "prefer": "speed"},
        "`prefer` must be one of 'bytes', 'latency'. Received: prefer='speed'",
    ),
    "labels of no class for a recipe by name": (
        {"calibration": X, "validation_data": (X, [4] * 100)},
        r"`y` must hold class ids in \[0, 4\)\. Received: 4",
    ),
    "labels of classes that there are not": (
        {"recipe": "auto", "validation_data": (X, [4] * 100)},
        r"`y` must hold class ids in \[0, 4\)\. Received: 4",
    ),
    "fewer labels than samples": (
        {"recipe": "auto", "validation_data": (X, [0] * 99)},
        "`validation_data` must hold one class id a sample. Received: 99 for 100 samples",
    ),
    "validation inputs of another shape": (
        {"recipe": "auto", "validation_data": (X[:, :4], [0] * 100)},
        r"`validation_data` must have the shape \(samples, 8, 8, 1\)",
    ),
    "unknown edges": (
        {"edges": "int4", "calibration": X},
        r"`edges` must be one of 'float32', 'uint8', 'int8', 'int16'\. Received: edges='int4'",
    ),
    "integer edges of a float file": (
        {"recipe": "float32", "edges": "int8"},
        r"`edges` must be 'float32' for the recipe 'float32'\. Received: edges='int8'",
    ),
    "edges of another recipe": (
        {"edges": "int16", "calibration": X},
        r"`edges` must be 'float32' or 'uint8' or 'int8' for the recipe 'static_int8'\. Received: edges='int16'",
    ),
    "an unknown recipe of a layer": (
        {"recipe": {"default": "float32", "layers": {"a": "b"}}},
        r"`recipe\['layers'\]\['a'\]` must be one of .* Received: recipe\['layers'\]\['a'\]='b'",
    ),
    "another batch size": (
        {"batch_size": 8, "calibration": X},
        "`batch_size` must be 1, or None for any. Received: batch_size=8",
    ),
    "no calibration": ({}, "`calibration` must hold typical inputs .* Received: calibration=None. Give 250"),
    "calibration of another shape": (
        {"calibration": X[..., 0]},
        r"`calibration` must have the shape \(samples, 8, 8, 1\) .* Received: shape \(100, 8, 8\)",
    ),
    "one number as calibration": ({"calibration": 1.0}, r"`calibration` must have the shape .* shape \(\)"),
    "NaN in the calibration": (
        {"calibration": _with([np.nan, np.inf, -np.inf], (17, 0, 0, 0), (17, 1, 1, 0), (40, 2, 2, 0))},
        "`calibration` must be finite. Received: 3 NaN or infinite values .*'image', the first in sample 17. Clean",
    ),
    "empty calibration": ({"calibration": X[:0]}, r"`calibration` .* at least 1.* Received: \{'image': 0\}"),
    "calibration by another name": (
        {"calibration": {"photo": X}},
        r"`calibration` must hold one array for each of the inputs \['image'\].* Received: \['photo'\]",
    ),
    "golden inputs of another shape": (
        {"calibration": X, "golden": X[:, :4]},
        r"`golden` must have the shape \(samples, 8, 8, 1\)",
    ),
    "NaN in the golden inputs": ({"calibration": X, "golden": X * np.nan}, "`golden` must be finite"),
    "too few labels": ({"calibration": X, "labels": ["a"]}, "`labels` must hold one name a class. Received: 1 for 4"),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_wrong_argument_is_named(refused, arguments, message):
    refused(ValueError, message, **arguments)


def test_a_model_with_states_has_no_validation_data(refused):
    net = keras.Sequential([keras.Input(batch_shape=(1, 6, 4)), keras.layers.LSTM(3, stateful=True)], name="cell")
    series = np.zeros((8, 6, 4))
    arguments = {"recipe": "auto", "golden": series, "validation_data": (series, [0] * 8)}
    refused(
        ValueError, "`validation_data` must be None for a model with states, of which 'cell' has 2", net, **arguments
    )


@pytest.mark.parametrize("labels", ["abcd", [0, 1, 2, 3]])
def test_labels_that_are_no_strings_are_refused(refused, labels):
    refused(TypeError, "`labels` must be a sequence of strings", calibration=X, labels=labels)


def test_calibration_of_strings_is_refused(refused):
    refused(TypeError, "`calibration` must hold numbers. Received: dtype <U", calibration=X.astype(str))


def test_weights_that_are_nan_are_refused(refused, net):
    broken = keras.models.clone_model(net)
    broken.set_weights([weights * np.nan for weights in net.get_weights()])
    message = "'bars' must give finite outputs .* Received: NaN or infinity. Check its weights"
    refused(errors.ConversionError, message, broken, calibration=X)


def test_integer_inputs_need_golden_samples(refused):
    ids = keras.Input((4,), dtype="int32", name="ids")
    model = keras.Model(ids, keras.ops.one_hot(ids, 10))
    message = "`golden` must be given for a model with integer inputs, .* golden=None for the input 'ids'"
    refused(ValueError, message, model, recipe="float32")


def test_random_ids_are_in_the_vocabulary_of_the_embedding_that_takes_them():
    words, places = keras.Input((6,), dtype="int32", name="words"), keras.Input((6,), dtype="int64", name="places")
    inner = keras.Sequential([keras.Input((6,), dtype="int64"), keras.layers.Embedding(4, 8)])
    model = keras.Model([words, places], keras.layers.Embedding(500, 8)(words) + inner(places))
    golden = choose_golden_inputs(deploy_graph(model), None, None)
    assert 400 < golden.arrays["words"].max() < 500
    assert golden.arrays["words"].dtype == "int32"
    assert set(np.unique(golden.arrays["places"])) == {1, 2, 3}
    assert golden.arrays["places"].shape == (32, 6)
    again = choose_golden_inputs(deploy_graph(model), None, None)
    np.testing.assert_array_equal(golden.arrays["words"], again.arrays["words"])


@pytest.mark.parametrize("recipe", ["float32", "float16", "dynamic_int8", "weight_int4"])
def test_calibration_data_of_a_recipe_without_ranges_are_golden(
    recipe, net, tmp_path, without_converter, monkeypatch, caplog
):
    monkeypatch.setattr(_bundle_builder, "audit", lambda *_, **__: None)
    with caplog.at_level(logging.INFO, "keras_notes"):
        bundle = kn.convert(net, tmp_path / "bundle", recipe, calibration=X)
    assert f"`calibration` sets no ranges, because {recipe} has none" in caplog.text
    places = np.unique(np.linspace(0, 99, 32).round().astype(int))
    np.testing.assert_array_equal(bundle.golden(bundle.manifest.signatures[0])[0]["image"], X[places])


@pytest.mark.parametrize("recipe", ["int8", {"default": "int8", "layers": {"a": "int8"}}])
def test_int8_is_static_int8_in_the_manifest(recipe, net, tmp_path, without_converter):
    manifest = kn.convert(net, tmp_path / "bundle", recipe, calibration=X).manifest
    assert manifest.recipe == "static_int8"
    assert set(manifest.exceptions.values()) <= {"static_int8"}


def test_fractions_are_no_golden_samples_of_an_integer_input(refused):
    ids = keras.Input((4,), dtype="int32", name="ids")
    model = keras.Model(ids, keras.layers.Embedding(10, 3)(ids))
    message = "`golden` must hold integers of dtype int32 for the input 'ids'. Received: dtype float64 with fractions"
    refused(ValueError, message, model, recipe="float32", golden=np.full((2, 4), 0.5))


@pytest.mark.parametrize("name", ["an image", "self", "_x", "größe"])
def test_an_input_whose_name_cannot_be_kept_is_a_conversion_error(name, tmp_path):
    image = keras.Input((3,), name=name)
    with pytest.raises(errors.ConversionError, match=name):
        kn.convert(keras.Model(image, keras.layers.Dense(2)(image)), tmp_path / "bundle", "float32")


@pytest.mark.usefixtures("without_converter")
def test_golden_samples_are_32_evenly_spaced_ones_of_the_calibration(net, tmp_path):
    bundle = kn.convert(net, tmp_path / "bundle", calibration=X)
    golden = bundle.golden(bundle.manifest.signatures[0])[0]["image"]
    places = [int(np.flatnonzero((sample == X).all((1, 2, 3)))[0]) for sample in golden]
    assert (len(places), places[0], places[-1]) == (32, 0, 99)
    assert set(np.diff(places)) <= {3, 4}


@pytest.mark.usefixtures("without_converter")
def test_few_calibration_samples_are_each_golden_once(net, tmp_path):
    bundle = kn.convert(net, tmp_path / "bundle", calibration=X[:5])
    np.testing.assert_array_equal(bundle.golden(bundle.manifest.signatures[0])[0]["image"], X[:5])


@pytest.mark.usefixtures("without_converter")
def test_golden_samples_without_calibration_are_seeded(net, tmp_path):
    bundles = [kn.convert(net, tmp_path / name, "float32") for name in ("one", "two")]
    first, second = (contents(bundle.directory) for bundle in bundles)
    assert first == second
    samples = bundles[0].golden(bundles[0].manifest.signatures[0])[0]["image"]
    assert samples.shape == (32, 8, 8, 1)
    assert abs(samples.mean()) < 0.1
    assert abs(samples.std() - 1.0) < 0.1


@pytest.mark.usefixtures("must_not_convert")
def test_an_existing_directory_is_refused_at_once_and_left_as_it_is(net, testdata):
    before = contents(testdata)
    with pytest.raises(errors.BundleError, match="must not exist yet"):
        kn.convert(net, testdata, calibration=X)
    assert contents(testdata) == before


@pytest.mark.usefixtures("without_converter")
def test_overwrite_replaces_a_bundle(net, testdata):
    kn.convert(net, testdata, calibration=X, labels=LABELS, preprocessing="none", overwrite=True)
    assert open_bundle(testdata).manifest.preprocessing == "none"
    assert list(testdata.parent.iterdir()) == [testdata]


@pytest.mark.usefixtures("without_converter")
def test_a_full_disk_leaves_the_old_bundle(net, testdata, monkeypatch):
    before = contents(testdata)
    # The first file of the bundle is written, the second one is not.
    with failing_after(monkeypatch, _bundle, "write_synced", 1), pytest.raises(OSError, match="No space left"):
        kn.convert(net, testdata, calibration=X, overwrite=True)
    assert contents(testdata) == before
    assert list(testdata.parent.iterdir()) == [testdata]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_conversion_that_fails_leaves_the_old_bundle(net, testdata, monkeypatch, overwrite):
    def fail(*_):
        raise errors.ConversionError("no")

    monkeypatch.setattr(ConversionPipeline, "run", fail)
    before = contents(testdata)
    target = testdata if overwrite else testdata.parent / "new"
    with pytest.raises(errors.ConversionError, match="no"):
        kn.convert(net, target, calibration=X, overwrite=overwrite)
    assert contents(testdata) == before
    assert list(testdata.parent.iterdir()) == [testdata]


@pytest.mark.usefixtures("without_converter")
def test_a_model_is_not_changed_by_its_conversion(net, tmp_path):
    weights, names = net.get_weights(), [layer.name for layer in net.layers]
    kn.convert(net, tmp_path / "bundle", calibration=X)
    assert [layer.name for layer in net.layers] == names
    for before, after in zip(weights, net.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"words", "`tokenizer` must be a file of JSON"),
        (b"[]", "`tokenizer` must hold a model with a vocabulary"),
        (b'{"model": {"type": "BPE"}}', "`tokenizer` must hold a model with a vocabulary"),
    ],
)
def test_a_tokenizer_that_is_none_is_refused(net, tmp_path, must_not_convert, content, message):
    (tmp_path / "words.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        kn.convert(net, tmp_path / "bundle", calibration=X, tokenizer=tmp_path / "words.json")
    assert not (tmp_path / "bundle").exists()


def test_a_tokenizer_is_kept_as_it_is(net, tmp_path, without_converter):
    content = b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}}}'
    (tmp_path / "words.json").write_bytes(content)
    bundle = kn.convert(net, tmp_path / "bundle", calibration=X, tokenizer=str(tmp_path / "words.json"))
    assert (bundle.directory / "tokenizer.json").read_bytes() == content
    assert bundle.manifest.files["tokenizer.json"].bytes == len(content)
