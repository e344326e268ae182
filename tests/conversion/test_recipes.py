"""Every recipe gives a file that is what it says, near the model, and the same each time."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert.reader import read_tflite
from keras_notes.conversion._recipes import RECIPES, parse_recipe, widen_tolerance
from tests.support.bundles import bars, run_device

INTEGER = ("static_int8", "int16x8")
# As a share of the largest output; each recipe's own limit is wider (see _recipes.py).
ERRORS = {
    "float32": 1e-5,
    "float16": 2e-3,
    "dynamic_int8": 0.02,
    "static_int8": 0.03,
    "int16x8": 0.02,
    "weight_int4": 0.2,
}


@pytest.fixture(scope="module")
def by_recipe(net, tmp_path_factory):
    """The bundle of the trained net, by recipe."""
    x = bars(200, seed=1)[0]
    directory = tmp_path_factory.mktemp("recipes")
    return {
        recipe: kn.convert(net, directory / recipe, recipe, golden=x[:32], calibration=x if recipe in INTEGER else None)
        for recipe in RECIPES
    }


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_a_file_is_near_its_model(by_recipe, recipe, kernels):
    bundle = by_recipe[recipe]
    (output,) = kn.verify(bundle, kernels=kernels).outputs
    golden = bundle.golden(bundle.manifest.signatures[0])[1]["output"]
    assert output.max_error <= ERRORS[recipe] * np.abs(golden).max()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_runner_says_the_same(by_recipe, recipe):
    assert run_device(by_recipe[recipe].directory).returncode == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_have_the_type_of_the_recipe_however_few_they_are(by_recipe, recipe):
    file = read_tflite(by_recipe[recipe].model_path)
    expected = {"float32": {"float32"}, "float16": {"float16"}, "weight_int4": {"int4"}}.get(recipe, {"int8"})
    weights = [t for t in file.main.tensors if t.is_constant and len(t.shape) >= 2 and np.prod(t.shape) > 16]
    assert len(weights) == 2
    assert {tensor.dtype for tensor in weights} == expected
    assert all(np.prod(tensor.shape) < 1024 for tensor in weights)


def test_convolutions_have_a_scale_for_each_channel(by_recipe):
    for recipe in ("dynamic_int8", "static_int8", "int16x8", "weight_int4"):
        (weight,) = (
            t for t in read_tflite(by_recipe[recipe].model_path).main.tensors if t.is_constant and len(t.shape) == 4
        )
        assert weight.channels == weight.shape[0] == 8


def test_fewer_bits_are_fewer_bytes(by_recipe):
    sizes = {recipe: sum(t.bytes for t in read_tflite(b.model_path).main.tensors) for recipe, b in by_recipe.items()}
    assert sizes["float32"] > sizes["float16"] > sizes["dynamic_int8"] > sizes["weight_int4"]


def test_integer_recipes_have_no_floats_inside(by_recipe):
    for recipe in INTEGER:
        assert read_tflite(by_recipe[recipe].model_path).float_operators() == ()


def test_int8_computes_what_tensorflows_own_quantization_computes(by_recipe, net, tmp_path):
    tf = pytest.importorskip("tensorflow")
    x, _ = bars(200, seed=1)
    net.export(str(tmp_path / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([image[None]] for image in x)
    theirs = _scales(converter.convert())
    ours = _scales(by_recipe["static_int8"].model_path.read_bytes())
    np.testing.assert_allclose(sorted(ours), sorted(theirs), rtol=1e-6)


def _scales(tflite):
    """The scales of all int8 activations, each once."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    held = [buffer.data is not None for buffer in model.buffers]
    tensors = [t for t in model.subgraphs[0].tensors if t.type == schema.TensorType.INT8 and not held[t.buffer]]
    return {float(t.quantization.scale[0]) for t in tensors if len(t.quantization.scale) == 1}


@pytest.mark.parametrize("recipe", ["static_int8", "weight_int4"])
def test_two_conversions_give_the_same_bytes(by_recipe, net, tmp_path, recipe):
    x = bars(200, seed=1)[0]
    again = kn.convert(net, tmp_path / "again", recipe, golden=x[:32], calibration=x if recipe in INTEGER else None)
    first = by_recipe[recipe].directory
    for path in sorted(first.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again.directory / path.relative_to(first)).read_bytes()


