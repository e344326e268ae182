"""Pruning: zeros that are exact, and stay."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes.compression import ConstantSparsity, PolynomialSparsity, cluster, prune, quantize_aware, strip
from tests.compression.zoo import NETS

pytestmark = pytest.mark.any_backend

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8)).astype("float32")
Y = RNG.integers(0, 3, 64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu", name="first")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Dense(12, name="second")(x)), name="net")


def fitted(model: keras.Model, epochs: int = 3) -> keras.Model:
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1), LOSS)
    model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, shuffle=False)
    return model


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [weights for weights in strip(model).get_weights() if weights.ndim > 1]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.9])
def test_each_layer_has_exactly_the_share_of_zeros(sparsity):
    for kernel in kernels(fitted(prune(net(), sparsity))):
        assert np.sum(kernel == 0) == np.round(sparsity * kernel.size)


def test_share_is_exact_where_magnitudes_are_equal():
    model = net()
    model.get_layer("first").kernel.assign(np.full((8, 16), -0.5, "float32"))
    assert np.sum(kernels(prune(model, 0.75))[0] == 0) == 96


def test_global_scope_ranks_all_layers_together():
    model = net()
    model.get_layer("first").kernel.assign(10 * RNG.uniform(0.5, 1, (8, 16)).astype("float32"))
    found = kernels(prune(model, 0.5, scope="global"))
    sizes = sum(kernel.size for kernel in found)
    assert sum(np.sum(kernel == 0) for kernel in found) == np.round(0.5 * sizes)
    assert not np.any(found[0] == 0)


def test_least_magnitudes_are_pruned():
    model = net()
    before = model.get_layer("first").kernel
    pruned = kernels(prune(model, 0.5))[0]
    magnitudes = np.abs(ops.convert_to_numpy(before))
    assert magnitudes[pruned == 0].max() <= magnitudes[pruned != 0].min()


def test_two_of_four_along_the_inputs():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))
    conv, dense = kernels(prune(model, 0.5, structure=(2, 4)))
    assert (np.sum(conv == 0, axis=2) == 2).all()
    assert (np.sum((dense == 0).reshape(-1, 4, 3), axis=1) == 2).all()


def test_schedule_is_the_formula_in_float64():
    schedule = PolynomialSparsity(0.2, 0.9, begin_step=10, end_step=110, power=3.0)
    for step in (10, 35, 60, 110, 500):
        done = min((step - 10) / 100, 1.0)
        expected = 0.9 + (0.2 - 0.9) * (1 - done) ** 3
        assert float(ops.convert_to_numpy(schedule.sparsity_at(step))) == pytest.approx(expected, abs=1e-6)
    pruned_at = [step for step in range(200) if bool(ops.convert_to_numpy(schedule.prunes_at(step)))]
    assert pruned_at == [10, 110]


def test_polynomial_schedule_grows_and_its_last_masks_stay():
    model = prune(net(), PolynomialSparsity(0.0, 0.75, begin_step=2, end_step=10, frequency=4))
    assert not np.any(kernels(model)[0] == 0)
    fitted(model, epochs=1)  # steps 0 to 3
    at_two = np.sum(kernels(model)[0] == 0)
    fitted(model, epochs=2)  # to 11
    at_ten = kernels(model)[0] == 0
    assert at_two == 0  # the initial sparsity
    assert np.sum(at_ten) == 96
    fitted(model, epochs=3)
    np.testing.assert_array_equal(kernels(model)[0] == 0, at_ten)


def test_pruned_weights_get_no_gradient():
    model = prune(net(), ConstantSparsity(0.5, end_step=0))
    before = [np.array(ops.convert_to_numpy(v)) for v in model.network.trainable_variables]
    model.compile(keras.optimizers.SGD(0.5), LOSS)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    masked = kernels(model)[0] == 0
    after = ops.convert_to_numpy(model.network.trainable_variables[0])
    np.testing.assert_array_equal(after[masked], before[0][masked])
    assert not np.array_equal(after[~masked], before[0][~masked])


def test_source_is_unchanged_and_the_keras_file_gives_the_same_bits(tmp_path):
    source = net()
    before = [np.array(weights) for weights in source.get_weights()]
    model = fitted(prune(source, PolynomialSparsity(0.1, 0.8, begin_step=0, end_step=9, frequency=3)))
    for weights, value in zip(source.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, value)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    for one, other in zip(kernels(loaded), kernels(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_predict_is_that_of_the_stripped_model():
    model = fitted(prune(net(), 0.5))
    np.testing.assert_allclose(model.predict(X, verbose=0), strip(model).predict(X, verbose=0), atol=1e-6)


def test_subclassed_recurrent_and_nested_models_are_pruned():
    for name in ("subclassed model", "nested model", "LSTM", "SeparableConv2D"):
        model = prune(NETS[name](), 0.5)
        assert sum(np.sum(kernel == 0) for kernel in kernels(model)) >= 0.49 * sum(k.size for k in kernels(model))


def test_statistics_of_the_network_still_move():
    model = prune(NETS["BatchNormalization, folded"](), 0.5)
    norm = next(one for one in model.network.layers if isinstance(one, layers.BatchNormalization))
    before = np.array(ops.convert_to_numpy(norm.moving_mean))
    model(RNG.normal(size=(16, 8, 8, 4)).astype("float32"), training=True)
    assert not np.array_equal(ops.convert_to_numpy(norm.moving_mean), before)


def test_all_three_together_train_under_a_distiller():
    model = quantize_aware(cluster(prune(net(), 0.75), 8), calibration=X)
    distiller = kn.Distiller(net(), model, kn.losses.DistillationLoss(2.0))
    distiller.compile(keras.optimizers.Adam(1e-2), loss=LOSS)
    distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    for kernel in kernels(model):
        assert np.sum(kernel == 0) >= np.round(0.75 * kernel.size)
        assert len(np.unique(kernel)) <= 8


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1.0,), {}, r"`schedule` must be a number in \[0, 1\)"),
        ((0.5,), {"scope": "all"}, "`scope` must be one of"),
        ((0.5,), {"structure": (4, 2)}, "`structure` must be 'unstructured', 'channels', or"),
        ((0.6,), {"structure": (2, 4)}, "`schedule` must be 0.5"),
        ((0.6,), {"structure": (3, 5)}, "multiple of 5.*'first'"),
        ((0.5,), {"skip": ["none"]}, "`skip` must name layers with kernels: first, second, head"),
        ((0.5,), {"skip": ["*"]}, "must have kernels that are not skipped"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        prune(net(), *arguments, **options)


def test_channels_are_taken_out():
    model = prune(net(), 0.5, structure="channels")
    assert [layer.units for layer in model.layers[1:]] == [8, 6, 3]
    with pytest.raises(ValueError, match="must be a plain one for structure='channels'"):
        prune(prune(net(), 0.5), 0.5, structure="channels")
    with pytest.raises(ValueError, match=r"`schedule` must be a number in \[0, 1\)"):
        prune(net(), ConstantSparsity(0.5), structure="channels")


def test_quantized_models_are_pruned_before():
    with pytest.raises(ValueError, match="must not be quantization-aware, to prune it"):
        prune(quantize_aware(net(), calibration=X), 0.5)


def test_wrong_schedules():
    with pytest.raises(ValueError, match="`end_step` must be >= 5"):
        PolynomialSparsity(0.0, 0.5, begin_step=4, end_step=4)
    with pytest.raises(ValueError, match="`frequency` must be >= 1"):
        ConstantSparsity(0.5, frequency=0)
