"""The file of a quantization-aware model: the very integers that the model computes."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.compression import cluster, prune, quantize_aware
from tests.compression.files import integer_weights

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8, 8, 2)).astype("float32")
Y = RNG.integers(0, 4, 256)


def residual_net() -> keras.Model:
    """Convolutions of each kind, a sum, a concatenation of branches on different grids, pads and pools."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(inputs)
    x = skipped = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="first_norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0, name="relu6")(layers.BatchNormalization(momentum=0.9, name="depthwise_norm")(x))
    x = layers.Conv2D(8, 1, name="pointwise")(x)
    x = layers.Activation("relu", name="sum_relu")(layers.Add(name="sum")([x, skipped]))
    pooled = layers.MaxPooling2D(name="pool")(x)
    strided = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="strided")(x)
    x = layers.ZeroPadding2D(name="pad")(layers.Concatenate(name="both")([pooled, strided]))
    x = layers.Flatten(name="flatten")(layers.Conv2D(8, 3, activation="relu", name="last")(x))
    return keras.Model(inputs, layers.Dense(4, name="head")(layers.Dense(16, activation="relu", name="hidden")(x)))


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    model = quantize_aware(residual_net(), calibration=X)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory) -> kn.Bundle:
    return kn.convert(trained, tmp_path_factory.mktemp("trained") / "bundle", golden=X)


def test_no_output_differs_on_xnnpack_after_training(bundle):
    report = kn.verify(bundle)
    assert report.outputs[0].max_error_lsb < 0.01
    assert report.float_islands == ()


def test_compiled_predict_gives_the_same_integers(trained):
    eager, compiled = np.asarray(trained(X)), trained.predict(X, verbose=0)
    step = np.diff(np.unique(eager)).min()
    np.testing.assert_allclose(compiled, eager, atol=step / 100)


def test_file_carries_no_tensor_that_nothing_uses(bundle):
    (graph,) = read_tflite(bundle.directory / "model.tflite").graphs
    used = {index for operator in graph.operators for index in (*operator.inputs, *operator.outputs)}
    assert used == set(range(len(graph.tensors)))


def test_file_holds_what_was_trained(trained, bundle):
    file = read_tflite(bundle.directory / "model.tflite")
    operators = [operator.name for graph in file.graphs for operator in graph.operators]
    assert operators.count("CONV_2D") == 4
    assert operators.count("ADD") == 1
    assert "MUL" not in operators  # normalization is folded


def test_range_moved_by_a_hundredth_is_noticed(trained, tmp_path):
    """What would be wrong if the file had other grids than the model."""
    moved = keras.models.clone_model(trained)
    moved.set_weights(trained.get_weights())
    moved.quantization.ranges.limits.assign(moved.quantization.ranges.limits * 1.01)
    bundle = kn.convert(moved, tmp_path / "bundle", golden=X)
    step = bundle.manifest.signatures[0].outputs[0].scale
    differences = np.asarray(moved(X)) - np.asarray(trained(X))
    assert np.abs(differences).max() > 0.5 * (step or np.diff(np.unique(np.asarray(trained(X)))).min())


def image_net() -> keras.Model:
    """What the residual net does not have, of images."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = layers.BatchNormalization()(layers.Rescaling(0.5, 0.1)(inputs))
    x = layers.LeakyReLU()(layers.SeparableConv2D(6, 3, padding="same", bias_initializer="random_normal")(x))
    gate = layers.Conv2D(6, 1, activation="sigmoid")(x)
    x = layers.Multiply()([gate, layers.Conv2D(6, 1, activation="tanh")(x)])
    up = layers.UpSampling2D()(layers.AveragePooling2D(2)(x))
    smooth = layers.UpSampling2D(interpolation="bilinear")(layers.MaxPooling2D()(x))
    x = layers.Subtract()([layers.Maximum()([up, smooth]), layers.Minimum()([up, x])])
    x = layers.Cropping2D(1)(layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="silu")(x))
    x = layers.Average()([x, layers.PReLU(alpha_initializer="random_normal", shared_axes=[1, 2])(x)])
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)])
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


def sequence_net() -> keras.Model:
    """What there is for sequences."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 6))
    x = layers.Conv1D(8, 3, padding="causal", activation="gelu", bias_initializer="random_normal")(inputs)
    x = layers.AveragePooling1D(2)(layers.DepthwiseConv1D(3, padding="same")(x))
    x = layers.LayerNormalization(beta_initializer="random_normal")(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 16)(x, x, use_causal_mask=True)])
    x = layers.RMSNormalization()(layers.EinsumDense("abc,cd->abd", (4, 8), activation="hard_silu")(x))
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True, bias_initializer="random_normal"))(x)
    x = layers.SimpleRNN(6)(layers.Permute((2, 1))(layers.LSTM(6, return_sequences=True)(x)))
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.mark.parametrize("build", [image_net, sequence_net])
def test_kernels_of_all_other_layers_are_mirrored(build, tmp_path):
    net = build()
    x = RNG.normal(size=(128, *net.input_shape[1:])).astype("float32")
    report = kn.verify(kn.convert(quantize_aware(net, calibration=x), tmp_path / "bundle", golden=x))
    assert report.float_islands == ()
    # A rounding on a tie, early in so deep a chain, shows as a step or two in some outputs.
    assert report.outputs[0].max_error_lsb < 2.01
    assert report.outputs[0].rms_error_lsb < 0.2


