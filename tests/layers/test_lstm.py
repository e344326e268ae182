"""LSTM against its equations and Keras's own layer."""

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.layers import LSTM, count_lstm_params, lstm_step

pytestmark = pytest.mark.any_backend

STEPS, INPUTS, UNITS, BATCH = 12, 5, 7, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, STEPS, INPUTS)).astype("float32")
MASK = np.ones((BATCH, STEPS), bool)
MASK[0, 9:] = MASK[1, :3] = MASK[2, 4:6] = MASK[3, :] = False
# A dozen steps of some hundred products in float32.
FLOAT32_ROUNDING = 1e-6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(x, weights, hidden=None, carry=None):
    """The equations in float64, a step and a gate at a time; all outputs, and the last h and c."""
    kernel, recurrent, bias = (np.split(np.asarray(weight, "float64"), 4, axis=-1) for weight in weights)
    hidden = np.zeros((len(x), UNITS)) if hidden is None else np.asarray(hidden, "float64")
    carry = np.zeros((len(x), UNITS)) if carry is None else np.asarray(carry, "float64")
    outputs = []
    for t in range(x.shape[1]):
        gates = [x[:, t] @ kernel[g] + hidden @ recurrent[g] + bias[g] for g in range(4)]
        write, forget, candidate, output = sigmoid(gates[0]), sigmoid(gates[1]), np.tanh(gates[2]), sigmoid(gates[3])
        carry = forget * carry + write * candidate
        hidden = output * np.tanh(carry)
        outputs.append(hidden)
    return np.stack(outputs, axis=1), hidden, carry


def built(layer_class=LSTM, **arguments):
    """A layer with weights large enough to reach the bends of its activations."""
    layer = layer_class(UNITS, **arguments)
    layer.build((BATCH, STEPS, INPUTS))
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


def array(value):
    return keras.ops.convert_to_numpy(value)


def test_a_step_is_the_equations():
    rng = np.random.default_rng(2)
    projected, hidden, carry = (
        rng.normal(size=shape) for shape in ((BATCH, 4 * UNITS), (BATCH, UNITS), (BATCH, UNITS))
    )
    kernel = rng.normal(size=(UNITS, 4 * UNITS))
    actual = lstm_step(*(array.astype("float32") for array in (projected, hidden, carry, kernel)))
    no_inputs = [np.zeros((1, 4 * UNITS)), kernel, np.zeros(4 * UNITS)]
    for sample in range(BATCH):
        weights = [no_inputs[0], kernel, projected[sample]]
        row = slice(sample, sample + 1)
        _, *expected = reference(np.zeros((1, 1, 1)), weights, hidden[row], carry[row])
        for ours, theirs in zip(actual, expected, strict=True):
            np.testing.assert_allclose(array(ours)[row], theirs, atol=FLOAT32_ROUNDING)


def test_a_sequence_is_the_equations_in_float64():
    layer = built(return_sequences=True, return_state=True)
    for ours, theirs in zip(layer(X), reference(X, layer.get_weights()), strict=True):
        np.testing.assert_allclose(array(ours), theirs, atol=FLOAT32_ROUNDING)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"return_sequences": True},
        {"return_state": True},
        {"return_sequences": True, "return_state": True, "go_backwards": True},
        {"use_bias": False},
        {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
        {"unroll": True},
        {"dropout": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_it_is_keras_lstm_with_the_same_weights(arguments, mask):
    ours, theirs = built(**arguments), built(keras.layers.LSTM, **arguments)
    theirs.set_weights(ours.get_weights())
    for actual, expected in zip(*(keras.tree.flatten(layer(X, mask=mask)) for layer in (ours, theirs)), strict=True):
        np.testing.assert_allclose(array(actual), array(expected), atol=FLOAT32_ROUNDING)


def test_weights_go_both_ways_and_are_named_alike():
    ours, theirs = built(), built(keras.layers.LSTM)
    theirs.set_weights(ours.get_weights())
    ours.set_weights(theirs.get_weights())
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in theirs.weights]


def test_two_halves_with_the_state_carried_are_the_whole():
    layer = built(return_sequences=True, return_state=True)
    whole = layer(X)
    first = layer(X[:, :5])
    second = layer(X[:, 5:], initial_state=first[1:])
    np.testing.assert_allclose(
        np.concatenate([array(first[0]), array(second[0])], axis=1), array(whole[0]), atol=FLOAT32_ROUNDING
    )
    for ours, theirs in zip(second[1:], whole[1:], strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), atol=FLOAT32_ROUNDING)


