"""Names and remedies in messages: what a message names can be pasted, and the model is then converted in one step."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert.reader import read_tflite
from keras_notes.compression import quantize_aware

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
# Operations that LiteRT has in floating point only, by the name that messages give them.
FLOAT_ONLY = {
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    # A rounding that moves to the next integer by an error of quantization changes the result by a thousandth.
    "round": lambda x: x + 0.001 * ops.round(x),
    "arctan2": lambda x: ops.arctan2(x, ops.abs(x) + 1.0),
}
# Operations that training has in floating point only.
FLOAT_IN_TRAINING = {"mod": lambda x: ops.mod(x, 2.0), "flip": lambda x: ops.flip(x, axis=1)}
OPERATIONS = {**FLOAT_ONLY, **FLOAT_IN_TRAINING}


@keras.saving.register_keras_serializable(package="keras_notes_tests")
class Head(layers.Layer):
    """A custom layer: a dense layer and an operation."""

    def __init__(self, operation, **keywords):
        super().__init__(**keywords)
        self.operation = operation
        self.dense = layers.Dense(6, name="dense")

    def build(self, shape):
        self.dense.build(shape)
        super().build(shape)

    def call(self, x):
        return OPERATIONS[self.operation](self.dense(x))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "operation": self.operation}


def nested(operation, name="inner"):
    inputs = keras.Input((6,))
    return keras.Model(inputs, OPERATIONS[operation](layers.Dense(6, name="within")(inputs)), name=name)


def at_the_top(operation, x):
    return OPERATIONS[operation](x)


def in_a_custom_layer(operation, x):
    return Head(operation, name="head")(x)


def in_a_nested_model(operation, x):
    return nested(operation)(x)


def in_a_nested_custom_layer(operation, x):
    inputs = keras.Input((6,))
    return keras.Model(inputs, Head(operation, name="head")(inputs), name="outer")(x)


def used_twice(operation, x):
    return OPERATIONS[operation](layers.Dense(6)(OPERATIONS[operation](x)))


def a_model_called_twice(operation, x):
    model = nested(operation, name="shared")
    return model(model(x))


def in_each_step(operation, x):
    each = layers.TimeDistributed(Head(operation, name="each"), name="distributed")
    return layers.Flatten()(each(layers.Reshape((1, 6))(x)))


def after_both_directions(operation, x):
    both = layers.Bidirectional(layers.LSTM(3), name="both")
    return OPERATIONS[operation](both(layers.Reshape((2, 3))(x)))


PLACES = (
    at_the_top,
    in_a_custom_layer,
    in_a_nested_model,
    in_a_nested_custom_layer,
    used_twice,
    a_model_called_twice,
    in_each_step,
    after_both_directions,
)


def net(*parts, last=True):
    """A network with an operation at each place; the last one is an output of the model unless `last`."""
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(6, activation="relu", name="first")(inputs)
    for place, operation in parts:
        hidden = place(operation, hidden)
    return keras.Model(inputs, layers.Dense(3, name="last")(hidden) if last else hidden, name="net")


EVERYWHERE = (
    (at_the_top, "cumsum"),
    (in_a_custom_layer, "round"),
    (in_a_nested_model, "cumsum"),
    (used_twice, "cumsum"),
)


def refusal_of(convert):
    with pytest.raises((errors.ConversionError, errors.QuantizationError)) as caught:
        convert()
    return caught.value


def converted(model, directory, recipe="static_int8", **keywords):
    ranges = (
        {"calibration": X} if str(recipe).find("int8") >= 0 and "dynamic" not in str(recipe)[:14] else {"golden": X}
    )
    return kn.convert(model, directory, **{"recipe": recipe, **ranges, **keywords})


def results_of(bundle):
    """The names of the results in a bundle's file, by operator."""
    return [
        (operator.name, graph.tensors[operator.outputs[0]].name)
        for graph in read_tflite(bundle.model_path).graphs
        for operator in graph.operators
    ]


