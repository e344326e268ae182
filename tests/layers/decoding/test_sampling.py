import keras
import numpy as np
import pytest

from keras_notes.layers.decoding._sampling import likeliest_ids, sample_ids

pytestmark = pytest.mark.any_backend

PROBS = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
SAMPLES = 20_000
CUTS = {
    "nothing cut": ({}, PROBS),
    "top_k": ({"top_k": 3}, PROBS * [0, 1, 0, 1, 1]),
    "top_k over all": ({"top_k": 99}, PROBS),
    # 0.4 + 0.25 is less than 0.7: the third is needed.
    "top_p": ({"top_p": 0.7}, PROBS * [0, 1, 0, 1, 1]),
    "top_p just reached": ({"top_p": 0.64}, PROBS * [0, 1, 0, 1, 0]),
    "top_p of one": ({"top_p": 1.0}, PROBS),
    # Of the top three, 0.85 in all, the first two are 0.765.
    "top_k, then top_p": ({"top_k": 3, "top_p": 0.75}, PROBS * [0, 1, 0, 1, 0]),
    "hot": ({"temperature": 2.0}, PROBS**0.5),
    "cold": ({"temperature": 0.5}, PROBS**2),
}


def draw(uniform, **cut):
    logits = np.broadcast_to(np.log(PROBS) + 3.0, (len(uniform), len(PROBS))).astype("float32")
    return keras.ops.convert_to_numpy(sample_ids(logits, np.asarray(uniform, "float32"), **cut))


@pytest.mark.parametrize("name", CUTS)
def test_frequencies_are_those_of_the_distribution_that_is_left(name):
    cut, left = CUTS[name]
    ids = draw(np.random.default_rng(0).random(SAMPLES), **cut)
    counts, expected = np.bincount(ids, minlength=5), SAMPLES * left / left.sum()
    assert (counts[expected == 0] == 0).all()
    there = expected > 0
    chi_square = (np.square(counts - expected)[there] / expected[there]).sum()
    # Of 4 degrees of freedom at most, exceeded once in 10,000 by chance; the seed is fixed.
    assert chi_square < 23.5


def test_a_grid_of_chances_gives_exact_shares():
    ids = draw((np.arange(1000) + 0.5) / 1000)
    assert np.bincount(ids).tolist() == [50, 400, 100, 250, 200]


@pytest.mark.parametrize("cut", [{}, {"top_p": 0.3}, {"top_k": 2}], ids=str)
def test_the_largest_chance_draws_nothing_that_is_cut_off(cut):
    logits = np.array([[0.0, -0.001, -0.002, -200.0]] * 2, "float32")
    uniform = np.array([0.0, np.nextafter(np.float32(1), np.float32(0))], "float32")
    ids = keras.ops.convert_to_numpy(sample_ids(logits, uniform, **cut))
    assert ids.tolist() == [0, {"{}": 2, "{'top_p': 0.3}": 0, "{'top_k': 2}": 1}[str(cut)]]


def test_half_precision_is_drawn_in_full():
    # A running sum in 16 bits would stand still after some hundred of them.
    logits = -np.arange(2048) / 1024
    running = np.cumsum(np.exp(logits))
    for chance in (0.25, 0.99):
        ids = sample_ids(logits[None].astype("float16"), np.array([chance], "float32"))
        expected = np.searchsorted(running, chance * running[-1], side="right")
        assert abs(int(keras.ops.convert_to_numpy(ids)[0]) - expected) <= 1


def test_the_first_of_equals_is_the_likeliest():
    assert keras.ops.convert_to_numpy(likeliest_ids(np.array([[1.0, 2.0, 2.0]]))).tolist() == [1]
