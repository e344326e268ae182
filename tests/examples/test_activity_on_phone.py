"""The activity example: its streams, and the way from windows to two bundles, on made-up motions."""

import sys

import numpy as np
import pytest

import keras_notes as kn
from keras_notes.bundle import open_bundle
from tests.examples.pages import import_example

example = import_example("activity_on_phone")

WINDOW = example.WINDOW * example.STEPS_AT_ONCE
FLOAT32_ROUNDING = 1e-5


def windows_of(signal):
    """Windows that overlap by a half, as those of HAPT."""
    return [signal[start : start + WINDOW] for start in range(0, len(signal) - WINDOW + 1, WINDOW // 2)]


def motions(subjects, seed):
    """Two stretches of each activity and subject: sines, their speed the activity."""
    rng = np.random.default_rng(seed)
    x, y, subject = [], [], []
    for person in subjects:
        for activity in (*range(6), *range(6)):
            time = np.arange(6 * WINDOW)[:, None] / 50 + rng.uniform(0, 9)
            signal = np.sin(2 * np.pi * time * (0.4 + activity) + np.arange(6)) * (1, 1, 1, 5, 5, 5)
            windows = windows_of((signal + rng.normal(0, 0.1, signal.shape)).astype("float32"))
            x += windows
            y += [activity] * len(windows)
            subject += [person] * len(windows)
    return np.array(x), np.array(y, "uint8"), np.array(subject, "uint8")


def test_windows_that_overlap_are_one_stretch():
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(length * WINDOW, 6)).astype("float32") for length in (3, 1, 2)]
    windows = [windows_of(signal) for signal in signals]
    x = np.concatenate(windows)
    y = np.repeat([4, 4, 1], list(map(len, windows)))
    subject = np.repeat([7, 7, 2], list(map(len, windows)))
    stretches = example.stretches(x, y, subject)
    assert sorted(stretches) == [2, 7]
    joined = [*stretches[7], *stretches[2]]
    assert [activity for _, activity in joined] == [4, 4, 1]
    for (actual, _), signal in zip(joined, signals, strict=True):
        np.testing.assert_allclose(actual, signal.reshape(-1, 4, 6).mean(1), atol=FLOAT32_ROUNDING)


def test_a_stream_is_two_stretches_of_one_subject_and_says_where_it_can_be_judged():
    train = example.stretches(*motions((1, 2), seed=0))
    x, y, weights = example.streams(train, 40, seed=0)
    assert weights[:, : example.SETTLING].sum() == 0
    assert weights.mean() == 1 - example.SETTLING / example.PART
    assert len({tuple(row) for row in y[:, :: example.PART].tolist()}) > 10, "activities must change on the way"
    for row, activities in zip(x, y, strict=True):
        owners = {
            subject
            for subject, stretches in train.items()
            for signal, activity in stretches
            for part in range(2)
            if activity == activities[part * example.PART] and row[part * example.PART] in signal
        }
        assert owners


@pytest.mark.slow
def test_it_learns_and_leaves_two_verified_bundles(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(example, "hapt", lambda: (motions((1, 2, 3), seed=0), motions((4,), seed=1)))
    monkeypatch.setattr(example, "STREAMS", 256)
    monkeypatch.setattr(sys, "argv", ["activity_on_phone.py", "--epochs", "8", "--output", str(tmp_path)])
    example.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("student")]
    accuracies = {line[:28].strip(): float(line[28:36]) for line in rows}
    assert len(accuracies) == 5
    assert min(accuracies.values()) > 0.5, accuracies
    assert abs(accuracies["student on LiteRT, streams"] - accuracies["student in Keras, streams"]) < 0.05
    assert accuracies["student on LiteRT, windows"] == accuracies["student in int8, windows"]
    for name in ("window", "stream"):
        assert kn.verify(open_bundle(tmp_path / name)).ok
    assert "12.5 Hz" in open_bundle(tmp_path / "stream").manifest.preprocessing
