import itertools

import keras
import numpy as np
import pytest

from keras_notes.layers import generate
from keras_notes.layers._inputs import known_values
from keras_notes.layers.decoding._beam_search import length_penalty
from tests.layers.decoders import END, PAD, SOURCES, START, greedy_without_caches, log_probs_of, randomize, talkative

pytestmark = pytest.mark.any_backend

# A few float32 log-probabilities, summed in another order.
SAME = {"rtol": 1e-4, "atol": 1e-4}
IDS = {"start_id": START, "end_id": END}


@pytest.fixture(scope="module")
def model():
    """Of the five sources it ends some early, some never."""
    return talkative()


@pytest.fixture(scope="module")
def tiny():
    """Of four ids, for targets of up to four: 121 hypotheses."""
    return talkative(4, max_length=4)


def lengths(ids):
    return [list(row).index(END) + 1 if END in row else len(row) for row in ids.tolist()]


# Greedy


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rotary": True, "norm_first": True, "num_key_value_heads": 1, "num_layers": 2}],
    ids=["sinusoidal", "rotary"],
)
def test_greedy_is_what_decoding_without_caches_gives(arguments):
    model = talkative(**arguments)
    ids, scores = generate(model, SOURCES, return_scores=True, **IDS)
    expected, log_probs = greedy_without_caches(model, SOURCES, model.max_length)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(scores, log_probs, **SAME)


def test_ids_end_with_end_id_and_are_padded_behind(model):
    ids = generate(model, SOURCES, **IDS)
    assert (ids.shape, ids.dtype) == ((5, 8), np.int32)
    assert len(set(lengths(ids))) > 1, "the samples must differ, or the test shows nothing"
    for row, length in zip(ids, lengths(ids), strict=True):
        assert (row[length:] == PAD).all()


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({}, (1, 2)), ({"beam_width": 4}, (1,)), ({"seed": 1}, (1,))],
    ids=["greedy", "beam", "sampling"],
)
def test_batches_of_any_size_give_the_same(model, options, sizes):
    expected = generate(model, SOURCES, **options, **IDS)
    for batch_size in sizes:
        np.testing.assert_array_equal(generate(model, SOURCES, batch_size=batch_size, **options, **IDS), expected)


def test_a_smaller_max_length_cuts(model):
    whole, cut = generate(model, SOURCES, **IDS), generate(model, SOURCES, max_length=3, **IDS)
    np.testing.assert_array_equal(cut, whole[:, :3])


def test_it_stops_when_all_have_ended(model):
    steps = []
    step = model.step

    def counted(ids, caches, memory, position, mask):
        steps.append(known_values(position))
        return step(ids, caches, memory, position, mask)

    first = int(generate(model, SOURCES[:1], **IDS)[0, 0])
    model.step = counted
    try:
        generate(model, SOURCES[:1], start_id=START, end_id=first)
    finally:
        del model.step
    # Where it is compiled, it is traced and not run; a step that was run tells its position.
    assert [position for position in steps if position is not None] in ([], [0])


def test_what_was_trained_since_counts(model):
    before, weights = generate(model, SOURCES, **IDS), model.get_weights()
    randomize(model, 5)
    after = generate(model, SOURCES, **IDS)
    expected, _ = greedy_without_caches(model, SOURCES, 8)
    model.set_weights(weights)
    np.testing.assert_array_equal(after, expected)
    assert (before != after).any()


def test_searches_are_compiled_once_and_are_no_part_of_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr("keras_notes.layers.decoding._generate._MAX_GENERATORS", 1)
    model = talkative()
    names = [variable.path for variable in model.variables]
    generate(model, SOURCES, batch_size=2, **IDS)
    (generator,) = model._generators.values()
    expected = generate(model, SOURCES[::-1], batch_size=2, **IDS)
    assert list(model._generators.values()) == [generator]
    assert [variable.path for variable in model.variables] == names
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(generate(again, SOURCES[::-1], batch_size=2, **IDS), expected)
    assert list(model._generators.values()) == [generator]
    generate(model, SOURCES, max_length=1, **IDS)
    assert len(model._generators) == 1


# Beam search


def every_target(vocabulary, max_length):
    """All targets that end, or are of the full length."""
    for length in range(1, max_length + 1):
        for ids in itertools.product(range(vocabulary), repeat=length):
            if END not in ids[:-1] and (ids[-1] == END or length == max_length):
                yield ids


def best_by_brute_force(model, source, vocabulary, max_length, alpha):
    targets = list(every_target(vocabulary, max_length))
    padded = np.array([[START, *ids, *[PAD] * (max_length - len(ids))] for ids in targets])
    log_probs = log_probs_of(model, np.tile(source, (len(padded), 1)), padded[:, :-1])
    scores = [
        sum(log_probs[row, place, token_id] for place, token_id in enumerate(ids)) / ((5 + len(ids)) / 6) ** alpha
        for row, ids in enumerate(targets)
    ]
    return padded[int(np.argmax(scores)), 1:], max(scores)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_a_beam_of_all_hypotheses_finds_the_best_of_all(tiny, alpha):
    sources, results = SOURCES[:2, :4], []
    for seed in range(3):
        randomize(tiny, seed)
        options = {"beam_width": 4**4, "length_penalty": alpha, "return_scores": True}
        ids, scores = generate(tiny, sources, **options, **IDS)
        for source, row, score in zip(sources, ids, scores, strict=True):
            expected, best = best_by_brute_force(tiny, source, 4, 4, alpha)
            assert row.tolist() == expected.tolist()
            np.testing.assert_allclose(score, best, **SAME)
            results.append(tuple(row))
    assert len(set(results)) > 1, "one answer to all would show nothing"


