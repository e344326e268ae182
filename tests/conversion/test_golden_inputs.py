"""Golden samples of a calibration: spread over the outputs, and held out of the ranges where there are enough."""

import keras
import numpy as np
import pytest

from keras_notes.conversion._golden_inputs import choose_golden_inputs
from keras_notes.conversion.graph._deploy_graph import deploy_graph
from tests.support.bundles import bars

SAMPLES = bars(200, seed=5)[0]


@pytest.fixture(scope="module")
def graph():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    return deploy_graph(keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs))))


def places_in(samples, chosen):
    return {int(np.flatnonzero((sample == samples).all((1, 2, 3)))[0]) for sample in chosen.arrays["image"]}


def test_golden_samples_of_many_are_spread_over_the_outputs_and_set_no_ranges(graph):
    outputs = graph.run({"image": SAMPLES}).outputs["output"]
    chosen = choose_golden_inputs(graph, None, {"image": SAMPLES})
    places = places_in(SAMPLES, chosen)
    assert (len(places), chosen.is_held_out) == (32, True)
    others = chosen.others({"image": SAMPLES})["image"]
    assert len(others) == len(SAMPLES) - 32
    assert not any((golden == others).all((1, 2, 3)).any() for golden in chosen.arrays["image"])
    # What the golden samples say of the outputs is what all of them say, within a tenth.
    assert outputs[list(places)].std() == pytest.approx(outputs.std(), rel=0.1)


def test_the_order_of_the_samples_changes_a_choice_by_a_neighbor_at_most(graph):
    first = places_in(SAMPLES, choose_golden_inputs(graph, None, {"image": SAMPLES}))
    backwards = places_in(SAMPLES, choose_golden_inputs(graph, None, {"image": SAMPLES[::-1]}))
    assert len(first & backwards) >= 16


@pytest.mark.parametrize("count", [5, 64, 127])
def test_few_samples_are_golden_and_set_ranges(graph, count):
    chosen = choose_golden_inputs(graph, None, {"image": SAMPLES[:count]})
    assert not chosen.is_held_out
    assert len(chosen.others({"image": SAMPLES[:count]})["image"]) == count


def test_given_golden_samples_hold_none_out(graph):
    chosen = choose_golden_inputs(graph, SAMPLES[:32], {"image": SAMPLES})
    assert not chosen.is_held_out
