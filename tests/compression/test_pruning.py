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


@pytest.mark.parametrize("sparsity", [0.0, 0.75, 0.9])
def test_each_layer_has_exactly_the_share_of_zeros(sparsity):
    for kernel in kernels(fitted(prune(net(), sparsity))):
        assert np.sum(kernel == 0) == np.round(sparsity * kernel.size)


def test_share_is_exact_where_magnitudes_are_equal():
    model = net()
    model.get_layer("first").kernel.assign(np.full((8, 16), -0.5, "float32"))
    for pruned in (prune(model, 0.75), prune(model, ConstantSparsity(0.75, begin_step=1, end_step=1))):
        pruned(X, training=True)
        pruned(X, training=True)
        np.testing.assert_array_equal(kernels(pruned)[0].reshape(-1) == 0, np.arange(128) < 96)


def test_share_over_all_layers_is_exact_where_magnitudes_are_equal():
    model = net()
    for layer in model.layers[1:]:
        layer.kernel.assign(ops.sign(layer.kernel))
    found = kernels(prune(model, 0.6, scope="global"))
    assert sum(np.sum(kernel == 0) for kernel in found) == round(0.6 * sum(kernel.size for kernel in found))
    assert np.all(found[0] == 0)  # the first of equals


def test_numbers_of_zeros_are_rounded_in_float64_and_exact_at_both_ends():
    assert int(ops.convert_to_numpy(ConstantSparsity(0.3).zeros_at(0, 195))) == round(0.3 * 195) == 58
    schedule = PolynomialSparsity(0.1, 0.9, begin_step=3, end_step=10)
    for size in (7, 1000, 123_456_789):
        for step, sparsity in ((3, 0.1), (10, 0.9), (11, 0.9)):
            assert int(ops.convert_to_numpy(schedule.zeros_at(step, size))) == round(sparsity * size)


def test_pruning_twice_gives_the_second_share():
    for kernel in kernels(prune(prune(net(), 0.5), 0.75)):
        assert np.sum(kernel == 0) == np.round(0.75 * kernel.size)


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


def test_two_of_four_is_along_the_inputs_of_each_kind_of_layer_and_stays_so():
    inputs = keras.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = layers.Conv1DTranspose(4, 3, name="transposed")(x)
    x = layers.SeparableConv1D(8, 3, name="separable")(x)
    x = layers.DepthwiseConv1D(3, name="depthwise")(x)
    outputs = layers.Dense(3, name="behind_depthwise")(layers.LSTM(4, name="lstm")(x))
    model = prune(keras.Model(inputs, outputs), ConstantSparsity(0.5, frequency=1), structure=(2, 4))
    model.compile(keras.optimizers.Adam(0.1), LOSS)
    model.fit(RNG.normal(size=(32, 4, 8)), Y[:32], batch_size=16, epochs=2, verbose=0)
    axes = dict.fromkeys(("query", "key", "value"), 0) | {"attention_output": 1, "transposed": 2}
    for number, mask in zip(model.transforms[0].variable_indices, model.transforms[0].masks, strict=True):
        variable = model.network.variables[number]
        axis = axes.get(variable.path.split("/")[-2], len(variable.shape) - 2)
        groups = np.moveaxis(ops.convert_to_numpy(mask), axis, -1).reshape(-1, 4)
        assert (groups.sum(-1) == 2).all(), variable.path
    pruned = {model.network.variables[number].path for number in model.transforms[0].variable_indices}
    assert len(pruned) == 4 + 1 + 1 + 2 + 1
    assert not any(path.startswith("depthwise") or "depthwise_kernel" in path for path in pruned)


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


def test_masks_are_the_same_eagerly_and_compiled():
    found = []
    compilers = [{"run_eagerly": True}, {"jit_compile": keras.backend.backend() != "torch"}]
    for options in compilers:
        model = prune(net(), PolynomialSparsity(0.0, 0.75, begin_step=1, end_step=6, frequency=2), scope="global")
        model.compile(keras.optimizers.SGD(1e-3), LOSS, **options)
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)
        found.append([ops.convert_to_numpy(mask) for mask in model.transforms[0].masks])
    for eager, compiled in zip(*found, strict=True):
        np.testing.assert_array_equal(eager, compiled)
    assert sum(map(np.sum, found[0])) == 356 - round(0.75 * 356)


def test_half_precision_prunes_and_clusters_as_exactly():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = fitted(cluster(prune(net(), PolynomialSparsity(0.0, 0.75, begin_step=0, end_step=6, frequency=2)), 5))
        for kernel in kernels(model):
            assert np.sum(kernel == 0) == np.round(0.75 * kernel.size)
            assert len(np.unique(kernel)) <= 5
    finally:
        keras.config.set_dtype_policy("float32")


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
    for going_on in (model, loaded):
        going_on.fit(X, Y, batch_size=16, epochs=1, verbose=0, shuffle=False)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_predict_is_that_of_the_stripped_model():
    model = fitted(prune(net(), 0.5))
    np.testing.assert_allclose(model.predict(X, verbose=0), strip(model).predict(X, verbose=0), atol=1e-6)


