"""Pruning of channels: the smaller model computes what the large one does with the outputs of its filters at 0."""

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from keras import ops

from keras_notes.compression.channels._prune_channels import prune_channels

pytestmark = pytest.mark.any_backend


@pytest.fixture(autouse=True)
def _nothing_initialized(monkeypatch):
    """`randomized` sets weights; JAX compiles initializers for each shape anew."""
    for kind in (keras.initializers.GlorotUniform, keras.initializers.RandomUniform):
        monkeypatch.setattr(
            kind, "__call__", lambda self, shape, dtype=None: ops.convert_to_tensor(np.zeros(shape, dtype))
        )


# Sums in float32 in another order, relative to the largest output.
TOLERANCE = 1e-5


def conv_norm(x, filters, **keywords):
    x = L.Conv2D(filters, 3, padding="same", use_bias=False, **keywords)(x)
    return L.ReLU()(L.BatchNormalization()(x))


def classifier(inputs, x) -> keras.Model:
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)), name="net")


def chain():
    inputs = keras.Input((8, 8, 3))
    x = L.MaxPooling2D()(conv_norm(inputs, 8))
    return classifier(inputs, L.Dropout(0.1)(L.ZeroPadding2D()(conv_norm(x, 6, strides=2))))


def mobile():
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(6, 3, use_bias=False)(inputs)))
    for multiplier in (1, 2):
        x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier, use_bias=multiplier == 1)(x)
        x = L.ReLU(6.0)(L.BatchNormalization()(x))
        x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 1)(x)))
    return classifier(inputs, x)


def residual():
    inputs = keras.Input((8, 8, 3))
    x = conv_norm(inputs, 8)
    for _ in range(2):
        y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(conv_norm(x, 6)))
        x = L.ReLU()(L.Add()([x, y]))
    short = L.BatchNormalization()(L.Conv2D(10, 1, strides=2)(x))
    long = L.BatchNormalization()(L.Conv2D(10, 3, strides=2, padding="same")(x))
    return classifier(inputs, L.Activation("relu")(L.add([short, long])))


def dense_net():
    inputs = keras.Input((8, 8, 3))
    x = L.Concatenate()([inputs, conv_norm(inputs, 4)])
    for _ in range(2):
        x = L.Concatenate()([x, conv_norm(x, 6)])
    return classifier(inputs, conv_norm(L.AveragePooling2D(2)(x), 5))


def inception():
    """Branches that are joined to as many channels as are added to them."""
    inputs = keras.Input((8, 8, 3))
    x = L.Concatenate(axis=-1)([conv_norm(inputs, 4), conv_norm(inputs, 6)])
    return classifier(inputs, L.Average()([conv_norm(x, 10), x, conv_norm(inputs, 10)]))


def flattened():
    inputs = keras.Input((8, 8, 3))
    x = L.Flatten()(L.Cropping2D(1)(L.MaxPooling2D()(conv_norm(inputs, 5))))
    return keras.Model(inputs, L.Dense(3)(L.Dense(7, activation="relu")(x)))


def flattened_channels_first():
    # Wider than it has channels: where both are equal, Keras 3.15 on TensorFlow adds a bias along the wrong axis.
    inputs = keras.Input((3, 12, 12))
    x = L.Conv2D(8, 3, data_format="channels_first", activation="relu")(inputs)
    x = L.PReLU(shared_axes=[2, 3])(L.BatchNormalization(axis=1)(x))
    x = L.Conv2D(6, 1, data_format="channels_first", activation="relu")(x)
    x = L.MaxPooling2D(data_format="channels_first")(x)
    return keras.Model(inputs, L.Dense(3)(L.Flatten(data_format="channels_first")(x)))


def separable():
    inputs = keras.Input((8, 8, 3))
    x = L.SeparableConv2D(6, 3, depth_multiplier=2, activation="relu")(conv_norm(inputs, 4))
    return classifier(inputs, L.SeparableConv2D(8, 3, activation="relu")(x))


def sequence():
    inputs = keras.Input((12, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv1D(6, 3, padding="causal")(inputs)))
    x = L.SpatialDropout1D(0.1)(L.DepthwiseConv1D(3)(x))
    x = L.UpSampling1D()(L.SeparableConv1D(5, 3, activation="relu")(x))
    return keras.Model(inputs, L.Dense(3)(L.GlobalMaxPooling1D()(L.Dense(7, activation="relu")(x))))


def mlp():
    return keras.Sequential(
        [keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(9), L.BatchNormalization(), L.ELU(), L.Dense(3)]
    )


