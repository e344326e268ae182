"""Recurrent layers on the device: in each form they give what they give in Keras, by the operators of that form."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert.reader import read_tflite
from tests.support.bundles import run_device

STEPS, INPUTS, UNITS = 18, 4, 6  # four blocks of steps, and two
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, STEPS, INPUTS)).astype("float32")
KINDS = (kn.layers.LSTM, layers.LSTM, layers.GRU, layers.SimpleRNN)
# The same products summed in another order, through 18 steps, of which those of a SimpleRNN amplify what came before.
FLOAT32_ROUNDING = 5e-6


def around(*recurrent, dtype="float32", shape=(STEPS, INPUTS), scale=0.5):
    """A model of such layers, with weights that reach the bends of the activations."""
    inputs = keras.Input(shape, dtype=dtype, name="series")
    outputs = inputs
    for layer in recurrent:
        outputs = layer(outputs)
    return weighted(keras.Model(inputs, outputs), scale)


def side_by_side(*recurrent, lengths=(STEPS,)):
    """A model of such layers, each on the same inputs, or on the first steps of them."""
    inputs = keras.Input((STEPS, INPUTS), name="series")
    outputs = [layer(inputs[:, :length]) for layer in recurrent for length in lengths]
    return weighted(keras.Model(inputs, keras.tree.flatten(outputs)), 0.5)


def weighted(model, scale):
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(scale * rng.normal(size=weight.shape))
    return model


def converted(model, directory, recipe="float32", *, x=X, **arguments):
    """The bundle, which was verified on both sets of kernels, and the names of its operators."""
    if recipe in ("static_int8", "int16x8"):
        arguments["calibration"] = x
    bundle = kn.convert(model, directory / "bundle", recipe, golden=x[:8], **arguments)
    for kernels in ("xnnpack", "builtin"):
        kn.verify(bundle, kernels=kernels)
    return bundle, [operator.name for graph in read_tflite(bundle.model_path).graphs for operator in graph.operators]


def largest_error(bundle):
    return max(output.max_error for output in kn.verify(bundle).outputs)


@pytest.mark.parametrize("lowering", ["loop", "unrolled"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"return_sequences": True, "return_state": True},
        {"return_sequences": True, "go_backwards": True},
        {"use_bias": False, "go_backwards": True},
    ],
    ids=str,
)
def test_layers_give_the_same_in_each_form(arguments, lowering, tmp_path):
    model = side_by_side(*(layer_class(UNITS, **arguments) for layer_class in KINDS))
    bundle, operators = converted(model, tmp_path, lowering=lowering)
    assert largest_error(bundle) < FLOAT32_ROUNDING
    assert operators.count("WHILE") == (len(KINDS) if lowering == "loop" else 0)


def test_a_gru_that_resets_before_gives_the_same(tmp_path):
    bundle, _ = converted(around(layers.GRU(UNITS, reset_after=False)), tmp_path)
    assert largest_error(bundle) < FLOAT32_ROUNDING


def test_sequences_of_any_length_are_whole(tmp_path):
    lengths = (1, 4, 7, 8, 9, STEPS)
    model = side_by_side(layers.LSTM(UNITS, return_sequences=True), lengths=lengths)
    bundle, operators = converted(model, tmp_path)
    assert largest_error(bundle) < FLOAT32_ROUNDING
    assert operators.count("WHILE") == sum(length >= 8 for length in lengths)  # one block alone is no loop


@pytest.mark.parametrize("backwards", [True, False])
def test_long_sequences_are_loops_of_loops(backwards, tmp_path):
    """The outer one copies all outputs a turn, so it shall have few; masks and what is left over go through both."""
    steps = 4 * 70 + 3
    ids = RNG.integers(0, 9, (8, steps)).astype("int32")  # 0 is masked
    net = [
        layers.Embedding(9, INPUTS, mask_zero=True),
        layers.LSTM(UNITS, return_sequences=True, go_backwards=backwards),
    ]
    bundle, operators = converted(around(*net, dtype="int32", shape=(steps,)), tmp_path, x=ids)
    assert operators.count("WHILE") == 2
    assert largest_error(bundle) < FLOAT32_ROUNDING
    assert bundle.model_path.stat().st_size < 100_000  # no constant is as long as the sequence


@pytest.mark.parametrize("lowering", ["loop", "unrolled"])
@pytest.mark.parametrize("sequences", [True, False])
def test_masked_steps_leave_the_states_as_they_are(lowering, sequences, tmp_path):
    ids = RNG.integers(1, 9, (64, STEPS)).astype("int32")
    ids[:16, 11:] = ids[16:32, :5] = ids[32:, 7] = ids[0] = 0
    embedding = layers.Embedding(9, INPUTS, mask_zero=True)
    model = around(
        embedding,
        layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True)),
        layers.GRU(UNITS, return_sequences=sequences),
        dtype="int32",
        shape=(STEPS,),
    )
    bundle, _ = converted(model, tmp_path, x=ids[np.arange(0, 64, 8)], lowering=lowering)
    assert largest_error(bundle) < FLOAT32_ROUNDING


def test_a_state_that_is_given_is_where_it_starts(tmp_path):
    series, initial = keras.Input((STEPS, INPUTS), name="series"), keras.Input((UNITS,), name="given")
    model = keras.Model([series, initial], layers.LSTM(UNITS)(series, initial_state=[initial, 2 * initial]))
    samples = {"series": X[:8], "given": RNG.normal(size=(8, UNITS)).astype("float32")}
    bundle = kn.convert(model, tmp_path / "bundle", "float32", golden=samples)
    assert largest_error(bundle) < FLOAT32_ROUNDING


def test_any_number_of_sequences_at_once(tmp_path):
    model = around(layers.LSTM(UNITS, return_sequences=True), layers.GRU(UNITS))
    bundle, _ = converted(model, tmp_path, batch_size=None)
    assert largest_error(bundle) < FLOAT32_ROUNDING


def test_the_inputs_of_all_steps_are_one_product(tmp_path):
    bundle, _ = converted(around(layers.LSTM(UNITS)), tmp_path)
    main, condition, body = read_tflite(bundle.model_path).graphs
    assert [operator.name for operator in condition.operators] == ["LESS"]
    products = [
        [np.prod(graph.tensors[step.inputs[0]].shape) for step in graph.operators if step.name == "FULLY_CONNECTED"]
        for graph in (main, body)
    ]
    # Of all steps at once; then of each step its state alone.
    assert products == [[STEPS * INPUTS, UNITS, UNITS], 4 * [UNITS]]
    # No search for negative indices, no copy of what is not asked for.
    assert [operator.name for operator in body.operators].count("GATHER") == 1
    assert not {"SELECT", "SELECT_V2", "DYNAMIC_UPDATE_SLICE"} & {operator.name for operator in body.operators}


def test_a_loop_has_int8_weights(tmp_path):
    bundle, _ = converted(around(layers.LSTM(64), scale=0.1), tmp_path, "dynamic_int8")
    (_, _, body) = read_tflite(bundle.model_path).graphs
    weights = [
        body.tensors[operator.inputs[1]].dtype for operator in body.operators if operator.name == "FULLY_CONNECTED"
    ]
    assert weights == ["int8"] * 4


@pytest.mark.parametrize("recipe", ["float16", "weight_int4"])
def test_a_loop_converts_by_the_other_recipes(recipe, tmp_path):
    assert "WHILE" in converted(around(layers.LSTM(32)), tmp_path, recipe)[1]


@pytest.mark.parametrize("recipe", ["static_int8", "int16x8"])
def test_short_sequences_compute_in_integers_throughout(recipe, tmp_path):
    bundle, operators = converted(around(kn.layers.LSTM(UNITS, name="cell")), tmp_path, recipe)
    assert "WHILE" not in operators
    assert read_tflite(bundle.model_path).float_operators() == ()


@pytest.mark.parametrize("recipe", ["static_int8", "int16x8"])
def test_what_reads_from_both_ends_does_too(recipe, tmp_path):
    """The outputs of the layer that reads backwards are put in order by GATHER; REVERSE_V2 stays in floating point."""
    model = around(layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True)), layers.Dense(3), scale=0.3)
    bundle, operators = converted(model, tmp_path, recipe)
    assert "GATHER" in operators
    assert read_tflite(bundle.model_path).float_operators() == ()


def test_long_ones_do_if_asked_to(tmp_path):
    long = np.tile(X, (1, 2, 1))
    model = around(layers.LSTM(UNITS, name="cell"), layers.Dense(3), shape=long.shape[1:], scale=0.2)
    with pytest.raises(
        errors.ConversionError, match=r"A loop must not compute in integers.*lowering=\{'cell': 'unrolled'\}"
    ):
        converted(model, tmp_path, "static_int8", x=long)
    bundle, _ = converted(model, tmp_path, "int16x8", x=long, lowering={"cell": "unrolled"})
    assert read_tflite(bundle.model_path).float_operators() == ()


@pytest.mark.parametrize("arguments", [{}, {"return_sequences": True, "go_backwards": True}], ids=str)
def test_an_lstm_is_one_operator(arguments, tmp_path):
    model = around(layers.LSTM(UNITS, **arguments), layers.Dense(3))
    bundle, operators = converted(model, tmp_path, lowering="fused")
    assert operators.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 1
    assert not {"WHILE", "LOGISTIC", "TANH"} & set(operators)
    assert largest_error(bundle) < FLOAT32_ROUNDING


@pytest.mark.parametrize("edges", ["float32", "int8"])
def test_it_is_one_operator_in_int8_too(edges, tmp_path):
    model = around(kn.layers.LSTM(UNITS, lowering="fused"), layers.Dense(3))
    bundle, operators = converted(model, tmp_path, "static_int8", edges=edges)
    assert operators.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 1
    assert read_tflite(bundle.model_path).float_operators() == ()
    assert bundle.manifest.signatures[0].inputs[0].dtype == edges
    assert run_device(bundle.directory).returncode == 0


@pytest.mark.parametrize("form", ["bidirectional", "beside the inputs", "small cells"])
def test_its_grids_in_int8_are_those_of_the_kernel(form, tmp_path):
    """Joined results have a grid of their own; the kernel's tanh knows no steps finer than 2^-15."""
    lstm = layers.LSTM(UNITS, name="cell")
    inputs = keras.Input(X.shape[1:], name="series")
    if form == "bidirectional":
        hidden = layers.Bidirectional(lstm)(inputs)
    elif form == "beside the inputs":
        hidden = layers.Concatenate()([lstm(inputs), 3.0 * inputs[:, 0]])
    else:
        hidden = lstm(0.1 * inputs)
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    bundle, operators = converted(model, tmp_path, "static_int8", lowering="fused")
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in operators
    assert kn.verify(bundle).ok