def test_skip_takes_names_and_paths_of_nested_models():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="deep")], name="block")
    model = keras.Sequential([keras.Input((8,)), inner, layers.Dense(8, name="deeper"), layers.Dense(3, name="head")])
    for skip, left in ((["deep"], 2), (["deep*"], 1), (["block/*"], 2), (["block"], 2), (["block/deep", "head"], 1)):
        assert len(prune(model, 0.5, skip=skip).transforms[0].variable_indices) == left
    with pytest.raises(ValueError, match="`skip` must name layers with kernels: block/deep, deeper, head"):
        prune(model, 0.5, skip=["deep/*"])


def test_frozen_layers_embeddings_and_normalizations_stay_as_they_are():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.LayerNormalization()(layers.Embedding(20, 8)(inputs))
    x = layers.Dense(8, name="frozen", trainable=False)(x)
    model = prune(keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x))), 0.5)
    assert [model.network.variables[number].path for number in model.transforms[0].variable_indices] == ["head/kernel"]


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


def test_pruned_student_trains_under_a_distiller():
    model = prune(net(), PolynomialSparsity(0.0, 0.75, begin_step=0, end_step=5, frequency=2))
    distiller = kn.Distiller(net(), model, kn.losses.DistillationLoss(2.0))
    distiller.compile(keras.optimizers.Adam(1e-2), loss=LOSS)
    distiller.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    for kernel in kernels(distiller.student):
        assert np.sum(kernel == 0) == np.round(0.75 * kernel.size)


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
        ((0.5,), {"structure": (2, 4), "scope": "global"}, "`scope` must be 'layer' for structure"),
        ((PolynomialSparsity(0, 0.5, begin_step=0, end_step=9),), {"structure": (2, 4)}, "`schedule` must be 0.5"),
        ((0.5,), {"skip": ["none"]}, "`skip` must name layers with kernels: first, second, head"),
        ((0.5,), {"skip": ["*"]}, "must have trainable kernels that are not skipped"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        prune(net(), *arguments, **options)


def test_channels_are_taken_out():
    model = prune(net(), 0.5, structure="channels")
    assert [layer.units for layer in model.layers[1:]] == [8, 6, 3]
    for kernel in kernels(prune(model, 0.75)):
        assert np.sum(kernel == 0) == np.round(0.75 * kernel.size)
    with pytest.raises(ValueError, match="must be a plain one for structure='channels'"):
        prune(prune(net(), 0.5), 0.5, structure="channels")
    with pytest.raises(TypeError, match=r"`schedule` must be a number in \[0, 1\)"):
        prune(net(), ConstantSparsity(0.5), structure="channels")


def test_quantized_models_are_pruned_before():
    with pytest.raises(ValueError, match="must not be quantization-aware, to prune it"):
        prune(quantize_aware(net(), calibration=X), 0.5)


def test_groups_need_kernels_over_inputs():
    inputs = keras.Input((8, 8, 4))
    with pytest.raises(ValueError, match="which has depthwise convolutions only"):
        prune(keras.Model(inputs, layers.DepthwiseConv2D(3)(inputs)), 0.5, structure=(2, 4))


def test_wrong_schedules():
    for wrong in ("half", None, True):
        with pytest.raises(TypeError, match="`schedule` must be a number"):
            prune(net(), wrong)
    with pytest.raises(ValueError, match=r"`final` must be a number in \[0, 1\)"):
        PolynomialSparsity(0.0, 1.0, begin_step=0, end_step=4)
    with pytest.raises(ValueError, match="`end_step` must be >= 5"):
        ConstantSparsity(0.5, begin_step=5, end_step=4)
    with pytest.raises(ValueError, match="`end_step` must be >= 5"):
        PolynomialSparsity(0.0, 0.5, begin_step=4, end_step=4)
    with pytest.raises(ValueError, match="`frequency` must be >= 1"):
        ConstantSparsity(0.5, frequency=0)


@pytest.mark.parametrize("distilled", [False, True])
def test_losses_that_layers_add_count_as_in_the_network(distilled):
    def losses(compress) -> list[float]:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        regularizer = keras.regularizers.L2(1.0)
        model = compress(keras.Model(inputs, layers.Dense(3, activity_regularizer=regularizer)(inputs)))
        if distilled:
            model = kn.Distiller(net(), model, kn.losses.DistillationLoss(2.0))
        model.compile(keras.optimizers.SGD(0.01), loss=LOSS)
        return model.fit(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False).history["loss"]

    np.testing.assert_allclose(losses(lambda model: prune(model, 0.0)), losses(lambda model: model), rtol=1e-5)


def test_half_precision_ranks_what_the_variables_hold():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
        # In float16 they would be a few equal values.
        kernel = (1 + RNG.uniform(0, 1e-4, (64, 64))).astype("float32")
        model.layers[0].kernel.assign(kernel)
        pruned = prune(model, ConstantSparsity(0.5, begin_step=0, end_step=0))
        pruned(np.zeros((2, 64), "float32"), training=True)
    finally:
        keras.config.set_dtype_policy(before)
    mask = ops.convert_to_numpy(pruned.transforms[0].masks[0]).astype(bool)
    assert kernel[~mask].max() <= kernel[mask].min()