def prelu():
    inputs = keras.Input((6, 6, 3))
    x = L.PReLU(shared_axes=[1, 2])(L.Conv2D(6, 3)(inputs))
    return classifier(inputs, L.PReLU()(L.Conv2D(5, 3)(x)))


def volume():
    inputs = keras.Input((4, 4, 4, 2))
    x = L.MaxPooling3D()(L.Conv3D(4, 3, padding="same", activation="relu")(inputs))
    x = L.Conv3DTranspose(6, 2, strides=2, activation="relu")(x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling3D()(x)))


def hourglass():
    inputs = keras.Input((8, 8, 3))
    wide = conv_norm(inputs, 4)
    low = conv_norm(L.AveragePooling2D(2)(wide), 6)
    up = L.UpSampling2D(interpolation="bilinear")(low)
    back = L.Conv2DTranspose(8, 2, strides=2, activation="relu")(low)
    return keras.Model(inputs, L.Conv2D(2, 1)(conv_norm(L.Concatenate()([wide, up, back]), 5)))


def squeeze_excite():
    inputs = keras.Input((8, 8, 3))
    x = conv_norm(inputs, 8)
    gate = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    gate = L.Conv2D(8, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="relu")(gate))
    where = L.Conv2D(1, 1, activation="sigmoid")(x)
    return classifier(inputs, L.Multiply()([x, gate, where]))


def operations():
    inputs = keras.Input((8, 8, 3))
    a, b, c = (L.Conv2D(6, 3)(inputs) for _ in range(3))
    x = ops.relu(a + b * 2.0) - ops.maximum(ops.tanh(c), 0.0)
    return classifier(inputs, conv_norm(ops.concatenate([x, conv_norm(x, 4)], axis=-1), 5))


def merges():
    inputs = keras.Input((10,))
    a, b, c, d = (L.Dense(8, activation="relu")(inputs) for _ in range(4))
    return keras.Model(inputs, L.Dense(3)(L.Maximum()([L.Subtract()([a, b]), L.Minimum()([c, d])])))


def siamese():
    first, second = keras.Input((6, 6, 3)), keras.Input((6, 6, 3))
    conv, norm, relu, last = L.Conv2D(6, 3), L.BatchNormalization(), L.ReLU(), L.Conv2D(8, 3, activation="relu")
    a, b = (L.GlobalAveragePooling2D()(last(relu(norm(conv(x))))) for x in (first, second))
    return keras.Model([first, second], L.Dense(3)(relu(L.Dense(6)(L.Concatenate()([a, b])))))


def nested():
    """A model in a model, which is called twice on channels that can go, and a sequential one."""
    inner_inputs = keras.Input((8, 8, 6))
    inner = keras.Model(inner_inputs, L.Add()([conv_norm(inner_inputs, 6), inner_inputs]), name="inner")
    head = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(5, 3, activation="relu", name="conv")], name="head")
    inputs = keras.Input((8, 8, 3))
    return classifier(inputs, head(inner(inner(conv_norm(inputs, 6)))))


def repeated():
    inputs = keras.Input((6,))
    x = L.RepeatVector(4)(L.Dense(8, activation="relu")(inputs))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv1D(5, 2, activation="relu")(x))))


