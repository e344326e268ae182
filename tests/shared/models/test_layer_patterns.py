"""Patterns of layers: what matches a path of names, which pattern counts, and the paths of a model's layers."""

import keras
import pytest
from keras import layers

from keras_notes._shared.models.layer_patterns import (
    check_skip,
    last_match,
    layers_by_path,
    matches,
    matches_any,
    matching_patterns,
    shortest_patterns,
    skip_patterns,
)

PATH = ("encoder", "block", "lstm")


@pytest.mark.parametrize(
    "pattern",
    [
        "lstm",
        "block",
        "encoder",
        "block/lstm",
        "encoder/block",
        "encoder/block/lstm",
        "*",
        "ls*",
        "block/*",
        "*/lstm",
        "encoder/*/lstm",
        "[kl]stm",
    ],
)
def test_a_name_or_any_part_of_the_path_matches(pattern):
    assert matches(pattern, PATH)


@pytest.mark.parametrize(
    "pattern",
    ["", "stm", "lst", "LSTM", "encoder/lstm", "lstm/block", "lstm/*", "/lstm", "block/", "lock/lstm", "lstm/cell"],
)
def test_a_part_of_a_name_or_another_order_does_not_match(pattern):
    assert not matches(pattern, PATH)


def test_no_pattern_matches_an_empty_path():
    assert not matches("*", ())


def test_matching_patterns_keep_their_order():
    assert matching_patterns(["lstm", "gru", "block/*", "*"], PATH) == ["lstm", "block/*", "*"]
    assert matching_patterns(["*", "block/*", "gru", "lstm"], PATH) == ["*", "block/*", "lstm"]
    assert matching_patterns([], PATH) == []


def test_one_of_several_patterns_is_enough():
    assert matches_any(["gru", "block/*"], PATH)
    assert not matches_any(["gru", "lstm/*"], PATH)
    assert not matches_any([], PATH)


def test_skip_patterns_are_a_tuple_of_strings():
    assert skip_patterns(["lstm", "block/*"]) == ("lstm", "block/*")
    for wrong in ("lstm", [1], ["lstm", None]):
        with pytest.raises(TypeError, match="`skip` must be a sequence of patterns"):
            skip_patterns(wrong)


def test_a_pattern_without_a_layer_is_an_error_that_lists_the_layers():
    check_skip(["lstm"], [PATH])
    with pytest.raises(ValueError, match=r"must name layers with kernels: encoder/block/lstm\. Received: skip='gru'\."):
        check_skip(["lstm", "gru"], [PATH, PATH], "layers with kernels")


def test_the_last_pattern_that_matches_counts():
    assert last_match({"block/lstm": 1, "*": 2, "gru": 3}, PATH) == "*"
    assert last_match({"*": 2, "gru": 3, "block/lstm": 1}, PATH) == "block/lstm"
    assert last_match({"gru": 3, "lstm/*": 1}, PATH) is None


def test_the_last_pattern_counts_over_all_paths_of_a_shared_layer():
    paths = [("first", "lstm"), ("second", "lstm")]
    assert last_match(["second", "first"], *paths) == "first"
    assert last_match(["first", "second"], *paths) == "second"
    assert last_match(["*"]) is None


def test_layers_are_found_by_each_of_their_paths():
    shared = layers.Dense(4, name="shared")
    first = keras.Sequential([keras.Input((4,)), shared], name="first")
    second = keras.Sequential([keras.Input((4,)), shared, layers.Dense(4, name="own")], name="second")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, second(first(inputs)), name="net")
    dense = {"/".join(path): layer for path, layer in layers_by_path(model) if isinstance(layer, layers.Dense)}
    assert dense == {"first/shared": shared, "second/shared": shared, "second/own": second.get_layer("own")}


def test_a_layer_that_holds_the_one_around_it_is_walked_once():
    class Inner(layers.Layer):
        pass

    class Outer(layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.inner = Inner(name="inner")
            self.inner.outer = self

    assert [path for path, _ in layers_by_path(Outer(name="outer"))] == [("inner",)]


def test_the_number_of_an_operation_may_be_left_out():
    assert matches("cumsum", ("head", "cumsum#2"))
    assert matches("head/cumsum", ("head", "cumsum#2"))
    assert matches("cumsum#2", ("head", "cumsum#2"))
    assert not matches("cumsum#2", ("head", "cumsum"))
    assert not matches("cumsum#2", ("head", "cumsum#3"))


def test_patterns_of_paths_are_as_few_as_possible_and_keep_the_declared():
    paths = [("head", "cumsum"), ("cumsum#2",), ("cumsum",), ("odd[1]",), ("block", "dense")]
    patterns = shortest_patterns(paths, ["block/*", "other"])
    assert patterns == ["block/*", "other", "cumsum", "odd[[]1]"]
    assert all(matches_any(patterns, path) for path in paths)