def test_operators_are_named_after_layer_and_operation(tmp_path):
    inputs = keras.Input((4, 6), name="x")
    hidden = layers.Masking(name="masking")(inputs)
    hidden = layers.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid", name="lstm")(hidden)
    hidden = layers.TimeDistributed(layers.Dense(6, name="each"), name="distributed")(hidden)
    hidden = ops.floor(hidden * 3.0)[:, 0]
    hidden = nested("cumsum")(Head("round", name="head")(hidden))
    model = keras.Model(inputs, ops.cumsum(ops.floor(hidden * 3.0), axis=1), name="net")
    x = RNG.normal(size=(8, 4, 6)).astype("float32")
    names = results_of(kn.convert(model, tmp_path / "bundle", "float32", golden=x))
    layers_of = {name.rpartition("/")[0] for _, name in names}
    expected = {"masking", "lstm", "distributed/each", "floor", "floor#2", "head/dense", "head/round", "inner/within",
                "inner/cumsum", "cumsum"}  # fmt: skip
    assert expected <= layers_of
    assert all(name.startswith(("masking/", "lstm/")) for kind, name in names if kind in ("NOT_EQUAL", "TANH"))
    assert not any("clip" in layer or "while" in layer for layer in layers_of)


def test_names_do_not_depend_on_the_models_made_before(tmp_path):
    messages = set()
    for _ in range(2):
        ops.cumsum(keras.KerasTensor((None, 6)), axis=1)
        messages.add(str(refusal_of(lambda: quantize_aware(net((at_the_top, "cumsum"), (used_twice, "round"))))))
    assert len(messages) == 1


def test_a_refusal_of_convert_lists_everything_and_works_when_pasted(tmp_path):
    model = net(*EVERYWHERE)
    declared = {"default": "static_int8", "layers": {"head/round": "float16"}}
    error = refusal_of(lambda: converted(model, tmp_path / "bundle", declared))
    exceptions = error.remedy["recipe"]["layers"]
    assert exceptions["head/round"] == "float16"
    assert set(exceptions) == {"cumsum", "head/round"}
    assert str(error.remedy["recipe"]) in str(error)
    bundle = converted(model, tmp_path / "bundle", **error.remedy)
    assert kn.verify(bundle).ok


def test_a_refusal_of_quantize_aware_lists_everything_and_works_when_pasted(tmp_path):
    model = net(*EVERYWHERE, (used_twice, "round"))
    error = refusal_of(lambda: quantize_aware(model, calibration=X, skip=["last"]))
    assert error.remedy["skip"][0] == "last"
    assert str(error.remedy["skip"]) in str(error)
    aware = quantize_aware(model, calibration=X, **error.remedy)
    bundle = kn.convert(aware, tmp_path / "bundle")
    floats = {island.split(" ")[1].rpartition("/")[0] for island in kn.verify(bundle).float_islands}
    operations = {"cumsum", "cumsum#2", "cumsum#3", "inner/cumsum"}
    # A rounding may compute in integers.
    assert floats - {"head/round", "round", "round#2"} == {*operations, "last"}


@pytest.mark.slow
def test_convert_takes_the_names_that_quantize_aware_tells(tmp_path):
    model = net(*EVERYWHERE)
    skip = refusal_of(lambda: quantize_aware(model, calibration=X)).remedy["skip"]
    recipe = {"default": "static_int8", "layers": dict.fromkeys(skip, "float32")}
    assert kn.verify(converted(model, tmp_path / "bundle", recipe)).ok


def test_a_name_that_nothing_has_is_an_error_that_lists_the_names(tmp_path):
    recipe = {"default": "static_int8", "layers": {"cumsums": "float32"}}
    with pytest.raises(
        errors.ConversionError, match=r"must name layers of the model: cumsum, first, last\. Received: \['cumsums'\]"
    ):
        converted(net((at_the_top, "cumsum")), tmp_path / "bundle", recipe)


def test_an_exception_for_a_layer_without_operators_is_taken(tmp_path):
    model = keras.Sequential([keras.Input((6,), name="x"), layers.Dense(4), layers.Dropout(0.5, name="drop")])
    recipe = {"default": "static_int8", "layers": {"drop": "float32"}}
    assert kn.verify(converted(model, tmp_path / "bundle", recipe)).ok


def test_models_that_are_not_for_a_device_say_what_to_convert(tmp_path):
    student = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="dense")])
    distiller = kn.distillation.Distiller(student=student, teacher=keras.models.clone_model(student))
    with pytest.raises(errors.ConversionError, match=r"Received: .*Distiller.* Convert distiller\.student"):
        converted(distiller, tmp_path / "bundle", "float32")
    student.layers[0].quantize("int8")
    with pytest.raises(errors.ConversionError, match=r"'dense', quantized by Keras's .*recipe='dynamic_int8'"):
        converted(student, tmp_path / "bundle", "float32")
    with pytest.raises(ValueError, match=r"'dense', quantized by Keras's"):
        quantize_aware(student)