def test_a_beam_of_one_is_greedy(model):
    np.testing.assert_array_equal(generate(model, SOURCES, beam_width=1, **IDS), generate(model, SOURCES, **IDS))


def test_a_wider_beam_finds_what_is_better_than_greedy(model):
    greedy, wider = (generate(model, SOURCES, beam_width=width, return_scores=True, **IDS)[1] for width in (1, 4))
    assert (wider > greedy - 1e-5).all()
    assert (wider > greedy + 0.5).any()


def test_length_penalty_is_one_for_one_id_and_grows():
    assert length_penalty(1.0, 0.6) == 1.0
    assert length_penalty(7.0, 1.0) == 2.0


# Sampling


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}], ids=str)
def test_sampling_the_likeliest_only_is_greedy(model, options):
    greedy, score = generate(model, SOURCES, return_scores=True, **IDS)
    sampled, score_of_sampled = generate(model, SOURCES, seed=0, return_scores=True, **options, **IDS)
    np.testing.assert_array_equal(sampled, greedy)
    np.testing.assert_allclose(score_of_sampled, score, **SAME)


def test_a_seed_gives_the_same_ids_again_and_another_seed_others(model):
    first, again, other = (generate(model, SOURCES, seed=seed, **IDS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    keras.utils.set_random_seed(7)
    by_chance = generate(model, SOURCES, top_p=1.0, **IDS)
    assert (generate(model, SOURCES, top_p=1.0, **IDS) != by_chance).any()
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(generate(model, SOURCES, top_p=1.0, **IDS), by_chance)


def test_first_ids_are_as_frequent_as_the_model_says(model):
    samples = 4000
    ids = generate(model, np.repeat(SOURCES[:1], samples, axis=0), max_length=1, seed=0, batch_size=samples, **IDS)
    probs = np.exp(log_probs_of(model, SOURCES[:1], np.array([[START]]))[0, 0])
    frequencies = np.bincount(ids[:, 0], minlength=7) / samples
    # Four standard deviations of a frequency, at its largest: 4 * sqrt(0.25 / 4000).
    assert np.abs(frequencies - probs).max() < 0.032


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"`temperature` must be > 0\. Received: temperature=0\.0"),
        ({"top_k": 0}, r"`top_k` must be >= 1\. Received: top_k=0"),
        ({"top_p": 0.0}, r"`top_p` must be in \(0, 1\]\. Received: top_p=0\.0"),
        ({"top_p": 1.5}, r"`top_p` must be in \[0, 1\]\. Received: top_p=1\.5"),
        ({"beam_width": 0}, r"`beam_width` must be >= 1\. Received: beam_width=0"),
        ({"beam_width": 2, "top_k": 3}, r"`beam_width` must be 1 for sampling.*Received: beam_width=2, .*top_k=3"),
        ({"length_penalty": -1.0}, r"`length_penalty` must be >= 0"),
        ({"max_length": 9}, r"`max_length` must be <= 8, that of the model\. Received: max_length=9"),
        ({"max_length": 0}, r"`max_length` must be >= 1"),
        ({"batch_size": 0}, r"`batch_size` must be >= 1"),
        ({"seed": -1}, r"`seed` must be >= 0"),
        ({"end_id": 7}, r"`end_id` must be an id of the target, in \[0, 7\)\. Received: end_id=7"),
        ({"start_id": -1}, r"`start_id` must be an id of the target"),
        ({"source_ids": np.zeros((0, 3), int)}, r"`source_ids` must have shape \(samples, source length\), at least 1"),
        ({"source_ids": np.array([3, 4])}, r"`source_ids` must have shape.*Received: shape \(2,\)"),
        ({"source_ids": np.full((1, 9), 3)}, r"no longer than the model's `max_length`, 8\. Received: shape \(1, 9\)"),
        ({"source_ids": np.array([[3, 11]])}, r"Ids must be in \[0, 11\)\. Received: 11 \(1 of 2 are wrong\)"),
        ({"source_ids": np.array([[3, 4], [0, 0]])}, r"an id besides `pad_id`\. Received: 1 empty sources, .* at 1"),
    ],
)  # fmt: skip
def test_wrong_values_raise(model, options, message):
    with pytest.raises(ValueError, match=message):
        generate(model, **{"source_ids": SOURCES, **IDS, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_ids": np.ones((1, 2))}, r"Ids must be integers\. Received: dtype='float64'"),
        ({"start_id": 1.0}, r"`start_id` must be an integer"),
        ({"top_k": True}, r"`top_k` must be an integer"),
        ({"model": keras.Sequential()}, r"`model` must be a Transformer\. Received: Sequential without 'encode'"),
    ],
)
def test_wrong_types_raise(model, options, message):
    with pytest.raises(TypeError, match=message):
        generate(**{"model": model, "source_ids": SOURCES, **IDS, **options})