@pytest.mark.parametrize("read", [layers.Rescaling(1 / 255), lambda x: keras.ops.cast(x, "float32"), lambda x: x])
def test_pixels_reach_the_integers_as_they_are(read, tmp_path):
    """A grid of step 1 is known before any calibration, here with pixels up to 199 only."""
    pixels = RNG.integers(0, 200, (64, 4, 4, 1)).astype("uint8")
    inputs = keras.Input((4, 4, 1), dtype="uint8")
    model = quantize_aware(keras.Model(inputs, layers.Dense(4)(layers.Flatten()(read(inputs)))), calibration=pixels)
    # Small enough for pixels that nothing scales: a file of a model that diverged is refused.
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    model.fit(pixels, np.zeros((64, 4)), verbose=0)
    bundle = kn.convert(model, tmp_path / "bundle", golden=pixels)
    report = kn.verify(bundle)
    assert report.float_islands == ()
    assert report.outputs[0].max_error_lsb < 0.01
    graph = read_tflite(bundle.model_path).main
    first = next(operator for operator in graph.operators if operator.name == "QUANTIZE")
    grid = graph.tensors[first.outputs[0]]
    assert (grid.scale, grid.zero_point) == (1.0, -128)


def test_channel_that_normalization_switches_off_stays_in_integers(tmp_path):
    model = residual_net()
    norm = model.get_layer("first_norm")
    gamma, beta = np.ones(8, "float32"), np.full(8, 0.3, "float32")
    gamma[2] = 0.0
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    report = kn.verify(kn.convert(quantize_aware(model, calibration=X), tmp_path / "bundle", golden=X[:64]))
    assert report.float_islands == ()
    assert report.outputs[0].max_error_lsb < 1.01


@pytest.mark.parametrize(("recipe", "trained_for"), [("int16x8", "int16x8"), ("weight_int4", "weight_int4")])
def test_other_recipes_convert(recipe, trained_for, tmp_path):
    model = quantize_aware(residual_net(), calibration=X, recipe=recipe)
    report = kn.verify(kn.convert(model, tmp_path / "bundle", trained_for, golden=X[:64]))
    largest = np.abs(np.asarray(model(X[:64]))).max()
    # int16: a few of 65,536 steps. 4 bits: the device takes the ranges of activations from each sample, in int8.
    assert report.outputs[0].max_error / largest < {"int16x8": 1e-3, "weight_int4": 0.1}[recipe]


def test_skipped_layers_are_the_declared_islands(tmp_path):
    model = quantize_aware(residual_net(), calibration=X, skip=["pointwise", "hid*"])
    bundle = kn.convert(model, tmp_path / "bundle", golden=X[:64])
    assert bundle.manifest.exceptions == {"pointwise": "float32", "hid*": "float32"}
    report = kn.verify(bundle)
    assert report.outputs[0].max_error_lsb < 1.01