@pytest.mark.parametrize(
    "layer",
    [
        layers.IntegerLookup(vocabulary=[3, 5, 7], name="lookup"),
        pytest.param(layers.CategoryEncoding(8, output_mode="multi_hot", name="categories"), marks=pytest.mark.slow),
        pytest.param(layers.Hashing(8, name="hashes"), marks=pytest.mark.slow),
    ],
    ids=lambda layer: layer.name,
)
def test_the_snippet_for_ids_outside_of_the_model_works(tmp_path, layer):
    inputs = keras.Input((4,), dtype="int32", name="ids")
    model = keras.Model(inputs, layers.Dense(2)(ops.cast(layer(inputs), "float32")))
    x = RNG.integers(0, 8, (16, 4)).astype("int32")
    error = refusal_of(lambda: kn.convert(model, tmp_path / "bundle", "float32", golden=x))
    assert repr(layer.name) in str(error)
    assert "MLIR" not in str(error)
    snippet = str(error).partition("samples of the input: ")[2]
    exec(snippet, {"keras": keras, "keras_notes": kn, "model": model, "x": x, "directory": tmp_path / "bundle"})
    assert kn.verify(tmp_path / "bundle").ok


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_nested_models_in_mixed_precision_convert_in_float32(tmp_path, policy):
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        inputs = keras.Input((6,), name="x")
        inner = keras.Sequential([layers.Dense(8), layers.ReLU()], name="inner")
        model = keras.Model(inputs, layers.Dense(3, dtype="float32")(inner(layers.Dense(6)(inputs)) + 0.5))
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert kn.verify(converted(model, tmp_path / "float32", "float32")).ok
    assert kn.verify(converted(model, tmp_path / "static_int8")).ok
    assert inner.layers[0].compute_dtype == policy.removeprefix("mixed_"), "the model itself is not changed"
    aware = quantize_aware(model, calibration=X)
    # Two int8 layers, of which each rounds to 1/255 of its range.
    np.testing.assert_allclose(aware.predict(X, verbose=0), model.predict(X, verbose=0), atol=0.1)
    assert kn.verify(kn.convert(aware, tmp_path / "aware")).float_islands == ()


def recurrent(layer, steps):
    inputs = keras.Input((steps, 3), name="x")
    return keras.Model(inputs, layers.Dense(2)(layer(inputs)), name="net")


LACKING = ("erf", "tan", "arctan", "cumprod", "sinh", "arcsinh")


@pytest.mark.parametrize("operation", LACKING)
def test_no_remedy_is_printed_for_an_operation_that_litert_lacks(operation):
    """It would help training only, and the conversion after it would fail."""
    inputs = keras.Input((6,), name="x")
    arguments = {"axis": 1} if operation == "cumprod" else {}
    hidden = ops.cumsum(layers.Dense(6, name="first")(inputs), axis=1)
    error = refusal_of(lambda: quantize_aware(keras.Model(inputs, getattr(ops, operation)(hidden, **arguments))))
    assert error.remedy is None
    assert "skip=" not in str(error)
    assert all(repr(name) in str(error) for name in ("cumsum", operation))


@pytest.mark.slow
@pytest.mark.parametrize("operation", LACKING)
def test_litert_lacks_it_indeed(tmp_path, operation):
    inputs = keras.Input((6,), name="x")
    arguments = {"axis": 1} if operation == "cumprod" else {}
    model = keras.Model(inputs, getattr(ops, operation)(layers.Dense(6)(inputs), **arguments))
    error = refusal_of(lambda: kn.convert(model, tmp_path / "bundle", "float32", golden=X))
    assert error.remedy is None
    assert repr(operation) in str(error)


class Tally:
    """Counts the remedies that are printed, and those that work when they are pasted."""

    def __init__(self):
        self.remedies, self.failures = [], []

    def try_each(self, convert, error):
        """Calls `convert` with each remedy of an error, and keeps those that raise another one."""
        remedies = getattr(error, "remedies", None) or [error.remedy]
        assert remedies != [None], f"the message prints no remedy: {error}"
        self.remedies += remedies
        for remedy in remedies:
            assert all(str(value) in str(error) for value in remedy.values()), f"not in the message: {remedy}"
            try:
                convert(remedy)
            except (errors.KerasNotesError, ValueError, TypeError) as further:
                self.failures.append((remedy, f"{type(further).__name__}: {further}"))

    def __str__(self):
        return f"{len(self.remedies)} remedies tried, {len(self.remedies) - len(self.failures)} worked"


