"""`equalize`: the same outputs to the last bit, channels of like ranges."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from keras import ops

from keras_notes.compression import equalize, prune, quantize_aware
from tests.compression.zoo import Block

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8, 8, 3)).astype("float32")


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """With channels of very different sizes."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        value = rng.normal(size=variable.shape) * np.exp(1.5 * rng.normal(size=variable.shape[-1:]))
        variable.assign(np.abs(value) if "variance" in variable.name else value)
    return model


def conv_block(x, layer: keras.Layer):
    return L.ReLU()(L.BatchNormalization()(layer(x)))


def depthwise_net() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = conv_block(inputs, L.Conv2D(8, 3, use_bias=False, name="first"))
    x = conv_block(x, L.DepthwiseConv2D(3, use_bias=False, name="depthwise"))
    x = conv_block(x, L.Conv2D(6, 1, use_bias=False, name="pointwise"))
    return keras.Model(inputs, L.Dense(4, name="head")(L.GlobalAveragePooling2D()(x)))


def unequal(model: keras.Model) -> keras.Model:
    """The same function, with channels behind the first two normalizations that lie up to 1,000 apart."""
    norms = [layer for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    for norm, name, shape in ((norms[0], "depthwise", (-1, 1)), (norms[1], "pointwise", (-1, 1))):
        factors = RNG.permutation(10.0 ** np.linspace(-1.5, 1.5, norm.gamma.shape[0])).astype("float32")
        kernel = model.get_layer(name).kernel
        norm.gamma.assign(norm.gamma * factors)
        norm.beta.assign(norm.beta * factors)
        kernel.assign(ops.convert_to_numpy(kernel) / factors.reshape(shape))
    return model


def kinds_net() -> keras.Model:
    """Each kind of layer that makes channels before one that takes them."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2DTranspose(5, 2, activation="relu", name="transposed")(inputs)
    x = L.PReLU(shared_axes=[1, 2])(L.SeparableConv2D(6, 3, name="separable")(x))
    x = L.DepthwiseConv2D(2, depth_multiplier=2, activation="relu", name="depthwise")(L.ZeroPadding2D()(x))
    x = L.AveragePooling2D(2)(L.LeakyReLU()(L.Conv2DTranspose(7, 2, name="again")(x)))
    x = L.Flatten()(L.MaxPooling2D()(L.Conv2D(4, 2, activation="leaky_relu", name="conv")(x)))
    x = L.LayerNormalization(name="norm")(L.Dense(8, activation="relu", name="hidden")(x))
    return keras.Model(inputs, L.Dense(3, name="head")(L.RMSNormalization(name="rms")(L.Dense(5, name="deep")(x))))


def two_readers() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, activation="relu", name="shared")(inputs)
    first, second = L.Conv2D(4, 1, name="one")(x), L.Conv2D(4, 1, name="other")(ops.relu(x))
    return keras.Model(inputs, L.Add()([first, second]))


def nested_and_subclassed() -> keras.Model:
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(6, 3, activation="relu"), L.Conv2D(6, 1)], name="inner")
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, Block(name="block")(L.Reshape((36, 6))(inner(inputs))))


def outputs(model: keras.Model) -> np.ndarray:
    return ops.convert_to_numpy(model(X, training=False))


EVERYWHERE = [pytest.param(build, marks=pytest.mark.any_backend) for build in (depthwise_net, nested_and_subclassed)]


@pytest.mark.parametrize("build", [*EVERYWHERE, kinds_net, two_readers])
def test_outputs_stay_the_same_to_the_last_bit(build: Callable):
    model = randomized(build())
    before = [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]
    wanted = outputs(model)
    equalized = equalize(model, X)
    np.testing.assert_array_equal(outputs(equalized), wanted)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    changed = [
        np.any(ops.convert_to_numpy(one) != value) for one, value in zip(equalized.variables, before, strict=True)
    ]
    assert any(changed)
    assert [layer.name for layer in equalized.layers] == [layer.name for layer in model.layers]


def test_every_layer_that_can_is_equalized():
    model = randomized(kinds_net())
    equalized = equalize(model, X)
    names = {
        layer.name
        for layer, new in zip(model.layers, equalized.layers, strict=True)
        for one, other in zip(layer.weights, new.weights, strict=True)
        if np.any(ops.convert_to_numpy(one) != ops.convert_to_numpy(other))
    }
    assert names == {layer.name for layer in model.layers if layer.weights and not isinstance(layer, L.PReLU)}


def test_kernels_that_make_channels_and_those_that_take_them_are_scaled():
    model = randomized(kinds_net())
    equalized = equalize(model, X)
    for name, kernels in {"separable": ("depthwise_kernel", "pointwise_kernel"), "again": ("kernel",)}.items():
        for kernel in kernels:
            one, other = (ops.convert_to_numpy(getattr(each.get_layer(name), kernel)) for each in (model, equalized))
            assert np.any(one != other), (name, kernel)


def test_channels_have_like_ranges_behind_it():
    model = unequal(depthwise_net())

    def spread(model: keras.Model) -> float:
        """Of what a depthwise convolution takes, whose every channel has a scale of its own."""
        tensor = model.get_layer("depthwise").input
        largest = ops.convert_to_numpy(keras.Model(model.input, tensor)(X)).max((0, 1, 2))
        return float(largest.max() / largest[largest > 0].min())

    assert spread(model) > 30
    # Powers of 2 leave a factor of the square root of 2 on either side.
    assert spread(equalize(model, X)) <= 2.0 + 1e-6


@pytest.mark.any_backend
def test_factors_are_those_of_activations_and_weights():
    inputs = keras.Input((2,))
    hidden = L.Dense(2, use_bias=False, name="hidden")
    head = L.Dense(2, use_bias=False, name="head")
    model = keras.Model(inputs, head(L.ReLU()(hidden(inputs))))
    hidden.kernel.assign(np.diag([256.0, 1.0]))
    head.kernel.assign(np.array([[1.0, 1.0], [1.0, 16.0]]))
    equalized = equalize(model, np.eye(2, dtype="float32"))
    # max|x| is (256, 1) and max|w|, relative to each output's, (1, 1): 16 and 1, around their geometric mean.
    ratio = np.diag(ops.convert_to_numpy(equalized.get_layer("hidden").kernel))
    np.testing.assert_allclose(ratio[0] / ratio[1], 256 / 16)
    rows = ops.convert_to_numpy(equalized.get_layer("head").kernel)
    np.testing.assert_allclose(rows / rows[1], [[16.0, 1.0], [1.0, 1.0]])


def test_integers_lose_less_behind_it():
    keras.utils.set_random_seed(0)
    model = unequal(depthwise_net())
    wanted = outputs(model)

    def error(model: keras.Model) -> float:
        found = outputs(quantize_aware(model, calibration=X))
        return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())

    with pytest.warns(UserWarning, match="equalize"):
        unequal_error = error(model)
    assert error(equalize(model, X)) < unequal_error / 3


def _relu6(x):
    return L.ReLU(max_value=6.0)(x)


def _sum(x):
    return L.Add()([x, x])


@pytest.mark.parametrize("between", [_relu6, _sum, L.Activation("sigmoid"), L.Reshape((12,)), L.GaussianNoise(0.1)])
def test_what_is_not_homogeneous_stops_it(between: Callable):
    inputs = keras.Input((5,))
    model = randomized(keras.Model(inputs, L.Dense(3)(between(L.Dense(12, name="first")(inputs)))))
    with pytest.raises(ValueError, match="`model` must have a layer whose channels lead, through ReLU or pooling"):
        equalize(model, RNG.normal(size=(16, 5)).astype("float32"))


def test_tensor_that_the_model_returns_stays():
    inputs = keras.Input((5,))
    hidden = L.Dense(6, activation="relu", name="hidden")(inputs)
    deep = L.Dense(4, activation="relu", name="deep")(hidden)
    model = randomized(keras.Model(inputs, [hidden, L.Dense(2)(deep)]))
    x = RNG.normal(size=(16, 5)).astype("float32")
    for one, other in zip(model(x), equalize(model, x)(x), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_layer_that_is_used_twice_keeps_its_weights():
    inputs = keras.Input((6,))
    shared = L.Dense(6, activation="relu", name="shared")
    x = L.Dense(6, activation="relu", name="first")(inputs)
    model = randomized(keras.Model(inputs, L.Dense(2, name="head")(L.Dense(4, name="last")(shared(shared(x))))))
    x = RNG.normal(size=(16, 6)).astype("float32")
    equalized = equalize(model, x)
    for name in ("first", "shared"):
        for one, other in zip(model.get_layer(name).weights, equalized.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))
    np.testing.assert_array_equal(ops.convert_to_numpy(equalized(x)), ops.convert_to_numpy(model(x)))


def test_skipped_layers_keep_their_weights():
    model = randomized(depthwise_net())
    equalized = equalize(model, X, skip=["depthwise"])
    for one, other in zip(model.get_layer("depthwise").weights, equalized.get_layer("depthwise").weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))
    assert np.any(
        ops.convert_to_numpy(equalized.get_layer("head").kernel) != ops.convert_to_numpy(model.get_layer("head").kernel)
    )


def test_channels_that_never_fire_stay_finite():
    model = depthwise_net()
    model.get_layer("first").kernel.assign(np.zeros(model.get_layer("first").kernel.shape))
    equalized = equalize(model, X)
    assert all(np.isfinite(ops.convert_to_numpy(variable)).all() for variable in equalized.variables)
    np.testing.assert_array_equal(outputs(equalized), outputs(model))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (depthwise_net, {"skip": ["nothing"]}, "`skip` must name layers of the model: first, .*skip=.nothing."),
        (depthwise_net, {"calibration": X[:, :4]}, r"`calibration` must have the shape \(samples, 8, 8, 3\)"),
        (lambda: prune(depthwise_net(), 0.5), {}, "must be a plain one: equalize it before it is pruned"),
    ],
)
def test_wrong_arguments(model: Callable, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        equalize(model(), **{"calibration": X, **arguments})
