"""The translator example: its pieces of words, and the way from pairs of sentences to text on a device."""

import re
import sys

import numpy as np
import pytest

import keras_notes as kn
from keras_notes.bundle import open_bundle
from tests.examples.pages import import_example

example = import_example("translator_on_phone")

COLOURS = {"red": "rot", "blue": "blau", "green": "grün", "black": "schwarz"}
THINGS = {"car": "Auto", "house": "Haus", "dog": "Hund", "book": "Buch", "tree": "Baum"}
PAIRS = [
    (f"A {c} {t}, a {d}.", f"{C} {T}, {D}.")
    for c, C in COLOURS.items()
    for t, T in THINGS.items()
    for d, D in THINGS.items()
]


def sentences():
    english, german = (list(side) for side in zip(*PAIRS, strict=True))
    return (english, german), ([], []), (english[:6], german[:6])


def test_text_survives_its_pieces():
    texts = [text for pair in PAIRS for text in pair]
    tokenizer = example.trained_tokenizer(texts)
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert ids[-1] == example.END
        assert tokenizer.decode(ids[:-1]) == text


def test_what_the_decoder_reads_is_one_place_behind_what_it_says():
    (english, german), _, _ = sentences()
    tokenizer = example.trained_tokenizer([*english, *german])
    source, target_in, target_out = example.pairs_of(tokenizer, [*english, "a " * 40], [*german, "ein"])
    assert len(source) == len(english), "a pair that is too long is left out"
    assert (target_in[:, 0] == example.START).all()
    np.testing.assert_array_equal(target_in[:, 1:], target_out[:, :-1])
    assert ((source == example.END).sum(1) == 1).all()


@pytest.mark.slow
def test_it_translates_on_the_program_for_devices_as_in_keras(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(example, "multi30k", sentences)
    monkeypatch.setattr(example, "PIECES", 60)
    monkeypatch.setattr(example, "BATCH", 10)
    monkeypatch.setattr(sys, "argv", ["translator_on_phone.py", "--epochs", "12", "--output", str(tmp_path)])
    example.main()
    printed = capsys.readouterr().out
    (same,) = re.findall("([0-9]) of 6 translations are those of Keras", printed)
    # A last bit may decide between two words that are as likely.
    assert int(same) >= 5, printed
    assert printed.count(PAIRS[0][1]) == 1, printed
    assert kn.verify(open_bundle(tmp_path / "bundle")).ok