@pytest.fixture(scope="module")
def tally(pytestconfig):
    """The count over all tests of this file, which is written at its end."""
    total = Tally()
    yield total
    if total.remedies:
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nRemedies: {total}")


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid"])
def test_each_remedy_for_a_long_recurrent_layer_works(tmp_path, tally, activation):
    layer = layers.Bidirectional(layers.LSTM(4, recurrent_activation=activation), name="both")
    model = recurrent(layer, steps=34)
    x = RNG.normal(size=(32, 34, 3)).astype("float32")
    error = refusal_of(lambda: kn.convert(model, tmp_path / "bundle", "static_int8", calibration=x))

    def convert(remedy):
        arguments = {"recipe": "static_int8", **remedy}
        bundle = kn.convert(model, tmp_path / "bundle", calibration=x, overwrite=True, **arguments)
        # Steps that are written out round each time, which can sum up to more than the tolerance.
        assert "unrolled" in str(remedy) or kn.verify(bundle).ok, remedy

    before = len(tally.failures)
    tally.try_each(convert, error)
    assert tally.failures[before:] == []
    assert len(error.remedies) == (3 if activation == "sigmoid" else 2)


def convert_plainly(recipe):
    def convert(model, directory, arguments):
        kn.convert(model, directory, **{"recipe": recipe, **arguments}, calibration=X, overwrite=True)

    return convert


def train_and_convert(recipe):
    def convert(model, directory, arguments):
        aware = quantize_aware(model, recipe=recipe, calibration=X, **arguments)
        kn.convert(aware, directory, recipe=recipe, golden=X, overwrite=True)

    return convert


def everywhere(operation, last_place):
    """A network with an operation at every place, of which the last one is an output of the model."""
    others = [place for place in PLACES if place is not last_place]
    return net(*((place, operation) for place in (*others, last_place)), last=False)


WAYS = {
    **{recipe: (convert_plainly(recipe), ("cumsum", "arctan2")) for recipe in ("static_int8", "int16x8")},
    **{
        f"trained_{recipe}": (train_and_convert(recipe), ("cumsum", "arctan2", "mod", "flip"))
        for recipe in ("static_int8", "int16x8", "weight_int4")
    },
}
# Each operation has another place at the output of the model.
CASES = [
    pytest.param(way, operation, last_place, id=f"{way}-{operation}-{last_place.__name__}")
    for way in WAYS
    for operation, last_place in zip(WAYS[way][1], itertools.cycle(PLACES[:3]), strict=False)
]


# Ten such operations in a row make much of a rounding; how near the file is, is not asked here.
@pytest.mark.filterwarnings("ignore:Before training:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("way", "operation", "last_place"), CASES)
def test_every_remedy_that_a_message_prints_works(tmp_path, tally, way, operation, last_place):
    """Each operation at every place, the last one an output of the model: a remedy must work at the first attempt."""
    convert, before = WAYS[way][0], len(tally.failures)
    model = everywhere(operation, last_place)
    error = refusal_of(lambda: convert(model, tmp_path / "bundle", {}))
    tally.try_each(lambda remedy: convert(model, tmp_path / "bundle", remedy), error)
    assert tally.failures[before:] == []


@pytest.mark.filterwarnings("ignore:Before training:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "place"),
    [
        *(("trained_static_int8", place) for place in PLACES),
        *(("static_int8", place) for place in (at_the_top, in_each_step, after_both_directions)),
    ],
)
def test_the_remedy_for_each_place_alone_works(tmp_path, tally, way, place):
    convert, before = WAYS[way][0], len(tally.failures)
    model = net((place, "cumsum"))
    error = refusal_of(lambda: convert(model, tmp_path / "bundle", {}))
    tally.try_each(lambda remedy: convert(model, tmp_path / "bundle", remedy), error)
    assert tally.failures[before:] == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["float16", "dynamic_int8", "weight_int4"])
def test_recipes_that_compute_in_floating_point_refuse_none_of_it(tmp_path, recipe):
    # Not verified: ten sums over all values in a row make much of a rounding of weights.
    kn.convert(everywhere("cumsum", at_the_top), tmp_path / "bundle", recipe, golden=X)
