"""The benchmark of translation: its batches, and its whole program on sentences of a few words."""

import json

import numpy as np
import pytest

pytest.importorskip("sentencepiece")
pytest.importorskip("sacrebleu")

from benchmarks.translation import batches as translation_batches
from benchmarks.translation import device as translation_device
from benchmarks.translation import program
from benchmarks.translation import students as translation_students
from benchmarks.translation import task as translation_task
from benchmarks.translation.batches import END, LENGTHS, PAD, START

WORDS = (
    [("the man", "der Mann"), ("a woman", "eine Frau"), ("my dog", "mein Hund"), ("one child", "ein Kind")],
    [("sees", "sieht"), ("hears", "hört"), ("finds", "findet"), ("paints", "malt"), ("knows", "kennt")],
    [("trees", "Bäume"), ("horses", "Pferde"), ("boats", "Boote"), ("houses", "Häuser"), ("clouds", "Wolken")],
)


def toy_pairs(count, seed):
    """Sentences of WORDS, of one or two clauses."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        clauses = [[words[rng.integers(len(words))] for words in WORDS] for _ in range(rng.integers(1, 3))]
        english, german = (
            ", and ".join(" ".join(word[side] for word in clause) for clause in clauses) for side in (0, 1)
        )
        pairs.append((english, german.replace(", and ", " und ")))
    english, german = zip(*pairs, strict=True)
    return list(english), list(german)


@pytest.fixture
def toy(monkeypatch):
    splits = tuple(toy_pairs(count, seed) for seed, count in enumerate((200, 24, 24)))
    monkeypatch.setattr(translation_task, "multi30k", lambda: splits)
    translation_task.sentences.cache_clear()
    translation_task.vocabulary.cache_clear()
    yield splits
    translation_task.sentences.cache_clear()
    translation_task.vocabulary.cache_clear()


@pytest.fixture
def pairs(toy):
    return translation_batches.pairs_of(translation_task.vocabulary("tiny"), *toy[0])


def test_pairs_are_the_sentences_and_one_place_apart(toy, pairs):
    pieces = translation_task.vocabulary("tiny")
    assert pieces.decode([int(i) for i in pairs.source[0] if i not in (PAD, END)]) == toy[0][0][0]
    assert (pairs.target_in[:, 0] == START).all()
    inside = pairs.target_in[:, 1:] != PAD
    np.testing.assert_array_equal(pairs.target_in[:, 1:][inside], pairs.target_out[:, :-1][inside])
    assert ((pairs.target_out == END).sum(1) == 1).all()
    np.testing.assert_array_equal(pairs.weight, pairs.target_out != PAD)


def test_the_vocabulary_is_the_same_each_time(toy):
    first = translation_task.vocabulary("tiny").serialized_model_proto()
    translation_task.vocabulary.cache_clear()
    assert translation_task.vocabulary("tiny").serialized_model_proto() == first


def test_every_pair_is_in_one_batch_an_epoch_and_epochs_differ(pairs):
    batches = translation_batches.LengthBatches(pairs, 32, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        batches.epoch = epoch
        orders.append(np.concatenate([batches.rows(i) for i in range(len(batches))]))
        assert sorted(orders[-1]) == list(range(len(pairs)))
    np.testing.assert_array_equal(orders[0], orders[2])
    assert (orders[0] != orders[1]).any()


def test_cut_batches_lose_padding_alone(pairs):
    order = translation_batches.LengthBatches(pairs, 32, seed=3)
    cut = translation_batches.Cut(order, order)
    for i in range(len(order)):
        (source, target_in), target_out, weight = cut[i]
        lengths = {array.shape[1] for array in (source, target_in, target_out, weight)}
        assert lengths == {order.length(i)}
        assert lengths < set(LENGTHS)
        np.testing.assert_array_equal(weight.sum(1), order[i][2].sum(1))
        assert ((source == END).sum(1) == 1).all()
    # Else Keras on TensorFlow takes the first length for that of all.
    assert order.length(0) != order.length(1)


def test_what_is_too_long_ends_with_its_last_id():
    np.testing.assert_array_equal(translation_batches.padded([[5, 6, END], [5, END]], 2), [[5, END], [5, END]])


@pytest.mark.slow
def test_the_program_trains_translates_and_goes_on_where_it_was(toy, tmp_path, capsys, monkeypatch):
    arguments = ["--seed", "0", "--budget", "tiny", "--directory", str(tmp_path)]
    program.main(["both", *arguments])
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "tiny" / "seed0" / "both" / "result.json").read_text())
    assert set(result["bleu"]) == {"val, greedy", "val, beam", "test, greedy", "test, beam"}
    assert "tok:13a" in printed
    assert "distillation_loss" in printed
    assert len(json.loads((tmp_path / "tiny" / "seed0" / "teacher" / "train.beam.json").read_text())) == 200

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(translation_students, "_train", refuse)
    program.main(["both", *arguments])
    assert capsys.readouterr().out.strip() == printed[printed.index("Keras ") :].strip()
    with pytest.raises(AssertionError, match="trained again"):
        program.main(["labels", *arguments])

    monkeypatch.setattr(program, "ON_DEVICE", "both")
    monkeypatch.setattr(translation_device, "RECIPES", ("float32",))
    program.main(["device", *arguments])
    row = json.loads((tmp_path / "tiny" / "seed0" / "both" / "device.json").read_text())["float32"]
    assert row["verified"] == 1
    assert row["as_keras"] == 1
    assert f"{row['bytes']:,}" in capsys.readouterr().out
