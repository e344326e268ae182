"""Benchmarking: the figures of a report follow from the times; who is measured when; memory. No time is tested."""

import json
import sys

import numpy as np
import pytest

from keras_notes import benchmarking, errors
from keras_notes._litert import client as tflite_process
from keras_notes._litert import tasks
from keras_notes.benchmarking import bench, bundle_bytes
from keras_notes.bundle import open_bundle
from tests.support.bundles import MODEL_FILE, TESTDATA, contents, copied, edit_manifest, rewrite

MIB = 2**20


class _Clock:
    """Stands in for LiteRT: the times are drawn from a seed, and kept by the directory of the bundle."""

    def __init__(self):
        self._rng = np.random.default_rng(0)
        self.calls = []
        self.rounds = {}

    def latencies(self, path, signature, inputs, kernels, threads, repeat, limits):
        self.calls.append((path.parent.name, threads, repeat, kernels, signature.name, inputs))
        value = {"load_ms": self._rng.random(), "first_ms": self._rng.random(), "peak_bytes": len(self.calls) * 1000}
        warm_ms = self._rng.random(repeat)
        if repeat > 1:
            self.rounds.setdefault((path.parent.name, threads), []).append((value, warm_ms))
        return value, warm_ms


@pytest.fixture
def clock(monkeypatch):
    """The times are drawn, so that a test can know them."""
    clock = _Clock()
    monkeypatch.setattr(tflite_process, "latencies", clock.latencies)
    return clock


@pytest.fixture
def other(tmp_path):
    """A second bundle, of another name and recipe."""
    directory = copied(TESTDATA, tmp_path / "other")
    edit_manifest(directory, lambda manifest: manifest.update(name="second", recipe="float32"))
    return directory


def test_each_number_of_threads_has_a_row(testdata):
    report = bench(testdata, threads=[1, 2], repeat=3, rounds=2)
    assert [(row.bundle, row.name, row.recipe, row.threads) for row in report.rows] == [
        ("A", "bars", "static_int8", 1),
        ("A", "bars", "static_int8", 2),
    ]
    for row in report.rows:
        assert min(row.load_ms, row.first_ms, row.p50_ms) > 0
        assert row.p95_ms >= row.p50_ms
        assert row.model_bytes == (testdata / MODEL_FILE).stat().st_size
        assert row.bundle_bytes == sum(map(len, contents(testdata).values()))
    assert report.ratios == ()


def test_two_bundles_have_rows_and_a_ratio_for_each_number_of_threads(testdata, other):
    report = bench(testdata, other, threads=[2, 1], kernels="reference", repeat=3, rounds=2)
    assert [(row.bundle, row.name, row.threads) for row in report.rows] == [
        ("A", "bars", 2),
        ("B", "second", 2),
        ("A", "bars", 1),
        ("B", "second", 1),
    ]
    assert [ratio.threads for ratio in report.ratios] == [2, 1]
    assert report.kernels == "reference"


def test_the_figures_of_a_row_are_those_of_its_rounds(testdata, clock):
    (row,) = bench(testdata, threads=[1], repeat=7, rounds=4).rows
    rounds = clock.rounds["bundle", 1]
    assert len(rounds) == 4
    assert row.load_ms == np.median([value["load_ms"] for value, _ in rounds])
    assert row.first_ms == np.median([value["first_ms"] for value, _ in rounds])
    assert row.p50_ms == np.median(np.concatenate([warm_ms for _, warm_ms in rounds]))
    assert row.p95_ms == np.percentile(np.concatenate([warm_ms for _, warm_ms in rounds]), 95)
    assert row.peak_bytes == rounds[-1][0]["peak_bytes"]


def test_the_ratio_is_that_of_the_medians_of_each_round(testdata, other, clock):
    report = bench(testdata, other, threads=[1, 2], repeat=7, rounds=5)
    for ratio in report.ratios:
        first, second = (clock.rounds[name, ratio.threads] for name in ("bundle", "other"))
        ratios = [np.median(a) / np.median(b) for (_, a), (_, b) in zip(first, second, strict=True)]
        assert ratio.median == pytest.approx(np.median(ratios))
        assert (ratio.lower, ratio.upper) == pytest.approx(tuple(np.percentile(ratios, [25, 75])))


def test_a_bundle_that_takes_half_the_time_has_a_ratio_of_a_half(testdata, other, monkeypatch):
    def latencies(path, *_):
        time_ms = 1.0 if path.parent == testdata else 2.0
        return {"load_ms": 1.0, "first_ms": 1.0, "peak_bytes": 1}, np.full(3, time_ms)

    monkeypatch.setattr(tflite_process, "latencies", latencies)
    (ratio,) = bench(testdata, other, threads=[1]).ratios
    assert (ratio.lower, ratio.median, ratio.upper) == (0.5, 0.5, 0.5)


def test_bundles_take_turns_and_each_leads_once_in_two_rounds(testdata, other, clock):
    bench(testdata, other, threads=[1], repeat=2, rounds=20)
    names = [name for name, _, repeat, *_ in clock.calls if repeat > 1]
    assert {name for name, _, repeat, *_ in clock.calls[:2] if repeat == 1} == {"bundle", "other"}
    blocks = [tuple(names[start : start + 4]) for start in range(0, len(names), 4)]
    assert set(blocks) == {("bundle", "other", "other", "bundle"), ("other", "bundle", "bundle", "other")}