def test_no_output_of_volumes_differs_on_xnnpack(tmp_path):
    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(64, 5, 7, 7, 2)).astype("float32")
    inputs = keras.Input(x.shape[1:])
    y = layers.Conv3D(6, (2, 3, 3), padding="same", use_bias=False)(inputs)
    y = layers.AveragePooling3D(2)(layers.BatchNormalization()(y))
    y = layers.MaxPooling3D(2)(layers.Conv3D(4, (1, 2, 2), dilation_rate=(1, 2, 2), padding="same")(y))
    aware = quantize_aware(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(y))), calibration=x)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=x)
    report = kn.verify(bundle)
    assert report.outputs[0].max_error_lsb < 0.01
    assert report.float_islands == ()


def sums_net() -> keras.Model:
    """Constants that become biases, and constants that stay sums, of products and of convolutions."""
    keras.utils.set_random_seed(0)
    vector = np.array([0.53, -1.02, 0.21, 1.97], "float32")  # none in the middle between two steps of its grid
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, use_bias=False)(inputs) + vector
    x = layers.Conv2D(4, 3, use_bias=False)(x) + vector[:1]
    x = layers.Conv2D(4, 3, use_bias=False)(x) - vector.reshape(1, 1, 4)
    x = layers.Flatten()(layers.Conv2D(4, 1, use_bias=False)(x) + vector.reshape(1, 1, 4))
    x = layers.Dense(4, use_bias=False)(x) + np.array([0.5], "float32")
    x = layers.EinsumDense("ab,bcd->acd", (2, 4))(x) + vector
    return keras.Model(inputs, layers.EinsumDense("abc,cd->abd", (2, 4))(x) + vector)


def test_no_output_of_sums_with_constants_differs_on_xnnpack(tmp_path):
    aware = quantize_aware(sums_net(), calibration=X)
    aware.compile("sgd", "mse")
    aware.fit(X, np.zeros((len(X), 2, 4), "float32"), verbose=0)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=X)
    report = kn.verify(bundle)
    assert report.float_islands == ()
    # A hundredth of a step: float32 beside the integers.
    assert report.outputs[0].max_error_lsb < 0.01
    operators = [operator.name for operator in read_tflite(bundle.model_path).main.operators]
    # Of seven constants, two are biases.
    assert operators.count("ADD") + operators.count("SUB") == 5


def test_recurrent_layer_of_many_steps_is_a_loop_in_floating_point_if_it_is_skipped(tmp_path):
    x = RNG.normal(size=(64, 100, 3)).astype("float32")
    recurrent = layers.GRU(8, name="recurrent")
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.Conv1D(6, 3, name="conv"), recurrent, layers.Dense(2)])
    with pytest.raises(ValueError, match=r"at most 64 steps, .* Received: 'recurrent' with 98 .*`skip`"):
        quantize_aware(model, calibration=x)
    bundle = kn.convert(quantize_aware(model, calibration=x, skip=["recurrent"]), tmp_path / "bundle", golden=x)
    report = kn.verify(bundle)
    assert report.outputs[0].max_error_lsb < 1.01
    assert any("WHILE" in island for island in report.float_islands)
    assert all("recurrent" in island for island in report.float_islands)


def test_convert_wants_the_recipe_that_was_trained(trained, tmp_path):
    with pytest.raises(ValueError, match=r"`recipe` must be the one .* trained for, 'static_int8'.*recipe='int16x8'"):
        kn.convert(trained, tmp_path / "bundle", "int16x8")
    with pytest.raises(ValueError, match="`signatures` must be None for a quantization-aware model"):
        kn.convert(trained, tmp_path / "bundle", signatures={"other": residual_net()})


def test_zeros_and_clusters_arrive_in_the_integers_of_the_file(tmp_path):
    model = quantize_aware(cluster(prune(residual_net(), 0.75, skip=["depthwise"]), 16), calibration=X)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, epochs=2, verbose=0)
    bundle = kn.convert(model, tmp_path / "bundle", golden=X[:64])
    assert kn.verify(bundle).outputs[0].max_error_lsb < 1.01
    for name, integers in integer_weights(bundle.directory / "model.tflite"):
        assert len(np.unique(integers)) <= 16, name
        if "DEPTHWISE" not in name:
            assert np.sum(integers == 0) >= np.round(0.75 * integers.size), name


def test_pruned_model_without_integers_converts_as_its_stripped_self(tmp_path):
    bundle = kn.convert(prune(residual_net(), 0.75), tmp_path / "bundle", "static_int8", calibration=X)
    for name, integers in integer_weights(bundle.directory / "model.tflite"):
        assert np.sum(integers == 0) >= np.round(0.75 * integers.size), name
