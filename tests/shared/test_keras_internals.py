"""Each private attribute of Keras that the package reads, by name: a release that changes one fails here first."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_notes._shared import keras_internals

pytestmark = pytest.mark.any_backend


class Doubled(layers.Layer):
    """A layer that is not Keras's own, with a loss."""

    def call(self, x):
        """Twice the input."""
        self.add_loss(ops.sum(x))
        return 2 * x


@pytest.fixture
def nested():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="dense"), Doubled(name="doubled")], name="inner")
    outputs = {"sum": inner(inputs["a"]) + layers.Dense(4, name="other")(inputs["b"])}
    return keras.Model(inputs, outputs, name="outer")


def test_layers_are_the_model_and_all_within(nested):
    names = [layer.name for layer in keras_internals.layers_of(nested)]
    assert names[0] == "outer"
    assert {"inner", "dense", "doubled", "other"} < set(names)
    assert "outer" not in [layer.name for layer in keras_internals.layers_of(nested, include_self=False)]


def test_created_weights_are_those_of_the_layer_itself_and_stay_when_it_is_frozen(nested):
    assert keras_internals.created_weights_of(nested) == []
    dense = nested.get_layer("other")
    names = [weight.name for weight in keras_internals.created_weights_of(dense)]
    assert names == ["kernel", "bias"]
    dense.trainable = False
    assert [weight.name for weight in keras_internals.created_weights_of(dense)] == names


def test_operations_of_keras_ops_are_told_from_layers(nested):
    operations = [node.operation for node in keras_internals.nodes_in_order(nested)]
    by_class = {type(operation).__name__: keras_internals.is_keras_operation(operation) for operation in operations}
    assert by_class == {"Sequential": False, "Dense": False, "Add": True}


def test_functional_and_sequential_models_have_a_graph_and_others_none(nested):
    assert keras_internals.functional_of(nested) is nested
    assert isinstance(keras_internals.functional_of(nested.get_layer("inner")), keras.Function)
    assert keras_internals.functional_of(layers.Dense(3)) is None


def test_nodes_come_after_those_that_they_need(nested):
    known = {id(tensor) for tensor in nested.inputs}
    operations = []
    for node in keras_internals.nodes_in_order(nested):
        assert {id(tensor) for tensor in node.input_tensors} <= known
        known |= {id(tensor) for tensor in node.outputs}
        operations.append(node.operation.name)
    assert {"inner", "other"} < set(operations)
    assert not {"a", "b"} & set(operations)


def test_structures_are_those_that_the_model_was_made_with(nested):
    assert set(keras_internals.input_structure_of(nested)) == {"a", "b"}
    assert set(keras_internals.output_structure_of(nested)) == {"sum"}
    single = keras_internals.functional_of(nested.get_layer("inner"))
    assert isinstance(keras_internals.input_structure_of(single), keras.KerasTensor)


def test_a_tensor_knows_its_operation_and_what_that_took(nested):
    operation, taken = keras_internals.operation_of(nested.outputs[0])
    assert type(operation).__name__ == "Add"
    assert len(taken) == 2
    assert keras_internals.operation_of(np.zeros(3)) == (None, [])


def test_a_tensor_knows_its_index_among_the_outputs_of_its_operation():
    halves = ops.split(keras.Input((4,)), 2, axis=1)
    assert [keras_internals.output_index_of(half) for half in halves] == [0, 1]


def test_custom_classes_are_those_outside_of_keras(nested):
    assert keras_internals.custom_classes_of(nested) == {"Doubled": Doubled}
    assert keras_internals.is_keras_class(layers.Dense)


def test_a_loss_belongs_to_the_layer_that_added_it(nested):
    doubled, dense = nested.get_layer("inner").get_layer("doubled"), nested.get_layer("other")
    scope = keras.StatelessScope(collect_losses=True)
    with scope:
        doubled(ops.ones((1, 3)))
    (loss,) = scope.losses
    assert keras_internals.owns_loss(doubled, loss)
    assert not keras_internals.owns_loss(dense, loss)


def test_masks_travel_with_tensors():
    values = ops.ones((2, 3))
    assert keras_internals.get_mask(values) is None
    masked = layers.Masking()(values)
    assert tuple(keras_internals.get_mask(masked).shape) == (2,)


def test_unscaling_a_loss_outside_of_a_distribution_changes_nothing():
    assert float(keras_internals.unscale_loss_for_distribution(ops.convert_to_tensor(3.0))) == 3.0


def test_a_layer_says_whether_it_takes_training():
    assert keras_internals.takes_training(layers.Dropout(0.5))
    assert not keras_internals.takes_training(layers.Flatten())
