"""Conversion: the file is what was asked for, and its bundle proves it. Each conversion here starts TensorFlow once."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import OpResolverType

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert.reader import read_tflite
from keras_notes._litert.runtime import KERNELS, quantize
from tests.support.bundles import GOLDEN_INPUT, LABELS, MODEL_FILE, bars, interpreter

EDGES = ("float32", "uint8", "int8")
CONVERSIONS = [("float32", "float32"), *(("static_int8", edges) for edges in EDGES)]
# The same float32 arithmetic in another order, on logits of up to 20: a few units in the last place.
FLOAT32_ERROR = 1e-5
# Of one quantization after training, for a net of two layers.
INTEGER_ERROR_LSB = 2.0


@pytest.fixture(params=CONVERSIONS, ids="-".join)
def bundle(request, converted):
    """Every recipe with every edge in turn."""
    return converted(*request.param)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_conversion_is_equal_to_the_trained_model(bundle, kernels):
    (output,) = kn.verify(bundle, kernels=kernels).outputs
    assert output.top1_agreement == 1.0
    if bundle.manifest.recipe == "float32":
        assert output.max_error <= FLOAT32_ERROR
    else:
        assert output.max_error_lsb <= INTEGER_ERROR_LSB


def test_golden_outputs_are_what_the_trained_model_gives(bundle, net):
    inputs, outputs = bundle.golden(bundle.manifest.signatures[0])
    np.testing.assert_array_equal(inputs["image"], bars(200, seed=1)[0][:32])
    np.testing.assert_allclose(outputs["output"], net.predict(inputs["image"], verbose=0), rtol=1e-5, atol=1e-6)
    assert (bundle.directory / GOLDEN_INPUT).read_bytes() == inputs["image"].astype("<f4").tobytes()


def test_the_edges_of_the_file_are_as_asked(bundle):
    run = interpreter(bundle.model_path)
    (image,), (output,) = run.get_input_details(), run.get_output_details()
    assert image["dtype"] == output["dtype"] == np.dtype(bundle.manifest.edges)
    assert image["shape"].tolist() == image["shape_signature"].tolist() == [1, 8, 8, 1]
    assert output["shape"].tolist() == output["shape_signature"].tolist() == [1, 4]


def test_the_manifest_says_what_the_interpreter_says(bundle):
    run = interpreter(bundle.model_path).get_signature_runner("serving_default")
    (signature,) = bundle.manifest.signatures
    for entry, details in (
        (signature.inputs[0], run.get_input_details()["image"]),
        (signature.outputs[0], run.get_output_details()["output"]),
    ):
        assert np.dtype(entry.dtype) == details["dtype"]
        assert entry.shape == tuple(details["shape"])
        if bundle.manifest.edges != "float32":
            assert (entry.scale, entry.zero_point) == details["quantization"]


def test_a_float_edge_has_the_grid_of_the_integer_edge(converted):
    of_float, of_int8 = (converted("static_int8", edges).manifest.signatures[0] for edges in ("float32", "int8"))
    for ours, theirs in ((of_float.inputs, of_int8.inputs), (of_float.outputs, of_int8.outputs)):
        assert [(e.scale, e.zero_point) for e in ours] == [(e.scale, e.zero_point) for e in theirs]
    assert converted("float32").manifest.signatures[0].outputs[0].scale is None


def test_only_built_in_operators_are_used_and_integers_throughout(bundle):
    file = read_tflite(bundle.model_path)
    assert file.custom_operators() == file.resource_operators() == ()
    assert bool(file.float_operators()) == (bundle.manifest.recipe == "float32")


@pytest.mark.parametrize("resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF])
def test_the_three_edges_give_the_same_integers(converted, resolver):
    x = bars(50, seed=4)[0]
    integers = {}
    for edges in EDGES:
        bundle = converted("static_int8", edges)
        (image,), (output,) = bundle.manifest.signatures[0].inputs, bundle.manifest.signatures[0].outputs
        fed = x if edges == "float32" else quantize(x, image.scale, image.zero_point, edges)
        run = interpreter(bundle.model_path, resolver).get_signature_runner()
        actual = np.concatenate([run(image=sample[np.newaxis])["output"] for sample in fed])
        integers[edges] = quantize(actual, output.scale, output.zero_point, "int8") if edges == "float32" else actual
    assert len(np.unique(integers["int8"])) > 50
    np.testing.assert_array_equal(integers["float32"], integers["int8"])
    np.testing.assert_array_equal(integers["uint8"].astype("int16") - 128, integers["int8"])


def test_a_quantized_file_is_as_accurate_as_the_trained_model(converted, net):
    x, y = bars(300, seed=5)
    trained = (net.predict(x, verbose=0).argmax(-1) == y).mean()
    assert trained > 0.95
    # Three samples of 300: what rounding of close calls may cost.
    assert kn.verify(converted("static_int8"), x, y).accuracy >= trained - 0.01
    assert kn.verify(converted("float32"), x, y).accuracy == trained


def test_the_manifest_says_what_was_asked_for(bundle):
    manifest = bundle.manifest
    assert (manifest.name, manifest.labels, manifest.preprocessing, manifest.metrics) == ("bars", LABELS, None, {})
    assert set(manifest.versions) == {"ai-edge-litert", "ai-edge-quantizer", "keras", "keras-notes", "tensorflow"}
    assert manifest.signatures[0].golden_samples == 32
    assert bundle.model_bytes == len((bundle.directory / MODEL_FILE).read_bytes())


def _two_in_two_out(form):
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    outputs = [keras.layers.Dense(2, name="first")(joined), keras.layers.Dense(5, name="second")(joined)]
    if form == "list":
        return keras.Model([right, left], outputs)
    return keras.Model({"left": left, "right": right}, dict(zip(("first", "second"), outputs, strict=True)))


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_inputs_and_outputs_convert(tmp_path, form):
    model, rng = _two_in_two_out(form), np.random.default_rng(0)
    samples = {"left": rng.normal(size=(9, 3)), "right": rng.normal(size=(9, 4))}
    golden = samples if form == "dict" else [samples["right"], samples["left"]]
    bundle = kn.convert(model, tmp_path / "bundle", "float32", golden=golden)
    assert [output.name for output in kn.verify(bundle).outputs] == ["first", "second"]
    inputs, outputs = bundle.golden(bundle.manifest.signatures[0])
    for name, values in samples.items():
        np.testing.assert_array_equal(inputs[name], values.astype("float32"))
    expected = keras.tree.flatten(model.predict(golden, verbose=0))
    for name, values in zip(("first", "second"), expected, strict=True):
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-6)


def _long_recurrent():
    layers = [keras.Input((50, 3)), keras.layers.LSTM(4, name="cell"), keras.layers.Dense(2, name="head")]
    return keras.Sequential(layers, name="rolled")


def test_a_loop_is_refused_in_static_int8_with_its_layer_and_the_remedy(tmp_path):
    # tensorflow/tensorflow#101050: the converter's own calibration ends its process there.
    calibration = np.random.default_rng(0).normal(size=(20, 50, 3))
    with pytest.raises(errors.ConversionError, match=r"A loop must not compute .*'layers': \{'cell': 'dynamic_int8'\}"):
        kn.convert(_long_recurrent(), tmp_path / "bundle", "static_int8", calibration=calibration)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("recipe", "weights"), [("dynamic_int8", "int8"), ("float32", "float32")])
def test_a_loop_beside_integers_has_the_recipe_of_its_layer(recipe, weights, tmp_path):
    rolled = _long_recurrent()
    model = keras.Sequential([keras.Input((52, 3)), keras.layers.Conv1D(3, 3, activation="relu"), *rolled.layers])
    calibration = np.random.default_rng(0).normal(size=(20, 52, 3))
    recipes = {"default": "static_int8", "layers": {"cell": recipe}}
    bundle = kn.convert(model, tmp_path / "bundle", recipes, calibration=calibration)
    assert all("cell" in island for island in kn.verify(bundle).float_islands)
    graph, *bodies = read_tflite(bundle.directory / "model.tflite").graphs
    assert graph.tensors[graph.operators[1].outputs[0]].dtype == "int8"
    products = [
        (body, operator) for body in bodies for operator in body.operators if operator.name == "FULLY_CONNECTED"
    ]
    assert {body.tensors[operator.inputs[1]].dtype for body, operator in products} == {weights}


class Erfinv(keras.layers.Layer):
    """A layer whose operator LiteRT has only as TensorFlow's "Flex" one."""

    def call(self, x):
        return keras.ops.erfinv(keras.ops.tanh(x))


