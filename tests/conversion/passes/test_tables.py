"""Tables of embeddings are as small in the file as their recipe says, and give the rows that they hold."""

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes._litert.reader import describe_model
from keras_notes.bundle import write_bundle
from keras_notes.compression import quantize_aware
from keras_notes.conversion import _pipeline
from keras_notes.conversion._bundle_builder import BundleBuilder
from keras_notes.conversion._recipes import parse_recipe
from keras_notes.conversion.passes._embedding_lookups import lookup_embeddings
from keras_notes.conversion.passes._model_file import ModelFile
from keras_notes.conversion.passes._shrink_tables import shrink_tables

WORDS, WIDTH = 1000, 32
IDS = np.random.default_rng(0).integers(1, WORDS, (64, 12)).astype("int32")
# Bytes of a number: a scale for each row takes 12 bytes of a row of 4 bits.
BYTES = {"float16": 2.0, "dynamic_int8": 1.0, "weight_int4": 0.5 + 12 / WIDTH, "static_int8": 1.0, "int16x8": 1.0}


def text_model(**options):
    layers = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1, activation="sigmoid")]
    uniform = keras.initializers.RandomUniform(-4.0, 4.0, seed=0)
    embedding = keras.layers.Embedding(WORDS, WIDTH, embeddings_initializer=uniform, **options)
    return keras.Sequential([keras.Input((12,), dtype="int32"), embedding, *layers])


def tied_model():
    """A table whose rows are looked up and multiplied by, and are of very unlike size."""
    ids = keras.Input((12,), dtype="int32")
    embedding = keras.layers.Embedding(WORDS, WIDTH)
    rows = keras.layers.Dense(WIDTH, activation="tanh")(embedding(ids))
    model = keras.Model(ids, keras.ops.matmul(rows, keras.ops.transpose(embedding.embeddings)))
    embedding.embeddings.assign(np.array(embedding.embeddings) * np.geomspace(1, 64, WORDS)[:, None])
    return model


def wide_model():
    """A table of three dimensions, with ids of 64 bits, one a sample, of any number of samples."""
    ids = keras.Input((), dtype="int64")
    table = np.random.default_rng(0).normal(size=(WORDS, 4, 8)).astype("float32")
    return keras.Model(ids, keras.layers.Dense(2)(keras.ops.take(table, ids, axis=0)))


def build(model, recipes, directory, **options):
    """Returns the bundle of each recipe."""
    options = {"calibration": IDS, **options}
    builder = BundleBuilder(model, **options)
    return {
        recipe: write_bundle(directory / recipe, *builder.build(parse_recipe(recipe), "float32")) for recipe in recipes
    }


def operators_of(bundle):
    return describe_model(ModelFile(bundle.model_path.read_bytes()).model).operator_counts()


@pytest.fixture(scope="module")
def text_bundles(tmp_path_factory):
    return build(text_model(), ("float32", *BYTES), tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("recipe", BYTES)
def test_a_text_model_shrinks_by_its_recipe(text_bundles, recipe):
    bundle, numbers = text_bundles[recipe], WORDS * WIDTH
    rest = text_bundles["float32"].model_bytes - 4 * numbers
    # The operators around the table take up to 1,500 bytes.
    assert bundle.model_bytes <= BYTES[recipe] * numbers + rest + 1500
    for kernels in ("xnnpack", "builtin", "reference"):
        assert kn.verify(bundle, kernels=kernels).ok
    float_outputs = text_bundles["float32"].golden(bundle.manifest.signatures[0])[1]["output"]
    # A number is rounded to 1/127 (4 bits: 1/7) of the largest; the mean of 12 words and
    # the product with weights as coarse keep the share. An output in integers has steps of 1/256.
    steps = 2 / 256 if recipe in ("static_int8", "int16x8") else 0.0
    limit = (0.15 if recipe == "weight_int4" else 0.02) * np.ptp(float_outputs) + steps
    assert kn.verify(bundle).outputs[0].max_error <= limit < 0.3 * np.ptp(float_outputs)


def test_a_table_that_is_used_twice_is_stored_once(tmp_path):
    bundles = build(tied_model(), ("float32", "dynamic_int8", "weight_int4"), tmp_path, batch_size=None)
    for recipe, size in (("dynamic_int8", 1), ("weight_int4", 0.5)):
        # The table, with 12 bytes for the scale of each row at either use, and what surrounds it.
        limit = WORDS * (WIDTH * size + 2 * 12) + 8000
        assert bundles[recipe].model_bytes <= limit < bundles["float32"].model_bytes / 2
        assert operators_of(bundles[recipe])["EMBEDDING_LOOKUP"] == 1
        assert kn.verify(bundles[recipe]).ok


def test_tables_of_more_dimensions_and_ids_of_64_bits_shrink(tmp_path):
    options = {"calibration": IDS[:, 0].astype("int64"), "batch_size": None}
    bundles = build(wide_model(), ("float32", "dynamic_int8"), tmp_path, **options)
    assert bundles["dynamic_int8"].model_bytes < 0.35 * bundles["float32"].model_bytes
    assert kn.verify(bundles["dynamic_int8"]).ok


@pytest.mark.parametrize("recipe", ["weight_int4", "int16x8", "int8"])
def test_a_quantization_aware_table_is_in_the_file_as_it_was_trained(recipe, tmp_path):
    model = quantize_aware(text_model(), recipe=recipe, calibration=IDS)
    convert_recipe = "static_int8" if recipe == "int8" else recipe
    bundle = kn.convert(model, tmp_path / "bundle", convert_recipe, golden=IDS[:32])
    size = 0.5 + 12 / WIDTH if recipe == "weight_int4" else 1.0
    assert bundle.model_bytes <= WORDS * WIDTH * size + 6000
    output = kn.verify(bundle).outputs[0]
    # With 4 bits, the product takes its inputs in 8 bits, in the range of each sample.
    limit = 1 / 127 if recipe == "weight_int4" else 1e-4
    assert output.max_error_lsb == 0 if recipe == "int8" else output.max_error < limit


def test_a_file_without_tables_and_a_second_run_change_nothing(text_bundles, testdata):
    tables = ModelFile(text_bundles["float32"].model_path.read_bytes())
    assert not tables.run_passes([lambda model: lookup_embeddings(model, lambda name: False)])
    float_model = tables.copy().model
    assert tables.run_passes([lambda model: lookup_embeddings(model, lambda name: True)])
    assert not tables.run_passes([lambda model: lookup_embeddings(model, lambda name: True)])
    assert not tables.run_passes([lambda model: shrink_tables(model, float_model)])
    small = ModelFile(text_bundles["int16x8"].model_path.read_bytes())
    assert not small.run_passes([lambda model: shrink_tables(model, float_model)])
    other = ModelFile((testdata / "model.tflite").read_bytes())
    assert not other.run_passes([lambda model: lookup_embeddings(model, lambda name: True)])
    assert not other.run_passes([lambda model: shrink_tables(model, float_model)])


def test_a_table_that_stays_in_floats_fails_the_audit(monkeypatch, tmp_path):
    monkeypatch.setattr(_pipeline, "lookup_embeddings", lambda model, is_lookup: False)
    with pytest.raises(
        kn.errors.ConversionError, match=r"weights in the type of the recipe\. Received: GATHER embedding"
    ):
        build(text_model(name="embedding"), ["dynamic_int8"], tmp_path)
