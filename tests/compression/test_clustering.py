"""Clustering: few different weights, trained."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes.compression import cluster, prune, quantize_aware, strip
from keras_notes.compression._clustering import cluster_weights, kmeans_1d
from tests.compression.test_pruning import LOSS, X, Y, fitted, kernels, net
from tests.compression.zoo import NETS
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend


def test_each_kernel_has_at_most_so_many_values_after_training():
    model = fitted(cluster(net(), 5))
    for kernel in kernels(model):
        assert len(np.unique(kernel)) <= 5


def test_centroids_train():
    model = cluster(net(), 4)
    before = [np.array(ops.convert_to_numpy(one)) for one in model.transforms[0].centroids]
    fitted(model)
    for one, value in zip(model.transforms[0].centroids, before, strict=True):
        assert not np.array_equal(ops.convert_to_numpy(one), value)


def test_gradient_of_a_centroid_is_the_sum_of_its_members():
    centroids = np.array([2.0, -1.0, 0.5], "float32")
    weights = np.array([[-0.9, 0.4], [0.6, 1.9]], "float32")
    numbers = np.array([[1.0, 10.0], [100.0, 1000.0]], "float32")
    factors = ops.convert_to_tensor(numbers)

    def loss(centroids):
        return ops.sum(cluster_weights(ops.convert_to_tensor(weights), centroids, False) * factors)

    _, gradient = value_and_gradient(loss, centroids)
    np.testing.assert_allclose(gradient, [1000.0, 1.0, 110.0])
    _, straight = value_and_gradient(
        lambda w: ops.sum(cluster_weights(w, ops.convert_to_tensor(centroids), False) * factors), weights
    )
    np.testing.assert_allclose(straight, numbers)


def test_gradient_of_centroids_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(5, 8)).astype("float32"), rng.normal(size=(8, 6)).astype("float32")
    weights[:, 0] = 0.0

    def loss(centroids):
        kernel = cluster_weights(ops.convert_to_tensor(weights), centroids, True)
        return ops.sum(ops.tanh(ops.matmul(ops.convert_to_tensor(x), kernel)))

    def in_float64(centroids, members):
        return np.tanh(x.astype("float64") @ np.where(weights == 0, 0.0, centroids[members])).sum()

    centroids = np.array([-1.5, -0.4, 0.3, 1.2], "float32")
    members = np.argmin(abs(weights[..., None] - centroids), axis=-1)
    value, gradient = value_and_gradient(loss, centroids)
    assert value == pytest.approx(in_float64(centroids.astype("float64"), members), rel=1e-5)
    for number, step in enumerate(1e-5 * np.eye(4)):
        expected = (in_float64(centroids + step, members) - in_float64(centroids - step, members)) / 2e-5
        assert gradient[number] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_weights_change_their_cluster_in_training():
    model = cluster(net(), 4)
    before = kernels(model)[0]
    order = [np.array(ops.convert_to_numpy(one)) for one in model.transforms[0].centroids]
    after = kernels(fitted(model, epochs=8))[0]
    moved = ops.convert_to_numpy(model.transforms[0].centroids[0])
    assert np.any(order[0].searchsorted(before) != np.sort(moved).searchsorted(after))


def test_zeros_of_pruning_stay():
    model = fitted(cluster(prune(net(), 0.75), 6))
    for kernel in kernels(model):
        assert np.sum(kernel == 0) == np.round(0.75 * kernel.size)
        assert len(np.unique(kernel)) <= 6


def test_zero_is_a_cluster_of_pruned_kernels_only():
    source = net()
    kernel = np.array(ops.convert_to_numpy(source.get_layer("first").kernel))
    kernel[0] = 0.0  # by chance, as it were
    source.get_layer("first").kernel.assign(kernel)
    model = cluster(prune(source, 0.5, skip=["first"]), 2)
    assert len(np.unique(kernels(model)[0])) == 2
    first, second, head = kernels(fitted(model))
    assert len(np.unique(first)) == 2
    assert not np.any(first == 0)
    for kernel in (second, head):
        assert np.sum(kernel == 0) == kernel.size // 2
        assert len(np.unique(kernel)) == 2


def test_pruning_behind_adds_zero():
    for kernel in kernels(fitted(prune(cluster(net(), 4), 0.5), epochs=1)):
        assert np.sum(kernel == 0) == kernel.size // 2
        assert len(np.unique(kernel)) <= 5


def test_nested_subclassed_and_recurrent_models_are_clustered():
    for name in ("subclassed model", "nested model", "LSTM", "SeparableConv2D"):
        model = cluster(NETS[name](), 3)
        assert len(model.transforms[0].variable_indices) > 1
        for number, value in model.weight_values().items():
            assert len(np.unique(value)) <= 3, model.network.variables[number].path


def test_student_of_a_distiller_trains_its_centroids():
    model = cluster(net(), 4)
    before = [np.array(ops.convert_to_numpy(one)) for one in model.transforms[0].centroids]
    distiller = kn.Distiller(net(), model, kn.losses.DistillationLoss(2.0))
    distiller.compile(keras.optimizers.Adam(1e-2), loss=LOSS)
    distiller.fit(X, Y, batch_size=16, epochs=1, verbose=0)
    for one, value in zip(model.transforms[0].centroids, before, strict=True):
        assert not np.array_equal(ops.convert_to_numpy(one), value)


def test_k_means_finds_the_best_of_all_partitions():
    values = np.array([0.0, 0.1, 0.2, 3.0, 3.3, 9.0, 9.1])

    def cost(centroids):
        return np.min((values[:, None] - np.asarray(centroids)) ** 2, axis=1).sum()

    best = min(
        cost([values[:i].mean(), values[i:j].mean(), values[j:].mean()]) for i in range(1, 6) for j in range(i + 1, 7)
    )
    assert min(cost(kmeans_1d(values, 3, seed)) for seed in range(5)) == pytest.approx(best)


def test_seeds_are_kept():
    values = np.random.default_rng(1).normal(size=300)
    np.testing.assert_array_equal(kmeans_1d(values, 8, 3), kmeans_1d(values, 8, 3))
    assert not np.array_equal(kmeans_1d(values, 8, 3), kmeans_1d(values, 8, 4))


def test_fewer_values_than_clusters():
    np.testing.assert_allclose(np.unique(kmeans_1d(np.array([1.0, 1.0, 2.0]), 4, 0)), [1.0, 2.0])


def test_source_is_unchanged_and_the_keras_file_gives_the_same_bits(tmp_path):
    source = net()
    before = [np.array(weights) for weights in source.get_weights()]
    model = fitted(cluster(source, 6))
    for weights, value in zip(source.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, value)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    for going_on in (model, loaded):
        going_on.fit(X, Y, batch_size=16, epochs=1, verbose=0, shuffle=False)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_integers_are_as_few_as_the_centroids():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = layers.Flatten()(layers.ReLU()(layers.BatchNormalization()(x)))
    images = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    model = quantize_aware(cluster(keras.Model(inputs, layers.Dense(3)(x)), 4), calibration=images)
    model.compile(keras.optimizers.Adam(1e-2), LOSS)
    model.fit(images, Y, epochs=2, verbose=0)
    for kernel, scales in model.integers()[0]:
        assert len(np.unique(np.round(kernel / scales))) <= 4


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`clusters` must be >= 2"):
        cluster(net(), 1)
    with pytest.raises(TypeError, match="`clusters` must be an integer"):
        cluster(net(), 4.0)
    with pytest.raises(ValueError, match="`seed` must be >= 0"):
        cluster(net(), 4, seed=-1)
    with pytest.raises(ValueError, match="`skip` must name layers with kernels: first, second, head"):
        cluster(net(), 4, skip=["third"])
    with pytest.raises(ValueError, match="to cluster it"):
        cluster(quantize_aware(net(), calibration=X), 4)
    assert isinstance(strip(cluster(net(), 4)), keras.Model)