def test_the_runner_resets_the_state_of_a_fused_lstm(tmp_path):
    """Of the same sample twice: without a reset the second run would start from the first one's state."""
    twice = np.repeat(X[:1], 8, axis=0)
    bundle, _ = converted(around(layers.LSTM(UNITS)), tmp_path, x=twice, lowering="fused")
    assert run_device(bundle.directory).returncode == 0
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(bundle.model_path))
    runner = interpreter.get_signature_runner("serving_default")
    first, second = (runner(series=twice[:1])["output"] for _ in range(2))
    assert np.abs(first - second).max() > 50 * FLOAT32_ROUNDING  # the negative control: it does remember


@pytest.mark.parametrize(
    ("layer", "received"),
    [
        (layers.GRU(UNITS, name="cell"), r"'cell' \(GRU\)"),
        (layers.LSTM(UNITS, name="cell", return_state=True), r"'cell' with return_state=True"),
        (layers.LSTM(UNITS, name="cell", activation="relu", use_bias=False), r"with use_bias=False, activation='relu'"),
    ],
)
def test_what_cannot_be_fused_is_refused(layer, received, tmp_path):
    with pytest.raises(
        errors.ConversionError, match=rf"A fused layer must be an LSTM.*Received: .*{received}\. Use the"
    ):
        converted(around(layer), tmp_path, lowering="fused")


