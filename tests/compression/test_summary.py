"""What a model's kernels are, and which of its layers integers cost most."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_notes.compression import cluster, prune, quantize_aware, sensitivity, summary

pytestmark = pytest.mark.any_backend

X = np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)))


def test_counts_are_those_of_the_shapes():
    conv, depthwise, head = summary(net()).kernels
    assert (conv.macs, depthwise.macs, head.macs) == (36 * 3 * 3 * 2 * 4, 16 * 3 * 3 * 4, 64 * 3)
    assert (conv.bits, conv.weight_bytes, head.weight_bytes) == (32, 4 * 72, 4 * 192)
    assert conv.sparsity == 0.0


def test_pruned_clustered_and_quantized_kernels_are_counted_as_the_file_has_them():
    model = quantize_aware(cluster(prune(net(), 0.75), 8), calibration=X, skip=["head"])
    conv, depthwise, head = summary(model).kernels
    assert conv.sparsity >= 0.75
    assert depthwise.unique_values <= 8
    assert (conv.bits, conv.weight_bytes) == (8, 72)
    assert (head.bits, head.weight_bytes) == (32, 4 * 192)
    assert summary(model).weight_bytes == 72 + 36 + 4 * 192


def test_printed_table_names_each_kernel():
    lines = str(summary(net())).splitlines()
    assert lines[0].split() == ["kernel", "bits", "sparsity", "values", "bytes", "MACs"]
    assert [line.split()[0] for line in lines[1:]] == ["conv/kernel", "depthwise/kernel", "head/kernel"]


def test_layer_whose_small_weights_matter_gains_most_by_floating_point():
    model = net()
    # One channel is a thousand times as large as the others, and the head's weights for it as much smaller: they round
    # to 0 beside the others.
    kernel = np.array(keras.ops.convert_to_numpy(model.get_layer("conv").kernel))
    kernel[..., 0] *= 1000
    model.get_layer("conv").kernel.assign(kernel)
    head = np.array(keras.ops.convert_to_numpy(model.get_layer("head").kernel))
    head.reshape(4, 4, 4, 3)[..., 0, :] /= 1000
    model.get_layer("head").kernel.assign(head)
    found = sensitivity(model, X)
    assert {one.layer for one in found} == {"conv", "depthwise", "flat", "head"}
    assert found[0].layer == "head"
    assert found[0].gain > 0.1
    assert [one.gain for one in found] == sorted((one.gain for one in found), reverse=True)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`samples` must be >= 1"):
        sensitivity(net(), X, samples=0)
    with pytest.raises(ValueError, match="must have kernels"):
        summary(keras.Sequential([keras.Input((3,)), layers.ReLU()]))