def test_layers_may_have_other_recipes(net, tmp_path):
    x = bars(200, seed=1)[0]
    recipe = {"default": "static_int8", "layers": {"conv*": "float32"}}
    bundle = kn.convert(net, tmp_path / "bundle", recipe, calibration=x)
    file = read_tflite(bundle.model_path)
    types = {t.name.split("/")[0]: t.dtype for t in file.main.tensors if t.is_constant and len(t.shape) >= 2}
    assert (types[net.layers[0].name], types[net.layers[-1].name]) == ("float32", "int8")
    assert {island.split(" ")[0] for island in file.float_operators()} == {"CONV_2D"}
    assert kn.verify(bundle).ok


def test_a_pattern_that_matches_no_layer_is_an_error(net, tmp_path):
    recipe = {"default": "dynamic_int8", "layers": {"convolution": "float32"}}
    with pytest.raises(
        errors.ConversionError, match=r"must name layers of the model: conv2d.*Received: \['convolution'\]"
    ):
        kn.convert(net, tmp_path / "bundle", recipe)


def test_the_last_pattern_that_matches_counts_and_paths_reach_into_nested_models():
    plan = parse_recipe(
        {"default": "static_int8", "layers": {"block/*": "float32", "block/b": "float16", "c": "int16x8"}}
    )
    names = {
        "block/a/MatMul": "float32",
        "block/b/MatMul": "float16",
        "x/c/y/Relu": "int16x8",
        "bb/MatMul": "static_int8",
    }
    assert {name: plan.recipe_of(name).name for name in names} == names


def test_the_edges_of_int16_are_int16(net, tmp_path):
    bundle = kn.convert(net, tmp_path / "bundle", "int16x8", edges="int16", calibration=bars(100, seed=1)[0])
    (signature,) = bundle.manifest.signatures
    assert {entry.dtype for entry in (*signature.inputs, *signature.outputs)} == {"int16"}
    assert kn.verify(bundle).ok


def test_a_model_of_mixed_precision_has_edges_of_float32(tmp_path):
    layers = [
        keras.Input((4,), name="x"),
        keras.layers.Dense(8, dtype="mixed_float16"),
        keras.layers.Dense(3, dtype="float16"),
    ]
    model = keras.Sequential(layers)
    bundle = kn.convert(model, tmp_path / "bundle", "float32", golden=np.ones((4, 4)))
    assert bundle.manifest.signatures[0].outputs[0].dtype == "float32"
    assert kn.verify(bundle).ok
    assert [layer.compute_dtype for layer in model.layers] == ["float16", "float16"]


STATIC_INT8 = parse_recipe("static_int8").tolerance
STEP = 0.1


def wider(values):
    """The limits of an output of its own, in steps: root mean square, mean, largest; None for those of the recipe."""
    own = widen_tolerance(STATIC_INT8, np.float32(values), STEP)
    return own and (own.rms_error_lsb, own.mean_error_lsb, own.max_error_lsb)


def waves(samples, *sizes):
    """Values of a standard deviation of 1, whose mean is 0, in each channel."""
    return np.broadcast_to(np.tile([1.0, -1.0], samples // 2).reshape(-1, *[1] * len(sizes)), (samples, *sizes))


def test_limits_follow_what_an_output_varies_by():
    assert wider(0.5 * waves(32, 3)) is None, "a third of 5 steps is less than 2"
    assert wider(waves(32, 3)) == pytest.approx((10 / 3, 1.25, 60.0))
    assert wider(9 * waves(32, 3)) == pytest.approx((30.0, 1.75, 60.0)), "off by a constant of 2 LSB fails"


def test_what_is_the_same_in_all_samples_is_no_variation():
    assert wider(np.tile([0.0, 100.0, -100.0], (32, 1))) is None
    assert wider(waves(32, 3) + np.float32([0, 100, -100])) == wider(waves(32, 3))


def test_of_many_values_the_largest_may_be_half_a_grid_off():
    assert wider(0.5 * waves(40, 251)) == (2.0, 1.0, 128.0)
    assert wider(0.5 * waves(40, 250)) is None
    assert wider(waves(32)) == pytest.approx((10 / 3, 1.25, 60.0)), "an output of one number a sample"
