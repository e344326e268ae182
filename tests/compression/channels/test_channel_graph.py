"""The store of a model's channels: numbers, joined channels, cut variables, and sizes of layers."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_notes.compression.channels._analysis import analyze_channels
from keras_notes.compression.channels._channel_graph import ChannelGraph, Channels, connected_components

pytestmark = pytest.mark.any_backend


def channels(*numbers, axis=1):
    return Channels(axis, np.array(numbers))


def test_connected_components_are_named_by_their_smallest_node():
    edges = [np.array([[4, 3], [3, 1]]), np.array([[0], [5]])]
    assert connected_components(6, edges).tolist() == [0, 1, 2, 1, 1, 0]
    assert connected_components(3, []).tolist() == [0, 1, 2]


def test_joined_channels_become_one_in_each_place():
    graph = ChannelGraph()
    graph.new_numbers(4)
    graph.join([channels(0, 1), channels(2, 3)], "unused")
    assert graph.components().tolist() == [0, 1, 0, 1]
    assert graph.kept == []


@pytest.mark.parametrize("other", [None, channels(2), channels(2, 3, axis=2)])
def test_channels_in_other_places_are_not_joined_and_stay(other):
    graph = ChannelGraph()
    graph.new_numbers(4)
    graph.join([channels(0, 1), other], "they do not fit")
    assert graph.components().tolist() == [0, 1, 2, 3]
    assert [reason for _, reason in graph.kept] == ["they do not fit"] * (1 if other is None else 2)


def test_a_layer_that_is_called_twice_keeps_its_numbers():
    graph, layer, other = ChannelGraph(), layers.Dense(3), layers.Dense(2)
    graph.paths.append(("dense",))
    first = graph.add_producer(layer, 3)
    assert graph.add_producer(layer, 3) is first
    assert graph.add_producer(other, 2).numbers.tolist() == [3, 4]
    assert [producer.layer for producer in graph.producers] == [layer, other]


def test_a_later_cut_or_size_replaces_an_earlier_one():
    graph, layer = ChannelGraph(), layers.Dense(2)
    layer.build((None, 2))
    assert (graph.cuts_of(layer.kernel), graph.size_of(layer)) == ([], None)
    graph.cut(layer.kernel, channels(0, 1), channels(2, 3))
    graph.cut(layer.kernel, channels(4, 5))
    graph.resize(layer, "units", channels(0, 1, axis=0))
    graph.resize(layer, "units", channels(4, 5, axis=0))
    assert [cut.numbers.tolist() for cut in graph.cuts_of(layer.kernel)] == [[4, 5]]
    assert graph.size_of(layer).channels.numbers.tolist() == [4, 5]


@pytest.mark.parametrize(("activation", "is_folded"), [(None, True), ("relu", False)])
def test_a_batch_normalization_is_folded_into_a_layer_without_activation_only(activation, is_folded):
    dense, normalization = layers.Dense(3, activation=activation), layers.BatchNormalization()
    model = keras.Sequential([keras.Input((2,)), dense, normalization])
    graph = analyze_channels(model._functional, lambda path: False)
    assert (graph.normalization_of(dense) is normalization) == is_folded


def test_the_analysis_names_paths_and_keeps_what_the_model_returns_or_skips():
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="dense")], name="inner")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(4, name="head")(inner(inputs)))
    graph = analyze_channels(model, lambda path: path[-1] == "dense")
    assert graph.paths == [("inner",), ("inner", "dense"), ("head",)]
    assert [(numbers.size, reason) for numbers, reason in graph.kept] == [
        (3, "'inner/dense' is skipped"),
        (4, "the model returns them"),
    ]
