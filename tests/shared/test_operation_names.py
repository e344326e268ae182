"""Names of operations: the same in every process, and carried by scopes."""

import keras
from keras import layers, ops

from keras_notes._shared.operation_names import name_of_scope, open_scopes, operation_names


def names_of(function):
    return list(operation_names(function).values())


def two_sums(x):
    return ops.cumsum(ops.cumsum(x, axis=1)[:, ::-1], axis=1)


def test_operations_are_named_after_their_class_and_numbered_in_their_graph():
    inputs = keras.Input((4,))
    models = [keras.Model(inputs, two_sums(layers.Dense(4)(inputs))) for _ in range(2)]
    for model in models:
        assert names_of(model) == ["cumsum", "get_item", "cumsum#2"]
    copy = keras.models.clone_model(models[1])
    assert names_of(copy) == ["cumsum", "get_item", "cumsum#2"]


def test_an_operation_keeps_a_name_that_was_chosen_for_it():
    class Double(keras.Operation):
        def call(self, x):
            return x * 2

        def compute_output_spec(self, x):
            return x

    inputs = keras.Input((4,))
    doubled = Double(name="twice")(Double()(inputs))
    assert names_of(keras.Model(inputs, doubled)) == ["double", "twice"]


def test_scopes_carry_names_with_numbers():
    import tensorflow as tf

    with tf.Graph().as_default():
        with open_scopes(["head", "cumsum#2"]):
            name = tf.constant(1.0).name
        with open_scopes([]):
            assert tf.constant(1.0, name="plain").name == "plain:0"
    scopes = name.split("/")[:2]
    # Each scope was opened once before.
    assert [name_of_scope(scope.removesuffix("_1")) for scope in scopes] == ["head", "cumsum#2"]