def test_an_operator_that_litert_does_not_have_is_named(tmp_path):
    model = keras.Sequential([keras.Input((3,)), Erfinv()], name="inverse")
    with pytest.raises(errors.ConversionError, match=r"(?s)'inverse' .*'float32': .*Erfinv"):
        kn.convert(model, tmp_path / "bundle", "float32")
    assert list(tmp_path.iterdir()) == []


class Sums(keras.layers.Layer):
    """A layer whose operator LiteRT has in floating point only."""

    def call(self, x):
        return keras.ops.cumsum(x, axis=1)


def test_a_layer_that_stays_in_floats_is_refused_unless_declared(tmp_path):
    layers = [keras.Input((6,)), keras.layers.Dense(5), Sums(name="wave"), keras.layers.Dense(2)]
    model = keras.Sequential(layers, name="waves")
    x = np.random.default_rng(0).normal(size=(50, 6))
    with pytest.raises(
        errors.ConversionError,
        match=r"'waves' .*throughout\. Received: CUMSUM wave/cumsum/Cumsum .*'wave/cumsum': 'float32'",
    ):
        kn.convert(model, tmp_path / "bundle", "static_int8", calibration=x)
    assert list(tmp_path.iterdir()) == []
    recipe = {"default": "static_int8", "layers": {"wave": "float32"}}
    bundle = kn.convert(model, tmp_path / "bundle", recipe, calibration=x)
    assert kn.verify(bundle).float_islands == ("CUMSUM wave/cumsum/Cumsum",)
    assert bundle.manifest.exceptions == {"wave": "float32"}


@pytest.mark.parametrize("recipe", ["dynamic_int8", "int16x8", "weight_int4"])
def test_entry_points_of_equal_graphs_share_a_table_and_a_reversed_sequence(tmp_path, recipe):
    keras.utils.set_random_seed(0)
    ids = keras.Input((8,), dtype="int32", name="ids")
    table = keras.layers.Embedding(40, 16, name="table")
    both_ways = keras.layers.Bidirectional(keras.layers.GRU(6, unroll=True), name="both_ways")
    states = both_ways(table(ids))
    first, second = (keras.Model(ids, keras.layers.Dense(size)(states), name=f"of_{size}") for size in (3, 4))
    samples = {"ids": np.random.default_rng(0).integers(0, 40, (64, 8)).astype("int32")}
    calibration = {"serving_default": samples, "second": samples} if recipe == "int16x8" else None
    bundle = kn.convert(first, tmp_path / "b", recipe, signatures={"second": second}, calibration=calibration)
    assert kn.verify(bundle).ok
