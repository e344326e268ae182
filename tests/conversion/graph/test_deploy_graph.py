"""The graph that is converted: names, flat inputs and outputs, and the samples that it takes."""

import keras
import numpy as np
import pytest

from keras_notes import errors
from keras_notes.conversion.graph._deploy_graph import deploy_graph

SAMPLES = {"left": np.arange(6.0).reshape(2, 3), "right": np.ones((2, 4))}


@pytest.fixture
def two_inputs():
    """A functional model of the inputs left and right, in the form that a test asks for."""
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    outputs = [keras.layers.Dense(2, name="first")(joined), keras.layers.Dense(5, name="second")(joined)]
    return {
        "list": keras.Model([left, right], outputs),
        "dict": keras.Model({"left": left, "right": right}, {"first": outputs[0], "second": outputs[1]}),
    }


def test_a_batch_is_one_sample_and_names_are_kept():
    model = keras.Sequential([keras.Input((8, 8, 1), name="image"), keras.layers.Flatten()])
    graph = deploy_graph(model)
    assert {name: spec.shape for name, spec in graph.input_specs.items()} == {"image": (1, 8, 8, 1)}
    assert graph.output_names == ("output",)


def test_names_that_keras_makes_up_are_replaced():
    single = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    left, right = keras.Input((3,)), keras.Input((3,))
    two = keras.Model([left, right], keras.layers.Add()([left, right]))
    assert list(deploy_graph(single).input_specs) == ["input"]
    assert list(deploy_graph(two).input_specs) == ["input_0", "input_1"]


