"""A compressed model looks like its network, and its files stay as they were."""

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.compression import ConstantSparsity, PolynomialSparsity, cluster, prune, quantize_aware, strip

X = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")


def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    inner = keras.Sequential([keras.layers.Conv2D(4, 3, name="conv"), keras.layers.ReLU()], name="block")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv2d")(inner(inputs))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x), name="net")


COMPRESSED = {
    "quantized": lambda: quantize_aware(net(), calibration=X),
    "pruned": lambda: prune(net(), 0.5),
    "all": lambda: quantize_aware(cluster(prune(net(), 0.5), 8), calibration=X),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_it_has_the_layers_and_shapes_of_its_network(name, capsys):
    model, plain = COMPRESSED[name](), net()
    assert [layer.name for layer in model.layers] == [layer.name for layer in plain.layers]
    assert model.get_layer("conv2d").kernel.shape == (3, 3, 4, 4)
    assert model.get_layer(index=1).name == "block"
    assert (model.input_shape, model.output_shape) == (plain.input_shape, plain.output_shape)
    assert [tensor.shape for tensor in model.inputs] == [tensor.shape for tensor in plain.inputs]
    model.summary(line_length=100)
    printed = capsys.readouterr().out
    assert all(layer.name in printed for layer in plain.layers)
    with pytest.raises(ValueError, match="No such layer: other"):
        model.get_layer("other")


def test_several_inputs_have_a_list_of_shapes():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    model = prune(keras.Model([a, b], [keras.layers.Dense(2)(joined), keras.layers.Dense(5)(joined)]), 0.5)
    assert model.input_shape == [(None, 4), (None, 3)]
    assert model.output_shape == [(None, 2), (None, 5)]


@pytest.mark.parametrize("name", COMPRESSED)
def test_its_files_hold_its_weights_and_it_looks_the_same_after(name, tmp_path):
    model = COMPRESSED[name]()
    expected = model.predict(X[:8], verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    other = COMPRESSED[name]()
    other.set_weights([np.zeros_like(weights) for weights in other.get_weights()])
    other.load_weights(tmp_path / "model.weights.h5")
    for copy in (model, loaded, other):
        np.testing.assert_array_equal(copy.predict(X[:8], verbose=0), expected)
        assert [layer.name for layer in copy.layers] == [layer.name for layer in net().layers]


@pytest.mark.parametrize(("name", "recipe"), [("quantized", ", 'static_int8'"), ("pruned", "")])
def test_export_says_what_to_do(name, recipe, tmp_path):
    message = rf"`keras_notes\.convert\(model, directory{recipe}\)`, or .*`keras_notes\.compression\.strip\(model\)"
    with pytest.raises(ValueError, match=message):
        COMPRESSED[name]().export(tmp_path / "exported")
    strip(COMPRESSED[name]()).export(tmp_path / "exported", verbose=False)


def test_a_bundle_prints_in_a_line():
    bundle = kn.bundle.open_bundle("tflite/testdata/bars_static_int8")
    assert repr(bundle) == (
        "Bundle('tflite/testdata/bars_static_int8', name='bars', recipe='static_int8', model_bytes=3999)"
    )


def test_static_int8_is_int8():
    by_name = [quantize_aware(net(), recipe=recipe, calibration=X) for recipe in ("int8", "static_int8")]
    assert by_name[0].scheme == by_name[1].scheme
    assert by_name[1].scheme.recipe == "int8"


def computing_integers(model):
    return {"/".join(step.path) for step in model.quantization.steps if step.computes_integers}


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        (["conv2d"], [], {"conv2d"}),
        (["block"], [], {"block/conv", "block/re_lu"}),
        (["block/conv", "head"], [], {"block/conv", "head"}),
        (["conv*", "head"], ["conv2d"], {"block/conv", "head"}),
    ],
)
def test_only_the_layers_of_only_compute_in_integers(only, skip, expected, tmp_path):
    model = quantize_aware(net(), calibration=X, only=only, skip=skip)
    steps = {path.rstrip("_0123456789") for path in computing_integers(model)}
    assert steps == expected
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert computing_integers(loaded) == computing_integers(model)
    np.testing.assert_array_equal(loaded.predict(X[:8], verbose=0), model.predict(X[:8], verbose=0))


def test_only_must_name_layers():
    with pytest.raises(ValueError, match=r"`only` must name layers of the model: .*Received: only='dense'"):
        quantize_aware(net(), calibration=X, only=["dense"])
    with pytest.raises(TypeError, match="`only` must be a sequence of patterns"):
        quantize_aware(net(), calibration=X, only="head")


def test_a_model_with_only_some_layers_in_integers_converts(tmp_path):
    model = quantize_aware(net(), calibration=X, only=["block/conv", "head"])
    bundle = kn.convert(model, tmp_path / "bundle", "int8", calibration=X)
    assert bundle.manifest.exceptions == {"*": "float32", "block/conv": "static_int8", "head": "static_int8"}
    report = kn.verify(bundle)
    assert report.ok
    assert any("conv2d" in island for island in report.float_islands)
    assert not any("block/conv/" in island or "head" in island for island in report.float_islands)


def sparsity_of(model):
    kernels = [weights for weights in strip(model).get_weights() if weights.ndim > 1]
    return [round(float((kernel == 0).mean()), 3) for kernel in kernels]


def test_schedules_by_layer_prune_each_layer_by_its_own():
    schedules = {
        "conv*": 0.5,
        "conv2d": ConstantSparsity(0.75),
        "head": PolynomialSparsity(0.25, 0.5, begin_step=0, end_step=2),
    }
    model = prune(net(), schedules)
    assert sparsity_of(model) == [0.5, 0.75, 0.25]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, np.zeros(64), batch_size=8, epochs=1, verbose=0)
    assert sparsity_of(model) == [0.5, 0.75, 0.5]
    assert sparsity_of(prune(net(), {"head": 0.5})) == [0.0, 0.0, 0.5]
    assert sparsity_of(prune(net(), {"conv*": 0.5}, structure=(2, 4), skip=["block"])) == [0.0, 0.5, 0.0]
    ((block, conv2d, head),) = [sparsity_of(prune(net(), {"*": 0.5}, scope="global"))]
    assert len({block, conv2d, head}) > 1


def test_schedules_by_layer_must_name_layers():
    with pytest.raises(ValueError, match=r"`schedule` must name layers with kernels: block/conv.* schedule='dense'"):
        prune(net(), {"dense": 0.5})
    with pytest.raises(TypeError, match="`schedule` must be a dict of schedules by pattern"):
        prune(net(), {})