def test_the_order_is_the_same_in_every_run(testdata, other, clock):
    bench(testdata, other, threads=[1], rounds=6)
    first = [name for name, *_ in clock.calls]
    clock.calls.clear()
    bench(testdata, other, threads=[1], rounds=6)
    assert [name for name, *_ in clock.calls] == first


def test_what_is_run_are_the_golden_inputs_of_the_first_signature(testdata, clock):
    bench(testdata, threads=[3], kernels="builtin", repeat=2, rounds=1)
    _, threads, repeat, kernels, signature, inputs = clock.calls[-1]
    entry = open_bundle(testdata).manifest.signatures[0]
    assert (threads, repeat, kernels, signature) == (3, 2, "builtin", entry.name)
    np.testing.assert_array_equal(inputs["image"], open_bundle(testdata).golden(entry)[0]["image"])


def test_memory_that_the_system_does_not_tell_is_none(testdata, monkeypatch):
    value = {"load_ms": 1.0, "first_ms": 1.0, "peak_bytes": None}
    monkeypatch.setattr(tflite_process, "latencies", lambda *_: (value, np.ones(2)))
    report = bench(testdata, threads=[1])
    assert report.rows[0].peak_bytes is None
    assert " -  " in str(report)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's peak memory")
def test_the_peak_is_that_of_the_task_and_not_that_of_an_earlier_one():
    np.ones(128 * MIB, np.uint8)
    before = tasks._forget_peak()
    np.ones(32 * MIB, np.uint8)
    added = tasks._added_bytes(before)
    assert 31 * MIB < added < 48 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's peak memory")
def test_memory_is_measured(testdata):
    peaks = [row.peak_bytes for row in bench(testdata, threads=[1, 2], repeat=2, rounds=1).rows]
    # A file of 3 KiB; LiteRT itself, of some MiB, must not count.
    assert all(0 <= peak < MIB for peak in peaks)


def test_every_invocation_has_its_time(testdata):
    bundle = open_bundle(testdata)
    (signature,) = bundle.manifest.signatures
    inputs = bundle.golden(signature)[0]
    for repeat in (1, 40):
        value, warm_ms = tflite_process.latencies(bundle.model_path, signature, inputs, "xnnpack", 1, repeat)
        assert warm_ms.shape == (repeat,)
        assert (warm_ms > 0).all()
        assert min(value["load_ms"], value["first_ms"]) > 0


def test_the_report_can_be_read_and_written_as_json(testdata, other, clock):
    report = bench(testdata, other, threads=[1], repeat=7, rounds=3)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["rows"][1]["p50_ms"] == report.rows[1].p50_ms
    assert data["ratios"][0]["median"] == report.ratios[0].median
    heading, columns, first, second, ratio = str(report).splitlines()
    assert "xnnpack kernels" in heading
    assert "3 rounds of 7 invocations" in heading
    assert len({len(columns), len(first), len(second)}) == 1
    assert first.startswith("A bars (static_int8)")
    assert f"{report.rows[0].p50_ms:.4f}" in first
    assert f"{report.rows[1].peak_bytes:,}" in second
    assert f"{report.ratios[0].median:.3f} of the p50s" in ratio


def test_a_bundle_is_its_files_and_its_manifest():
    assert bundle_bytes(open_bundle(TESTDATA)) == sum(map(len, contents(TESTDATA).values()))


def test_benchmarking_changes_nothing(testdata):
    before = contents(testdata)
    bench(testdata, threads=[1], repeat=2, rounds=1)
    assert contents(testdata) == before


@pytest.mark.parametrize("is_first", [True, False])
def test_a_damaged_model_is_a_bundle_error(testdata, is_first):
    rewrite(testdata, MODEL_FILE, b"not a flatbuffer")
    pair = (testdata, TESTDATA) if is_first else (TESTDATA, testdata)
    with pytest.raises(errors.BundleError, match="LiteRT"):
        bench(*pair, threads=[1], repeat=1, rounds=1)


def test_files_are_checked_again_for_an_open_bundle(testdata):
    bundle = open_bundle(testdata)
    (testdata / MODEL_FILE).write_bytes(b"swapped")
    with pytest.raises(errors.BundleError, match=rf"damaged: {MODEL_FILE}"):
        bench(bundle)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"threads": []}, ValueError, "`threads` must hold at least one number"),
        ({"threads": [1, 1]}, ValueError, "and each once"),
        ({"threads": [0]}, ValueError, "`threads` must be >= 1. Received: threads=0"),
        ({"threads": [1.5]}, TypeError, "`threads` must be an integer"),
        ({"threads": 2}, TypeError, "`threads` must be a sequence"),
        ({"threads": "12"}, TypeError, "`threads` must be a sequence"),
        ({"repeat": 0}, ValueError, "`repeat` must be >= 1. Received: repeat=0"),
        ({"rounds": 0}, ValueError, "`rounds` must be >= 1. Received: rounds=0"),
        ({"kernels": "gpu"}, ValueError, "`kernels` must be one of 'xnnpack', 'builtin', 'reference'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        bench(TESTDATA, **arguments)


def test_the_public_names_are_there():
    assert sorted(benchmarking.__all__) == benchmarking.__all__
    assert all(getattr(benchmarking, name).__doc__ for name in benchmarking.__all__)
