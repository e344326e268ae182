import math

import keras
import numpy as np
import pytest

from keras_notes.layers import PositionalEncoding, sinusoidal
from tests.layers.contract import FLOAT32_ROUNDING, check_layer, compiles, run

pytestmark = pytest.mark.any_backend

HALF_ULP = 2**-24  # half the distance of the float32 numbers just below 1


@pytest.fixture
def sequence():
    return np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")


# Identities


def test_a_shift_of_positions_turns_each_pair():
    # Vaswani et al. 2017, section 3.5: PE(p + k) is a linear function of PE(p), the same for all p.
    before, after = (sinusoidal(np.arange(50) + shift, 2).astype("float64") for shift in (0, 7))
    rotation = np.array([[math.cos(7), -math.sin(7)], [math.sin(7), math.cos(7)]])
    np.testing.assert_allclose(before @ rotation, after, atol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_steps_with_a_start_index_are_the_whole_sequence(sequence, learned):
    layer = PositionalEncoding(6, learned=learned, scale=3.0)
    whole = run(layer, sequence)
    for start in (2, np.int64(2), keras.ops.convert_to_tensor(2, "int32")):
        np.testing.assert_array_equal(run(layer, sequence[:, 2:4], start_index=start), whole[:, 2:4])


def test_a_start_index_can_change_in_a_compiled_step(sequence):
    if not compiles():
        pytest.skip("PyTorch's compiler needs a C++ toolchain")
    inputs, start = keras.Input((1, 8)), keras.Input(batch_shape=(), dtype="int32")
    layer = PositionalEncoding(6)
    model = keras.Model([inputs, start], layer(inputs, start_index=start))
    step = sequence[:, 2:3]
    actual = keras.ops.convert_to_numpy(model([step, np.array(2, "int32")]))
    np.testing.assert_array_equal(actual, run(layer, sequence)[:, 2:3])


def test_learned_positions_learn(sequence):
    layer = PositionalEncoding(6, learned=True)
    model = keras.Sequential([keras.Input((6, 8)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = layer.get_weights()[0]
    model.fit(sequence, sequence, verbose=0)
    assert (layer.get_weights()[0] != before).all()


# The reference


@pytest.mark.parametrize("position", [0, 1, 511, 100_000])
@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_sines_and_cosines_are_exact_to_float32_at_every_position(position, width):
    for i, actual in enumerate(sinusoidal(position, width)):
        angle = position / 10000.0 ** (2 * (i // 2) / width)
        assert abs(float(actual) - (math.cos if i % 2 else math.sin)(angle)) <= 2 * HALF_ULP


def test_float32_angles_would_not_be_as_exact():
    angle = np.float32(100_000) * np.float32(10000.0) ** np.float32(-2 / 64)
    assert abs(np.sin(angle) - sinusoidal(100_000, 64)[2]) > 1e-4


def test_the_layer_adds_them_to_the_scaled_inputs(sequence):
    expected = 2.0 * sequence + sinusoidal(np.arange(6), 8, 50.0)
    np.testing.assert_allclose(
        run(PositionalEncoding(9, scale=2.0, max_wavelength=50.0), sequence), expected, atol=FLOAT32_ROUNDING
    )


# The contract


@pytest.mark.parametrize("arguments", [{}, {"learned": True, "scale": 2.0}, {"max_wavelength": 100.0}])
def test_keeps_the_contract(sequence, arguments, tmp_path):
    check_layer(PositionalEncoding(10, **arguments), sequence, tmp_path=tmp_path)


def test_takes_sequences_of_unknown_length(sequence):
    layer = PositionalEncoding(10)
    model = keras.Sequential([keras.Input((None, 8)), layer])
    np.testing.assert_array_equal(model.predict(sequence, verbose=0), run(layer, sequence))


def test_hands_the_mask_on():
    embedded = keras.layers.Embedding(4, 8, mask_zero=True)(np.array([[1, 0]]))
    assert keras.ops.convert_to_numpy(PositionalEncoding(4)(embedded)._keras_mask).tolist() == [[True, False]]


# Errors


@pytest.mark.parametrize("start", [1, keras.ops.convert_to_tensor(1)])
def test_positions_past_the_last_are_an_error(sequence, start):
    message = r"`start_index` \+ length must be <= 6, .* Received: start_index=1, length=6. Give a larger"
    with pytest.raises(ValueError, match=message):
        PositionalEncoding(6)(sequence, start_index=start)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_length": 0}, ValueError, "`max_length` must be >= 1. Received: max_length=0."),
        ({"max_length": 4, "max_wavelength": 0.0}, ValueError, "`max_wavelength` must be > 0"),
        ({"max_length": 4, "scale": "2"}, TypeError, "`scale` must be a number"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        PositionalEncoding(**arguments)


def test_a_negative_or_broken_start_index_is_an_error(sequence):
    with pytest.raises(ValueError, match=r"`start_index` must be >= 0. Received: start_index=-1."):
        PositionalEncoding(10)(sequence, start_index=-1)
    with pytest.raises(TypeError, match=r"`start_index` must be an integer. Received: start_index=0.5."):
        PositionalEncoding(10)(sequence, start_index=0.5)


def test_a_width_below_1_is_an_error():
    with pytest.raises(ValueError, match=r"`width` must be >= 1. Received: width=0."):
        sinusoidal([0], 0)