def test_a_model_has_the_same_names_after_a_round_trip_through_a_file(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert list(deploy_graph(loaded).input_specs) == list(deploy_graph(model).input_specs)


@pytest.mark.parametrize("form", ["list", "dict"])
def test_outputs_are_those_of_the_model(two_inputs, form):
    model = two_inputs[form]
    graph = deploy_graph(model)
    outputs = graph.run(graph.arrays("x", SAMPLES))[1]
    inputs = {"list": list(SAMPLES.values()), "dict": SAMPLES}[form]
    expected = keras.tree.flatten(model.predict(inputs, verbose=0))
    assert list(outputs) == ["first", "second"]
    for name, values in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(outputs[name], values)


def test_outputs_of_one_shared_layer_are_all_kept():
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    shared = keras.layers.Dense(2)
    graph = deploy_graph(keras.Model([left, right], [shared(left), shared(right)]))
    samples = {"left": np.zeros((1, 3)), "right": np.ones((1, 3))}
    assert len(graph.run(graph.arrays("x", samples))[1]) == 2


def test_samples_are_taken_by_name_in_a_list_or_as_they_are(two_inputs):
    graph = deploy_graph(two_inputs["dict"])
    reversed_samples = dict(reversed(SAMPLES.items()))
    for values in (SAMPLES, reversed_samples, list(SAMPLES.values()), tuple(SAMPLES.values())):
        arrays = graph.arrays("x", values)
        assert list(arrays) == ["left", "right"]
        np.testing.assert_array_equal(arrays["left"], SAMPLES["left"])
        assert arrays["left"].dtype == np.float32
    single = deploy_graph(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    np.testing.assert_array_equal(single.arrays("x", SAMPLES["left"])["input"], SAMPLES["left"])


@pytest.mark.parametrize(
    "values",
    [SAMPLES["left"], [SAMPLES["left"]], {"left": SAMPLES["left"]}, {**SAMPLES, "middle": SAMPLES["left"]}],
)
def test_samples_for_other_inputs_are_refused(two_inputs, values):
    with pytest.raises(ValueError, match=r"`x` must hold one array for each of the inputs \['left', 'right'\]"):
        deploy_graph(two_inputs["list"]).arrays("x", values)


def test_inputs_of_different_numbers_of_samples_are_refused(two_inputs):
    values = {**SAMPLES, "right": np.ones((3, 4))}
    with pytest.raises(ValueError, match=r"same number of samples.* Received: \{'left': 2, 'right': 3\}"):
        deploy_graph(two_inputs["list"]).arrays("x", values)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model\. Received: model='Dense'"):
        deploy_graph(keras.layers.Dense(2))


class Subclassed(keras.Model):
    """A model without a graph."""

    def call(self, x):
        return x


@pytest.mark.parametrize(
    "model", [Subclassed(), keras.Sequential([keras.layers.Dense(2)])], ids=["subclassed", "unbuilt"]
)
def test_a_model_without_a_graph_is_refused(model):
    with pytest.raises(
        errors.ConversionError,
        match=r"The inputs .* must be known\. Received: a subclassed or unbuilt model\. Give .* or wrap it:",
    ):
        deploy_graph(model)


def test_an_input_of_unknown_size_is_refused():
    model = keras.Sequential([keras.Input((None, 3), name="sequence"), keras.layers.LSTM(2)])
    with pytest.raises(errors.ConversionError, match=r"\(None, None, 3\) for the input 'sequence'\. Rebuild"):
        deploy_graph(model)


@pytest.mark.parametrize("form", ["array", "list", "dict"])
def test_the_inputs_of_a_subclassed_model_are_those_of_its_samples(form):
    class Sum(keras.Model):
        def call(self, x):
            return sum(keras.tree.flatten(x))

    samples = {"array": np.ones((4, 3)), "list": [np.ones((4, 3))] * 2, "dict": {"a": np.ones((4, 3))}}[form]
    names = {"array": ["input"], "list": ["input_0", "input_1"], "dict": ["a"]}[form]
    graph = deploy_graph(Sum(), example=samples)
    assert list(graph.input_specs) == names
    fed, outputs = graph.run(graph.arrays("x", samples))
    np.testing.assert_array_equal(outputs["output"], sum(fed.values()))


def test_outputs_of_a_subclassed_model_keep_their_names():
    class Two(keras.Model):
        def call(self, x):
            return {"second": x + 2, "first": x + 1}

    graph = deploy_graph(Two(), example=np.zeros((2, 3)))
    _, outputs = graph.run({"input": np.zeros((2, 3), "float32")})
    assert {name: values[0, 0] for name, values in outputs.items()} == {"first": 1, "second": 2}


def test_states_are_inputs_and_outputs_and_a_sequence_starts_from_zeros():
    model = keras.Sequential([keras.Input(batch_shape=(1, 2, 3)), keras.layers.LSTM(4, stateful=True, name="cell")])
    graph = deploy_graph(model)
    assert [(state.input, state.output) for state in graph.states] == [
        ("cell_state_0", "cell_state_0_next"),
        ("cell_state_1", "cell_state_1_next"),
    ]
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    for _ in range(2):  # a run leaves nothing behind
        fed, outputs = graph.run({"input": x})
        np.testing.assert_array_equal(fed["cell_state_0"][0], 0.0)
        np.testing.assert_array_equal(fed["cell_state_0"][1:], outputs["cell_state_0_next"][:-1])
    whole = keras.Sequential([keras.Input((10, 3)), keras.layers.LSTM(4)])
    whole.set_weights(model.get_weights())
    np.testing.assert_allclose(outputs["output"][-1], whole(x.reshape(1, 10, 3))[0], atol=1e-6)


def test_states_of_a_batch_are_refused():
    model = keras.Sequential([keras.Input(batch_shape=(2, 2, 3)), keras.layers.GRU(4, stateful=True, name="cell")])
    with pytest.raises(errors.ConversionError, match=r"must have the batch size 1\. Received: 2 for 'cell'"):
        deploy_graph(model)


def stateful_block(name):
    """A model around one stateful layer "cell"."""
    series = [keras.Input(batch_shape=(1, 2, 3)), keras.layers.SimpleRNN(4, stateful=True, name="cell")]
    return keras.Sequential(series, name=name)


def around(*blocks):
    """A model of nested models on the same series."""
    inputs = keras.Input(batch_shape=(1, 2, 3), name="series")
    return keras.Model(inputs, keras.layers.Concatenate()([block(inputs) for block in blocks]))


def test_states_of_layers_with_one_name_are_named_by_path():
    model = around(stateful_block("left"), stateful_block("right"))
    graph = deploy_graph(model)
    assert [state.input for state in graph.states] == ["left_cell_state_0", "right_cell_state_0"]
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    run = graph.run({"series": x})
    assert list(run.inputs) == ["series", "left_cell_state_0", "right_cell_state_0"]
    expected = {name: layer for name in ("left", "right") for layer in model.get_layer(name).layers}
    for place, (name, cell) in enumerate(expected.items()):
        whole = keras.layers.RNN(cell.cell)
        last = run.outputs["output"][-1, 4 * place : 4 * place + 4]
        np.testing.assert_allclose(last, whole(x.reshape(1, 10, 3))[0], atol=1e-6)
        np.testing.assert_array_equal(run.outputs[f"{name}_cell_state_0_next"][-1], last)


def test_states_of_a_nested_layer_with_a_unique_name_keep_its_name():
    graph = deploy_graph(keras.Sequential([keras.Input(batch_shape=(1, 2, 3)), stateful_block("left")]))
    assert [state.input for state in graph.states] == ["cell_state_0"]


def test_states_of_paths_that_look_alike_are_numbered():
    blocks = [keras.Sequential([stateful_block("b")], name="a"), stateful_block("a_b")]
    names = [state.input for state in deploy_graph(around(*blocks)).states]
    assert sorted(names) == ["a_b_cell_2_state_0", "a_b_cell_state_0"]
