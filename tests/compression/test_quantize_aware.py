"""Quantization-aware training: the model that it makes, on every backend."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes.compression import CompressedModel, quantize_aware, strip
from tests.compression.zoo import NETS, samples

pytestmark = pytest.mark.any_backend

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8, 8, 1)).astype("float32")
Y = RNG.integers(0, 3, 64)
# A step is 1 / 255 of a tensor's extent: half a step for a product, for its sum with a constant, and for the constant,
# where the extent of the product can be about twice that of the sum.
TWO_ROUNDINGS = 0.02
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    x = layers.Flatten()(layers.MaxPooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="net")


def fitted(model: keras.Model, **options) -> CompressedModel:
    quantized = quantize_aware(model, calibration=X, **options)
    quantized.compile(keras.optimizers.Adam(1e-2), LOSS)
    quantized.fit(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)
    return quantized


def limits(model: CompressedModel) -> np.ndarray:
    return ops.convert_to_numpy(model.quantization.ranges.limits)


def check_layer(name: str) -> None:
    """That it computes near its float self, and that its ranges follow a batch."""
    keras.utils.set_random_seed(0)
    net = NETS[name]()
    x = samples(net, 32)
    quantized = quantize_aware(net, calibration=x if len(x) > 1 else x[0], momentum=0.5)
    expected, actual = (ops.convert_to_numpy(model(x[0], training=False)) for model in (net, quantized))
    # One step of the output's grid is 1 / 255 of its extent; roundings on the way add up to a few.
    assert np.abs(actual - expected).max() <= 0.08 * np.ptp(expected)
    before = limits(quantized)
    quantized(x[0] * 2 if x[0].dtype.kind == "f" else x[0], training=True)
    if x[0].dtype.kind == "f":
        assert not np.array_equal(limits(quantized), before)


@pytest.mark.parametrize(
    "name", ["Conv2DTranspose", "BatchNormalization, folded", "MultiHeadAttention, causal", "GRU", "subclassed model"]
)
def test_layers_compute_near_their_float_selves_and_their_ranges_follow(name):
    check_layer(name)


def test_source_model_is_unchanged():
    model = small_net()
    before = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    fitted(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


def test_weights_start_as_those_of_the_model():
    model = small_net()
    quantized = quantize_aware(model, calibration=X)
    for variable, other in zip(model.variables, quantized.network.variables, strict=True):
        assert variable.path == other.path
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(other))
    assert len(quantized.trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize(
    "options", [{"batch_norm": "live"}, {"recipe": "int16x8"}, {"recipe": "weight_int4"}, {"ranges": "learned"}]
)
def test_keras_file_gives_the_same_bits(options, tmp_path):
    quantized = fitted(small_net(), **options)
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), quantized.predict(X, verbose=0))
    assert loaded.scheme == quantized.scheme
    assert loaded.quantization.ranges.points == quantized.quantization.ranges.points


def test_keras_file_of_a_subclassed_model_keeps_names_and_skips(tmp_path):
    net = NETS["subclassed model"]()
    x = samples(net, 32)[0]
    quantized = quantize_aware(net, calibration=x, skip=["block/expand"])
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [step.name for step in loaded.quantization.steps] == [step.name for step in quantized.quantization.steps]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), quantized.predict(x, verbose=0))


def test_training_lowers_the_loss():
    quantized = quantize_aware(small_net(), calibration=X)
    quantized.compile(keras.optimizers.Adam(1e-2), LOSS)
    before = quantized.evaluate(X, Y, verbose=0)
    quantized.fit(X, Y, batch_size=16, epochs=4, verbose=0)
    assert quantized.evaluate(X, Y, verbose=0) < 0.9 * before


def test_outputs_lie_on_256_values():
    values = np.unique(quantize_aware(small_net(), calibration=X).predict(X, verbose=0))
    assert len(values) <= 256
    steps = np.diff(values) / np.diff(values).min()
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-2)


def test_ranges_start_at_the_calibration_data_and_stay_when_frozen():
    quantized = quantize_aware(small_net(), calibration=X, freeze_after=2, batch_norm="live")
    assert limits(quantized)[0] == pytest.approx([X.min(), X.max()], rel=2e-3)
    quantized(X * 3, training=True)
    moved = limits(quantized)
    assert moved[0, 1] == pytest.approx(0.99 * X.max() + 0.01 * 3 * X.max(), rel=3e-3)
    quantized(X * 3, training=True)
    frozen, statistics = limits(quantized), ops.convert_to_numpy(quantized.network.get_layer("norm").moving_mean)
    quantized(X * 9, training=True)
    np.testing.assert_array_equal(limits(quantized), frozen)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantized.network.get_layer("norm").moving_mean), statistics)


def test_ranges_without_calibration_start_at_the_first_batch():
    quantized = quantize_aware(small_net())
    quantized(X, training=True)
    assert limits(quantized)[0] == pytest.approx([X.min(), X.max()], rel=2e-3)


def test_learned_ranges_are_trained():
    quantized = quantize_aware(small_net(), calibration=X, ranges="learned")
    before = limits(quantized)
    quantized.compile(keras.optimizers.Adam(1e-2), LOSS)
    quantized.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    assert not np.array_equal(limits(quantized), before)


def test_live_statistics_are_those_of_keras():
    model = small_net()
    quantized = quantize_aware(model, calibration=X, batch_norm="live")
    quantized(X, training=True)
    model(X, training=True)
    for name in ("moving_mean", "moving_variance"):
        ours, keras_s = (
            ops.convert_to_numpy(getattr(net.get_layer("norm"), name)) for net in (quantized.network, model)
        )
        # The weights of the convolution are rounded, the statistics of its outputs a little off for that.
        np.testing.assert_allclose(ours, keras_s, rtol=0.02, atol=0.01)


def test_frozen_statistics_stay():
    quantized = quantize_aware(small_net(), calibration=X)
    before = ops.convert_to_numpy(quantized.network.get_layer("norm").moving_mean)
    quantized(X, training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantized.network.get_layer("norm").moving_mean), before)


def test_skipped_layers_compute_in_floating_point():
    model = small_net()
    quantized = quantize_aware(model, calibration=X, skip=["head"])
    assert len(np.unique(quantized.predict(X, verbose=0))) > 150
    assert [step.name for step in quantized.quantization.steps if not step.computes_integers] == ["head"]


def test_strip_gives_the_plain_model_with_the_trained_weights():
    quantized = fitted(small_net())
    plain = strip(quantized)
    assert type(plain) is type(small_net())
    for variable, other in zip(plain.variables, quantized.network.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(other))


def test_variance_that_rounds_to_zero_leaves_everything_finite():
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization()(inputs)))
    x = RNG.normal(size=(64, 4, 6)).astype("float32")
    x[:, 0] *= 1e-3  # beside the others its variance is less than a step
    quantized = quantize_aware(model, calibration=x)
    quantized.compile(keras.optimizers.Adam(1e-3), "mse")
    quantized.fit(x, np.zeros((64, 4, 3)), epochs=2, verbose=0)
    assert np.isfinite(limits(quantized)).all()
    assert np.isfinite(quantized.predict(x, verbose=0)).all()


def test_student_of_a_distiller_trains_in_integers():
    teacher = small_net()
    student = quantize_aware(small_net(), calibration=X)
    distiller = kn.Distiller(teacher, student, kn.losses.DistillationLoss(temperature=2.0))
    distiller.compile("adam", loss=LOSS)
    history = distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert distiller.student is student


def test_model_of_two_inputs_and_a_dict_of_outputs():
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    total = layers.Add()([layers.Dense(5)(first), layers.Dense(5)(second)])
    model = keras.Model({"first": first, "second": second}, {"sum": total, "first": layers.Dense(2)(first)})
    data = {"first": X[:, 0, :4, 0], "second": X[:, 1, :4, 0]}
    quantized = quantize_aware(model, calibration=data)
    expected, actual = model.predict(data, verbose=0), quantized.predict(data, verbose=0)
    assert expected.keys() == actual.keys()
    for name, values in expected.items():
        assert np.abs(actual[name] - values).max() < 0.03 * np.ptp(values)


def test_layer_that_is_used_twice_has_a_point_for_each_use():
    shared = layers.Dense(4, activation="relu", name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    quantized = quantize_aware(model, calibration=X[:, 0, :4, 0])
    assert quantized.quantization.ranges.points == ("input/0", "shared", "shared#2")


VECTOR_OF_4 = np.array([0.53, -1.02, 0.21, 1.97], "float32")
# A layer without a bias, the inputs it takes, the constant that is added, and whether it becomes the layer's bias.
SUMS = {
    "dense": (lambda: layers.Dense(4, use_bias=False), (6,), VECTOR_OF_4, True),
    "dense, short": (lambda: layers.Dense(4, use_bias=False), (6,), VECTOR_OF_4[:1], False),
    "dense, scalar": (lambda: layers.Dense(4, use_bias=False), (6,), np.float32(0.5), False),
    "dense of one, short": (lambda: layers.Dense(1, use_bias=False), (6,), VECTOR_OF_4[:1], True),
    "dense of one, long": (lambda: layers.Dense(1, use_bias=False), (6,), VECTOR_OF_4, False),
    "dense over rows": (lambda: layers.Dense(4, use_bias=False), (3, 6), VECTOR_OF_4, True),
    "dense over rows, by row": (lambda: layers.Dense(4, use_bias=False), (3, 6), VECTOR_OF_4[:3, None], False),
    "convolution": (lambda: layers.Conv2D(4, 3, use_bias=False), (6, 6, 2), VECTOR_OF_4, True),
    "convolution, short": (lambda: layers.Conv2D(4, 3, use_bias=False), (6, 6, 2), VECTOR_OF_4[:1], False),
    "convolution, rank 3": (lambda: layers.Conv2D(4, 3, use_bias=False), (6, 6, 2), VECTOR_OF_4[None, None], False),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), (6, 6, 2), VECTOR_OF_4, True),
    "transposed": (lambda: layers.Conv2DTranspose(4, 3, use_bias=False), (4, 4, 2), VECTOR_OF_4, True),
    "volume": (lambda: layers.Conv3D(4, 2, use_bias=False), (3, 4, 4, 2), VECTOR_OF_4, True),
    "volume, short": (lambda: layers.Conv3D(4, 2, use_bias=False), (3, 4, 4, 2), VECTOR_OF_4[:1], False),
    "einsum, last axis": (lambda: layers.EinsumDense("abc,cd->abd", (3, 4)), (3, 6), VECTOR_OF_4, True),
    "einsum, two axes": (lambda: layers.EinsumDense("ab,bcd->acd", (2, 4)), (6,), VECTOR_OF_4, False),
    "einsum, last of one": (lambda: layers.EinsumDense("ab,bcd->acd", (4, 1)), (6,), VECTOR_OF_4, False),
    "einsum, first of one": (lambda: layers.EinsumDense("ab,bcd->acd", (1, 4)), (6,), VECTOR_OF_4, True),
}


def sum_net(name: str, combine=ops.add) -> keras.Model:
    keras.utils.set_random_seed(0)
    layer, shape, constant, _ = SUMS[name]
    inputs = keras.Input(shape)
    return keras.Model(inputs, combine(layer()(inputs), constant))


def skip_if_keras_adds_along_another_axis(name: str) -> None:
    """On TensorFlow Keras takes a vector for a bias of the first axis if it has that size, and does not broadcast."""
    if name == "einsum, last of one" and keras.backend.backend() == "tensorflow":
        pytest.skip("Keras's `add` does not broadcast this vector on TensorFlow")


def check_net(net: keras.Model) -> CompressedModel:
    """Checks that the model computes near its float self and trains."""
    x = RNG.normal(size=(32, *net.input_shape[1:])).astype("float32")
    quantized = quantize_aware(net, calibration=x)
    expected, actual = (model.predict(x, verbose=0) for model in (net, quantized))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TWO_ROUNDINGS * np.ptp(expected)
    quantized.compile(keras.optimizers.SGD(1e-3), "mse")
    assert np.isfinite(quantized.fit(x, expected, verbose=0).history["loss"]).all()
    return quantized


@pytest.mark.parametrize("name", SUMS)
def test_only_a_number_for_each_channel_becomes_a_bias(name):
    skip_if_keras_adds_along_another_axis(name)
    quantized = check_net(sum_net(name))
    # A bias is added before the result is rounded: one point beside that of the input, and not two.
    assert (len(quantized.quantization.ranges.points) == 2) == SUMS[name][-1]


@pytest.mark.parametrize("name", ["dense, short", "dense of one, long", "convolution, rank 3", "einsum, two axes"])
def test_constant_is_subtracted_whatever_its_shape(name):
    check_net(sum_net(name, ops.subtract))
    check_net(sum_net(name, lambda product, constant: ops.subtract(constant, product)))


@pytest.mark.parametrize("shape", [(2, 4), (4, 1), (1, 4)])
def test_normalization_is_folded_only_into_channels_of_the_last_axis(shape):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    norm = layers.BatchNormalization(beta_initializer="random_normal", gamma_initializer="random_uniform")
    check_net(keras.Model(inputs, norm(layers.EinsumDense("ab,bcd->acd", shape)(inputs))))


def test_normalization_of_another_axis_than_the_last_is_an_error():
    inputs = keras.Input((6, 6, 2))
    outputs = layers.BatchNormalization(axis=1, name="norm")(layers.Conv2D(4, 3)(inputs))
    with pytest.raises(ValueError, match=r"must be of the last axis\. Received: 'norm' with axis=1"):
        quantize_aware(keras.Model(inputs, outputs))


MATRIX = RNG.normal(size=(6, 4)).astype("float32")
EINSUMS = {
    "bij->bji": lambda x, y: ops.einsum("bij->bji", x),
    "bij,jk": lambda x, y: ops.einsum("bij,jk", x, MATRIX),
    "...j,jk": lambda x, y: ops.einsum("...j,jk", x, MATRIX),
    "bij,bkj->bik": lambda x, y: ops.einsum("bij,bkj->bik", x, y),
}


@pytest.mark.parametrize("subscripts", EINSUMS)
def test_einsum_computes_near_its_float_self(subscripts):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 6))
    x = layers.Dense(6)(inputs)
    check_net(keras.Model(inputs, EINSUMS[subscripts](x, inputs)))


@pytest.mark.parametrize(
    "einsum",
    [
        lambda x: ops.einsum("bij->bi", x),
        lambda x: ops.einsum("bii->bi", x[:, :, :3]),
        lambda x: ops.einsum("bij,bij->bij", x, x),
        lambda x: ops.einsum("...ij,...kj->...ik", x, x),
        lambda x: ops.einsum("bij,jk,kl->bil", x, MATRIX, MATRIX.T),
        lambda x: ops.einsum("kj,bj->kb", MATRIX.T, x[:, 0]),
    ],
)
def test_einsum_that_is_no_matrix_product_is_an_error_that_names_it(einsum):
    inputs = keras.Input((3, 6))
    model = keras.Model(inputs, einsum(layers.Dense(6)(inputs)))
    with pytest.raises(ValueError, match=r"An einsum must be a matrix product .* Received: 'einsum.*' with '.*`skip`"):
        quantize_aware(model)


def test_device_without_the_operator_is_an_error_that_names_the_layer():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Conv2D(2, 3, activation="log_softmax", name="odd")(inputs))
    with pytest.raises(ValueError, match=r"integer operator.*'log_softmax' in 'odd'"):
        quantize_aware(model, calibration=X)
    quantize_aware(model, calibration=X, skip=["odd"])


def test_operation_without_the_operator_is_an_error_that_names_it():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, ops.cumsum(layers.Conv2D(2, 3)(inputs), axis=1))
    with pytest.raises(ValueError, match=r"Received: 'cumsum' \(Cumsum\)"):
        quantize_aware(model, calibration=X)
    quantize_aware(model, calibration=X, skip=["cumsum"])


def test_mask_that_keras_carries_is_an_error():
    inputs = keras.Input((8,), dtype="int32")
    hidden = layers.Embedding(20, 4, mask_zero=True)(inputs)
    with pytest.raises(ValueError, match="must not get a mask"):
        quantize_aware(keras.Model(inputs, layers.LSTM(3, name="lstm")(hidden)))


def test_too_many_steps_are_an_error():
    inputs = keras.Input((100, 2))
    with pytest.raises(ValueError, match=r"at most 64 steps.*'lstm' with 100 steps"):
        quantize_aware(keras.Model(inputs, layers.LSTM(3, name="lstm")(inputs)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "int2"}, "`recipe` must be one of"),
        ({"ranges": "best"}, "`ranges` must be one of"),
        ({"batch_norm": "off"}, "`batch_norm` must be one of"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"freeze_after": -1}, "`freeze_after` must be >= 0"),
        ({"skip": ["nothing"]}, "`skip` must name layers of the model: conv, norm"),
        ({"ranges": "learned", "calibration": None}, "`calibration` must hold typical inputs"),
        ({"calibration": X[..., :4, :]}, "`calibration` must have the shape"),
        ({"calibration": np.full_like(X, np.nan)}, "`calibration` must be finite"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        quantize_aware(small_net(), **{"calibration": X, **options})


def test_what_is_no_model_or_not_built_is_an_error():
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
        quantize_aware(layers.Dense(3))
    with pytest.raises(ValueError, match="must be built"):
        quantize_aware(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="must not be quantization-aware, to quantize it"):
        quantize_aware(quantize_aware(small_net(), calibration=X))
    with pytest.raises(TypeError, match="`skip` must be a sequence"):
        quantize_aware(small_net(), skip="conv")


@keras.saving.register_keras_serializable(package="keras_notes_tests")
class Tied(keras.Model):
    """Embeds ids, and scores each id by the same embedding."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.embedding = keras.layers.Embedding(11, 8)
        self.embedding.build((None, None))
        self.built = True

    def call(self, ids):
        return keras.ops.einsum("blw,vw->blv", self.embedding(ids), self.embedding.embeddings)


def test_a_weight_that_is_used_twice_trains_in_both_places():
    inputs = keras.Input((5,), dtype="int32")
    ids = np.random.default_rng(0).integers(0, 11, (64, 5)).astype("int32")
    aware = quantize_aware(keras.Model(inputs, Tied()(inputs)), calibration=ids)
    before = aware.predict(ids, verbose=0)
    (embedding,) = aware.trainable_variables
    embedding.assign(embedding / 2)
    after = aware.predict(ids, verbose=0)
    # A half each time; the ranges stay, so that steps as large as before round the quarters.
    np.testing.assert_allclose(after, before / 4, atol=0.05 * np.abs(before).max())


def test_a_weight_of_which_a_layer_computes_by_itself_is_refused():
    inputs = keras.Input((4, 8))
    positions = kn.layers.PositionalEncoding(6, learned=True, name="positions")
    model = keras.Model(inputs, keras.layers.Dense(3)(positions(inputs)))
    with pytest.raises(
        ValueError, match=r"must be used together with inputs\. Received: positions/.* Give it in `skip`"
    ):
        quantize_aware(model, calibration=np.zeros((8, 4, 8), "float32"))
    quantize_aware(model, calibration=np.zeros((8, 4, 8), "float32"), skip=["positions"])