@pytest.mark.parametrize("recipe", ["dynamic_int8", {"default": "static_int8", "layers": {"cell": "float32"}}])
def test_a_fused_layer_has_two_recipes(recipe, tmp_path):
    calibration = X if isinstance(recipe, dict) else None
    with pytest.raises(errors.ConversionError, match=r"A fused LSTM must have the recipe 'float32' or 'static_int8'"):
        kn.convert(
            around(layers.LSTM(UNITS, name="cell")),
            tmp_path / "bundle",
            recipe,
            golden=X[:4],
            calibration=calibration,
            lowering="fused",
        )


def test_a_fused_layer_takes_one_sequence_at_a_time(tmp_path):
    with pytest.raises(errors.ConversionError, match=r"`batch_size` must be 1 for a fused LSTM"):
        converted(around(layers.LSTM(UNITS)), tmp_path, lowering="fused", batch_size=None)


def test_a_fused_layer_with_a_mask_is_refused(tmp_path):
    model = around(layers.Masking(), layers.LSTM(UNITS, name="cell"))
    with pytest.raises(
        errors.ConversionError, match=r"'cell' with an initial state or a mask\. Use the lowering 'loop'"
    ):
        converted(model, tmp_path, lowering="fused")


def test_the_argument_counts_more_than_the_layer_and_the_last_pattern_most(tmp_path):
    model = around(
        kn.layers.LSTM(UNITS, lowering="fused", return_sequences=True, name="one"), layers.LSTM(UNITS, name="two")
    )
    _, operators = converted(model, tmp_path, lowering={"*": "fused", "one": "unrolled"})
    assert operators.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 1
    assert operators.count("LOGISTIC") == STEPS


@pytest.mark.parametrize(
    ("lowering", "error", "message"),
    [
        ("while", ValueError, r"`lowering` must be one of .* Received: lowering='while'\."),
        ({"cell": "while"}, ValueError, r"`lowering\['cell'\]` must be one of"),
        ({"dense": "loop"}, ValueError, r"`lowering` must name recurrent layers of the model: \['cell'\]\. .*'dense'"),
        (["loop"], TypeError, r"`lowering` must be a name or a dict of names by layer\. Received: lowering=\['loop'\]"),
    ],
)
def test_lowerings_that_there_are_not_are_refused(lowering, error, message, tmp_path):
    with pytest.raises(error, match=message):
        converted(around(layers.LSTM(UNITS, name="cell"), layers.Dense(2, name="dense")), tmp_path, lowering=lowering)


def test_the_model_is_left_as_it_was(tmp_path):
    model = around(layers.LSTM(UNITS, name="cell"))
    converted(model, tmp_path, lowering="fused")
    assert not {"call", "inner_loop"} & set(vars(model.get_layer("cell")))
