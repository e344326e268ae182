"""Clustered weights become as few different integers, whichever layer they belong to and whatever it is called."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from keras_notes.compression import CompressedModel, cluster, quantize_aware
from keras_notes.compression._compressed_model import attach_quantization
from keras_notes.compression.quantization._affine import INT8, Grid
from keras_notes.compression.quantization._evaluator import Rounded, grid_of
from keras_notes.compression.quantization._quantized_network import QuantizedNetwork, calibrate, trace_network
from tests.compression.zoo import NETS, samples

CLUSTERS = 16
# A net for each kind of layer whose weights `cluster` takes, alone, folded, nested, and opened from a larger layer.
LAYERS_WITH_WEIGHTS = [
    "Dense",
    "EinsumDense",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
    "Conv1DTranspose",
    "Conv2DTranspose",
    "BatchNormalization, folded",
    "MultiHeadAttention",
    "LSTM",
    "GRU",
    "SimpleRNN",
    "Bidirectional",
    "nested model",
    "subclassed model",
]


def clustered(name: str) -> CompressedModel:
    keras.utils.set_random_seed(0)
    net = NETS[name]()
    for weights in net.trainable_variables:
        if len(weights.shape) > 1:  # channels of different ranges, whichever axis they are
            rows, columns = (np.linspace(0.2, 1.0, size) for size in weights.shape[-2:])
            weights.assign(ops.convert_to_numpy(weights) * rows[:, None] * columns)
    return quantize_aware(cluster(net, CLUSTERS), calibration=samples(net, 8)[0])


def without_clusters(model: CompressedModel) -> CompressedModel:
    """The same model, each channel of whose weights has a scale of its own."""
    quantization = model.quantization
    limits = quantization.ranges.limits
    program, config, points = quantization._program, quantization.config, quantization.ranges.points
    model.quantization = QuantizedNetwork(program, model.input_structure, config, points)
    model.quantization.ranges.start(limits)
    return model


def largest_number_of_integers(model: CompressedModel) -> int:
    kernels, _ = model.integers()
    return max(len(np.unique(np.round(kernel / scales))) for kernel, scales in kernels)


@pytest.mark.parametrize("name", LAYERS_WITH_WEIGHTS)
def test_there_are_as_many_integers_as_clusters(name):
    model = clustered(name)
    assert largest_number_of_integers(model) <= CLUSTERS
    assert largest_number_of_integers(without_clusters(model)) > CLUSTERS


@pytest.mark.parametrize("name", ["Dense", "SeparableConv2D", "GRU", "Bidirectional"])
def test_the_names_of_weights_do_not_matter(name):
    model = clustered(name)
    config, structure = model.scheme, model.input_structure
    program = trace_network(model.network, structure, config)
    renamed = replace(program, steps=tuple(replace(step, name=f"other/{step.name}") for step in program.steps))
    with model.transformed():
        limits = calibrate(renamed, structure, config, samples(model.network, 8))
    quantization = attach_quantization(model, renamed, config, tuple(limits))
    quantization.ranges.start(np.array(list(limits.values()), "float32"))
    assert largest_number_of_integers(model) <= CLUSTERS


def test_constants_are_computed_once_until_a_weight_changes(monkeypatch):
    model = clustered("Dense")
    runs = []
    compute = QuantizedNetwork._compute_constants
    monkeypatch.setattr(QuantizedNetwork, "_compute_constants", lambda self: runs.append(self) or compute(self))
    first, second = model.integers(), model.integers()
    assert len(runs) == 1
    np.testing.assert_array_equal(first[0][0][0], second[0][0][0])
    bias = model.network.layers[-1].bias
    bias.assign(ops.convert_to_tensor(bias) + 1.0)
    model.integers()
    assert len(runs) == 2
    model.quantization.ranges.limits.assign(model.quantization.ranges.limits * 2.0)
    model.integers()
    assert len(runs) == 3


def test_a_value_in_floating_point_has_no_grid():
    grid = Grid(0.5, 0.0, INT8)
    assert grid_of(Rounded(1.0, grid)) is grid
    with pytest.raises(ValueError, match=r"must be on a grid .* Received: name='dense' in floating point"):
        grid_of(Rounded(1.0, None, "dense"))