def test_two_halves_from_zeros_are_not():
    layer = built()
    assert np.abs(array(layer(X)) - array(layer(X[:, 5:]))).max() > 100 * FLOAT32_ROUNDING


def test_a_stateful_layer_carries_the_state_by_itself():
    stateful = built(stateful=True)
    stateful(X[:, :5])
    np.testing.assert_allclose(array(stateful(X[:, 5:])), array(built()(X)), atol=FLOAT32_ROUNDING)


def test_a_masked_step_leaves_the_state_as_it_is():
    layer = built()
    changed = X.copy()
    changed[~MASK] = 100.0
    np.testing.assert_array_equal(array(layer(changed, mask=MASK)), array(layer(X, mask=MASK)))


def test_bidirectional_reads_from_both_ends():
    inner = LSTM(UNITS, return_sequences=True, lowering="unrolled")
    layer = keras.layers.Bidirectional(inner)
    actual = array(layer(X))
    assert layer.backward_layer.lowering == "unrolled"
    forwards = reference(X, layer.forward_layer.get_weights())[0]
    backwards = reference(X[:, ::-1], layer.backward_layer.get_weights())[0][:, ::-1]
    np.testing.assert_allclose(actual, np.concatenate([forwards, backwards], axis=-1), atol=FLOAT32_ROUNDING)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_it_computes_in_half_precision(policy):
    layer = built(dtype=policy)
    actual = layer(X)
    assert keras.backend.standardize_dtype(actual.dtype) == policy.removeprefix("mixed_")
    expected = reference(X, layer.get_weights())[1]
    # Weights of up to 3 round to a part in 256 in bfloat16, and a gate sums a dozen of them.
    np.testing.assert_allclose(array(actual).astype("float32"), expected, atol=0.15)


def test_parameters_are_counted():
    for inputs, units, use_bias in ((5, 7, True), (1, 1, True), (6, 64, False)):
        layer = LSTM(units, use_bias=use_bias)
        layer.build((None, STEPS, inputs))
        assert count_lstm_params(units, inputs, use_bias) == layer.count_params()
    assert count_lstm_params(64, 6) == 4 * (64 * (64 + 6) + 64)


def test_it_trains_and_goes_into_a_file_and_out_of_it(tmp_path):
    y = X[:, :, 0].sum(axis=1) > 0
    layers = [keras.Input((STEPS, INPUTS)), LSTM(UNITS, lowering="fused", dropout=0.1), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.05), loss=kn.losses.FocalLoss(from_logits=True))
    history = model.fit(X, y, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert again.layers[0].get_config() == model.layers[0].get_config()
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": 0}, ValueError, r"`units` must be >= 1\. Received: units=0\."),
        ({"units": 2.5}, TypeError, r"`units` must be an integer\. Received: units=2\.5\."),
        (
            {"lowering": "while"},
            ValueError,
            r"`lowering` must be one of 'auto', 'loop', .* Received: lowering='while'\.",
        ),
        ({"dropout": 1.5}, ValueError, r"`dropout` must be in \[0, 1\)\. Received: dropout=1\.5\."),
        ({"recurrent_dropout": -0.1}, ValueError, r"`recurrent_dropout` must be in \[0, 1\)\. Received: .*-0\.1\."),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        LSTM(**{"units": UNITS, **arguments})


def test_parameters_of_no_layer_are_refused():
    with pytest.raises(ValueError, match=r"`inputs` must be >= 1\. Received: inputs=0\."):
        count_lstm_params(3, 0)