NETS = [chain, mobile, residual, dense_net, inception, flattened, flattened_channels_first, separable, sequence, mlp,
        prelu, volume, hourglass, squeeze_excite, operations, merges, siamese, nested, repeated]  # fmt: skip


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """A model whose weights, statistics included, are all different."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        if variable.name == "moving_variance":
            value = rng.uniform(0.5, 2.0, variable.shape)
        elif "kernel" in variable.name:
            value /= np.sqrt(np.prod(variable.shape[:-1]))
        variable.assign(value.astype("float32"))
    return model


def inputs_of(model: keras.Model, seed: int = 1) -> np.ndarray | list[np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=(3, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
    return inputs if len(inputs) > 1 else inputs[0]


def kept_channels(layer: keras.Layer, pruned: keras.Layer) -> np.ndarray | None:
    """Whether each channel of a layer is in its pruned copy, by its bias, which is like no other."""
    for variable, left in zip(layer.weights, pruned.weights, strict=True):
        if variable.name in ("bias", "beta"):
            return np.isin(ops.convert_to_numpy(variable), ops.convert_to_numpy(left))
    return None


def silenced(model: keras.Model, pruned: keras.Model) -> keras.Model:
    """A copy of a model in which all channels that the pruned one lacks are 0."""
    copy = keras.models.clone_model(model)
    for old, new, other in zip(*(one._flatten_layers() for one in (model, copy, pruned)), strict=True):
        kept = None if old._layers else kept_channels(old, other)
        for variable, target in zip(old.weights, new.weights, strict=True):
            value = np.array(ops.convert_to_numpy(variable))
            if kept is not None and variable.name in ("bias", "beta", "gamma"):
                value = value * kept
            elif kept is not None and "Depthwise" in type(old).__name__:
                value = value * kept.reshape(value.shape[-2:])
            elif kept is not None and "Transpose" in type(old).__name__:
                value = value * kept[:, None]
            elif kept is not None and variable.name in ("kernel", "pointwise_kernel"):
                value = value * kept
            if not old._layers:
                target.assign(value)
    return copy


def assert_close(values, expected) -> None:
    values, expected = ops.convert_to_numpy(values), ops.convert_to_numpy(expected)
    assert np.abs(values - expected).max() <= TOLERANCE * np.abs(expected).max()


def snapshot(model: keras.Model) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]


CASES = [*((build, "layer") for build in NETS), *((build, "global") for build in (chain, residual, inception, nested))]


@pytest.mark.parametrize(("build", "scope"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_pruned_model_computes_what_the_model_does_without_those_channels(build, scope):
    model = randomized(build())
    before = snapshot(model)
    pruned = prune_channels(model, 0.5, scope=scope)
    assert type(pruned) is type(model)
    assert pruned.name == model.name
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    assert pruned.count_params() < 0.8 * model.count_params()
    for one, other in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, ops.convert_to_numpy(other))
    inputs = inputs_of(model)
    expected = silenced(model, pruned)(inputs)
    assert_close(pruned(inputs), expected)
    assert np.abs(ops.convert_to_numpy(model(inputs)) - ops.convert_to_numpy(expected)).max() > 1e-3


def test_other_channels_in_the_place_of_those_that_are_left_are_found():
    model = randomized(flattened())
    pruned = prune_channels(model, 0.5)
    hidden = pruned.layers[-2]
    hidden.kernel.assign(np.roll(ops.convert_to_numpy(hidden.kernel), 1, axis=0))
    with pytest.raises(AssertionError):
        assert_close(pruned(inputs_of(model)), silenced(model, pruned)(inputs_of(model)))


def test_a_channel_whose_activation_is_not_0_at_0_goes_with_what_takes_it():
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(6, 3, activation="sigmoid", name="conv")(inputs)
    model = keras.Model(inputs, L.Dense(3)(L.Dense(7, "sigmoid", name="hidden")(L.Flatten()(x))))
    randomized(model)
    pruned = prune_channels(model, 0.5)
    conv, hidden = (kept_channels(model.get_layer(name), pruned.get_layer(name)) for name in ("conv", "hidden"))
    assert (conv.sum(), hidden.sum()) == (3, 3)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer, kept in zip(copy.layers[-2:], (np.tile(conv, 16), hidden), strict=True):
        layer.kernel.assign(ops.convert_to_numpy(layer.kernel) * kept[:, None])
    assert_close(pruned(inputs_of(model)), copy(inputs_of(model)))


def test_columns_of_an_embedding_go():
    model = keras.Sequential([keras.Input((5,), dtype="int32"), L.Embedding(9, 8), L.Flatten(), L.Dense(3)])
    randomized(model)
    pruned = prune_channels(model, 0.5)
    table, kernel, bias = (ops.convert_to_numpy(variable) for variable in model.weights)
    kept = np.isin(table[0], ops.convert_to_numpy(pruned.layers[0].embeddings)[0])
    assert kept.sum() == 4
    words = np.arange(15).reshape(3, 5) % 9
    assert_close(pruned(words), (table * kept)[words].reshape(3, -1) @ kernel + bias)


@pytest.mark.parametrize("norm", [L.LayerNormalization, L.RMSNormalization])
def test_layer_normalization_goes_on_with_the_channels_that_are_left(norm):
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, L.Dense(3)(norm()(L.Dense(8, name="dense")(inputs))))
    randomized(model)
    pruned = prune_channels(model, 0.5)
    kept = kept_channels(model.get_layer("dense"), pruned.get_layer("dense"))
    for one, other in zip(model.layers[2].weights, pruned.layers[2].weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one)[kept], ops.convert_to_numpy(other))
    inner = keras.Model(model.input, model.get_layer("dense").output)(inputs_of(model))
    fresh = norm()
    fresh.build((None, 4, 4))
    fresh.set_weights(pruned.layers[2].get_weights())
    expected = pruned.layers[3](fresh(ops.convert_to_numpy(inner)[..., kept]))
    assert_close(pruned(inputs_of(model)), expected)


def norms(layer: keras.Layer) -> np.ndarray:
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    return np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)


def best(importance: np.ndarray, count: int) -> np.ndarray:
    return np.isin(np.arange(importance.size), np.argsort(importance)[-count:])


def test_importance_is_the_norm_of_filters_with_their_batch_normalization_folded_in():
    model = randomized(chain())
    pruned = prune_channels(model, 0.5)
    (conv, norm), other = model.layers[1:3], pruned.layers[2]
    gamma, _, _, variance = (ops.convert_to_numpy(variable) for variable in norm.weights)
    importance = norms(conv) * np.abs(gamma) / np.sqrt(variance + norm.epsilon)
    assert np.array_equal(kept_channels(norm, other), best(importance, 4))
    assert not np.array_equal(best(importance, 4), best(norms(conv), 4))


def test_importance_in_a_group_is_the_norm_of_all_its_filters():
    model = randomized(merges())
    pruned = prune_channels(model, 0.5)
    dense = [layer for layer in model.layers if isinstance(layer, L.Dense)][:4]
    importance = np.sqrt(sum(norms(layer) ** 2 for layer in dense))
    for layer in dense:
        assert np.array_equal(kept_channels(layer, pruned.get_layer(layer.name)), best(importance, 4))


def test_scope_global_is_one_ranking_relative_to_the_mean_of_each_layer():
    model = keras.Sequential([keras.Input((6,)), L.Dense(12, "relu"), L.Dense(10, "relu"), L.Dense(3)])
    randomized(model)
    model.layers[1].kernel.assign(model.layers[1].kernel * np.linspace(0.1, 2.0, 10))
    first, second = (norms(layer) / norms(layer).mean() for layer in model.layers[:2])
    both = best(np.concatenate([first, second]), 11)
    pruned = prune_channels(model, 0.5, scope="global")
    kept = [kept_channels(*layers) for layers in zip(model.layers[:2], pruned.layers, strict=False)]
    assert np.array_equal(np.concatenate(kept), both)
    assert kept[0].sum() != 6


def test_scope_global_leaves_one_channel_of_each_layer():
    model = keras.Sequential([keras.Input((6,)), L.Dense(3, "relu"), L.Dense(40, "relu"), L.Dense(3)])
    pruned = prune_channels(model, 0.99, scope="global")
    assert [layer.units for layer in pruned.layers] == [1, 1, 3]


def test_each_branch_of_a_concatenation_that_is_added_keeps_a_channel():
    model = randomized(inception())
    for layer in model.layers:
        if isinstance(layer, L.Conv2D) and layer.filters == 4:
            layer.kernel.assign(layer.kernel * 1e-6)
    pruned = prune_channels(model, 0.9)
    assert sorted(layer.filters for layer in pruned.layers if isinstance(layer, L.Conv2D)) == [1, 1, 2, 2]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 0.9])
def test_each_layer_loses_its_share(share):
    model = mlp()
    pruned = prune_channels(model, share)
    assert [layer.units for layer in pruned.layers if isinstance(layer, L.Dense)] == [
        max(1, 8 - round(share * 8)), max(1, 9 - round(share * 9)), 3
    ]  # fmt: skip
    if share == 0.0:
        assert_close(pruned(inputs_of(model)), model(inputs_of(model)))


def test_a_mobile_net_is_pruned():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=10)
    pruned = prune_channels(model, 0.5)
    assert pruned.count_params() < 0.3 * model.count_params()
    assert pruned.predict(np.zeros((1, 32, 32, 3)), verbose=0).shape == (1, 10)


@keras.saving.register_keras_serializable(package="keras_notes_tests")
class Doubled(keras.layers.Layer):
    """A layer of which nothing is known."""

    def call(self, x):
        """2 x."""
        return 2.0 * x


class OwnDense(keras.layers.Dense):
    """A class that could compute anything."""


def between(*made):
    """Layers between a dense one and the end."""

    def build():
        inputs = keras.Input((6, 4))
        x = L.Dense(8, name="dense")(inputs)
        for layer in made:
            x = layer()(x)
        return keras.Model(inputs, L.Dense(3, name="head")(x))

    return build


def quantized():
    model = between()()
    model.get_layer("head").quantize("int8")
    return model


def low_rank():
    model = between()()
    model.get_layer("head").enable_lora(2)
    return model


def called_on_two_kinds():
    inputs = keras.Input((8,))
    shared = L.Dense(3, name="head")
    return keras.Model(inputs, L.Concatenate()([shared(inputs), shared(L.Dense(8, name="dense")(inputs))]))


STAYING = {
    "softmax": (between(L.Softmax), "'softmax.*' .Softmax"),
    "activation": (between(lambda: L.Activation("softmax")), "Activation"),
    "attention": (between(lambda: lambda x: L.MultiHeadAttention(2, 4)(x, x)), "MultiHead"),
    "LSTM": (between(lambda: L.LSTM(4)), "LSTM"),
    "permute": (between(lambda: L.Permute((2, 1))), "Permute"),
    "reshape": (between(lambda: L.Reshape((12, 4))), "Reshape"),
    "groups": (between(lambda: L.Conv1D(4, 1, groups=2)), "Conv1D"),
    "own layer": (between(Doubled), "Doubled"),
    "own class": (between(lambda: OwnDense(4)), "OwnDense"),
    "axis": (between(lambda: L.BatchNormalization(axis=1)), "BatchNormalization"),
    "axes": (between(lambda: L.LayerNormalization(axis=[1, 2])), "LayerNormalization"),
    "noise": (between(lambda: L.Dropout(0.5, noise_shape=(None, 1, 8))), "Dropout"),
    "scale": (between(lambda: L.Rescaling(np.arange(8.0).tolist())), "Rescaling"),
    "int8": (quantized, "'head' .Dense"),
    "LoRA": (low_rank, "'head' .Dense"),
    "two kinds": (called_on_two_kinds, "several kinds"),
}


@pytest.mark.parametrize("name", STAYING)
def test_channels_that_reach_what_no_rule_describes_stay(name):
    build, reason = STAYING[name]
    model = build()
    with pytest.raises(ValueError, match=rf"those of 'dense', because .*{reason}"):
        prune_channels(model, 0.5)


def test_a_model_in_a_model_that_takes_its_inputs_by_name_stays():
    pair = [keras.Input((8,), name=name) for name in ("b", "a")]
    inner = keras.Model(pair, L.Dense(8)(L.Subtract()(pair)), name="inner")
    inputs = keras.Input((4,))
    x = inner({"a": L.Dense(8, name="dense")(inputs), "b": L.Dense(8)(inputs)})
    model = keras.Model(inputs, L.Dense(3)(x))
    with pytest.raises(ValueError, match=r"those of 'dense', because they reach 'inner' .Functional"):
        prune_channels(model, 0.5)


def test_only_the_channels_that_must_stay_do():
    """Of those that are concatenated, the ones that are added to an input."""
    inputs = keras.Input((4,))
    a, b = L.Dense(4, name="a")(inputs), L.Dense(6, name="b")(inputs)
    x = L.Add()([L.Concatenate()([a, b]), L.Concatenate()([inputs, L.Dense(6, name="c")(inputs)])])
    model = randomized(keras.Model(inputs, L.Dense(3, name="head")(x)))
    pruned = prune_channels(model, 0.5)
    assert [pruned.get_layer(name).units for name in "abc"] == [4, 3, 3]
    assert_close(pruned(inputs_of(model)), silenced(model, pruned)(inputs_of(model)))


@pytest.mark.parametrize(
    ("skip", "units"), [(["first"], [8, 6]), (["*st"], [8, 6]), (["block/second"], [4, 12]), (["block"], [4, 12])]
)
def test_skipped_layers_keep_their_channels(skip, units):
    block = keras.Sequential([keras.Input((8,)), L.Dense(12, name="second")], name="block")
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, name="first"), block, L.Dense(3)])
    pruned = prune_channels(model, 0.5, skip=skip)
    assert [pruned.layers[0].units, pruned.layers[1].layers[0].units] == units


def test_a_skipped_layer_keeps_the_channels_of_its_whole_group():
    model = residual()
    last = [layer for layer in model.layers if isinstance(layer, L.Conv2D)][-1]
    pruned = prune_channels(model, 0.5, skip=[last.name])
    filters = [layer.filters for layer in pruned.layers if isinstance(layer, L.Conv2D)]
    assert filters == [4, 3, 4, 3, 4, 10, 10]


def test_the_pruned_model_is_saved_and_trains(tmp_path):
    model = prune_channels(randomized(nested()), 0.5)
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    inputs = inputs_of(model)
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))
    before = snapshot(model)
    model.compile("adam", "mse")
    model.fit(inputs, np.zeros((3, 3)), verbose=0)
    assert all(np.any(one != other) for one, other in zip(before, snapshot(model), strict=True))


def test_what_is_frozen_stays_frozen():
    model = nested()
    model.get_layer("inner").trainable = False
    model.layers[1].trainable = False
    model.get_layer("head").layers[0].bias.trainable = False
    pruned = prune_channels(model, 0.5)
    for one, other in zip(model._flatten_layers(), pruned._flatten_layers(), strict=True):
        assert one.trainable == other.trainable
    assert [one.trainable for one in model.weights] == [one.trainable for one in pruned.weights]


def test_a_compiled_model_that_was_trained_stays_as_it_is():
    model = randomized(chain())
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    model.fit(inputs_of(model), np.zeros((3, 3)), verbose=0)
    before, config = snapshot(model), keras.saving.serialize_keras_object(model)
    pruned = prune_channels(model, 0.5)
    assert not pruned.compiled
    assert config == keras.saving.serialize_keras_object(model)
    assert all(np.array_equal(one, other) for one, other in zip(before, snapshot(model), strict=True))
    assert_close(pruned(inputs_of(model)), silenced(model, pruned)(inputs_of(model)))


def test_structures_names_and_own_layers_are_kept():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    x = L.Concatenate()([inputs["a"], Doubled(name="own")(inputs["b"])])
    x = L.Dense(8, "relu", name="first")(x)
    heads = {"one": L.Dense(2, name="one")(x), "two": L.Dense(1, name="two")(L.Dense(8, name="last")(x))}
    model = randomized(keras.Model(inputs, heads, name="two_heads"))
    pruned = prune_channels(model, 0.5)
    given = {name: np.ones((2, 4), "float32") for name in inputs}
    expected = silenced(model, pruned)(given)
    for name, values in pruned(given).items():
        assert_close(values, expected[name])
    assert type(pruned.get_layer("own")) is Doubled


def test_mixed_precision_is_kept():
    policy = keras.DTypePolicy("mixed_bfloat16")
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, "relu", dtype=policy), L.Dense(3, dtype=policy)])
    assert prune_channels(model, 0.5).layers[0].dtype_policy == policy


class Subclassed(keras.Model):
    """A model with a `call` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        """The layer."""
        return self.dense(x)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3), "float32"))
    return model


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (subclassed, r"functional or sequential.*Received: 'subclassed.*', a Subclassed\. Build it as"),
        (lambda: keras.Sequential([L.Dense(4)]), "must be built"),
        (lambda: keras.Sequential([keras.Input((4,)), L.Dense(3, name="only")]), "'only', because the model returns"),
        (lambda: keras.Sequential([keras.Input((4,)), L.ReLU()]), "no layer makes channels"),
    ],
)
def test_models_without_channels_to_remove_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        prune_channels(build(), 0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"sparsity": 1.0}, ValueError, r"`sparsity` must be a number in \[0, 1\).*Received: sparsity=1.0"),
        ({"sparsity": -0.1}, ValueError, "Received: sparsity=-0.1"),
        ({"sparsity": True}, ValueError, "Received: sparsity=True"),
        ({"sparsity": "half"}, ValueError, "Received: sparsity='half'"),
        ({"sparsity": 0.01}, ValueError, "high enough.*sparsity=0.01.* groups of layers have 8, 9"),
        ({"scope": "model"}, ValueError, "`scope` must be one of 'layer', 'global'"),
        ({"skip": "dense"}, TypeError, "`skip` must be a sequence"),
        ({"skip": [1]}, TypeError, "`skip` must be a sequence"),
        ({"skip": ["dense*", "conv"]}, ValueError, "`skip` must name layers of the model: dense.*, elu.*skip='conv'"),
        ({"skip": ["*"]}, ValueError, "because 'dense.*' is skipped"),
        ({"model": "net"}, TypeError, r"`model` must be a keras.Model\. Received: str"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        prune_channels(**{"model": mlp(), "sparsity": 0.5, **arguments})


def test_layers_that_cannot_be_built_for_other_numbers_of_channels_are_named():
    fixed = keras.initializers.Constant(np.ones((6, 8), "float32"))
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, kernel_initializer=fixed), L.Dense(3)], name="net")
    with pytest.raises(ValueError, match=r"allows other numbers of channels\. Received: 'net': "):
        prune_channels(model, 0.5)
