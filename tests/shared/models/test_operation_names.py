"""Names of operations: the same in every process, and carried by scopes."""

import keras
import pytest
from keras import layers, ops

from keras_notes._shared.models.operation_names import name_of_scope, open_scopes, operation_paths


def names_of(function):
    return ["/".join(path) for path in operation_paths(function).values()]


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
            return keras.KerasTensor(x.shape, x.dtype)

    inputs = keras.Input((4,))
    doubled = Double(name="twice")(Double()(inputs))
    assert names_of(keras.Model(inputs, doubled)) == ["double", "twice"]


@pytest.mark.parametrize("layer", [layers.Masking(name="masks"), layers.Embedding(5, 3, mask_zero=True, name="masks")])
def test_operations_of_a_mask_belong_to_the_layer_that_makes_it(layer):
    shape = (4,) if isinstance(layer, layers.Embedding) else (4, 3)
    inputs = keras.Input(shape)
    hidden = layers.LSTM(2, return_sequences=True)(layer(inputs))
    model = keras.Model(inputs, layers.LSTM(2)(hidden)[:, ::-1])
    assert {name.partition("/")[0] for name in names_of(model)} == {"masks", "get_item"}
    assert "masks/not_equal" in names_of(model)


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
