"""The device-side decoder, where it runs: in a process that has neither Keras nor TensorFlow nor keras_notes."""

import json

import numpy as np
import pytest

import keras_notes as kn
from keras_notes.layers import decoding_models, decoding_samples, generate
from tests.layers.decoders import END, START, device_samples, device_transformer
from tests.support.bundles import RUNNER, TESTDATA, copied, error_lines, run_device

SCRIPT = RUNNER.with_name("generate.py")
KEYS = ["runner", "runtime_version", "device", "ids", "text", "ended", "tokens_per_second", "model_sha256"]


@pytest.fixture(scope="module")
def transformer():
    model = device_transformer()
    # Larger weights, so that what comes next depends on what came before.
    for variable in model.decoder_blocks[0].variables:
        variable.assign(2.0 * variable)
    return model


@pytest.fixture(scope="module")
def bundle(transformer, tmp_path_factory):
    models = decoding_models(transformer, 6, prompt_length=2, target_length=10)
    golden = decoding_samples(models, *device_samples(2, seed=0), steps=2)
    return kn.convert(
        transformer, tmp_path_factory.mktemp("seq2seq") / "bundle", "float32", signatures=models, golden=golden
    )


def decode(bundle, source, *options, start=START, end=END):
    return run_device(bundle, *source, "--start", start, "--end", end, *options, script=SCRIPT)


def test_it_decodes_as_generate_does(bundle, transformer):
    sources, _ = device_samples(3, seed=5)
    ids = generate(transformer, sources, start_id=START, end_id=END, max_length=10)
    assert len({tuple(row) for row in ids}) > 1, "one answer to all would show nothing"
    # The second run ends at what it gives at its third place.
    for source, row, end in zip(sources, ids, (END, int(ids[1, 2]), END), strict=True):
        result = decode(bundle.directory, source[source != 0], "--repeat", 2, end=end)
        assert result.returncode == 0, result.stderr
        (line,) = result.stdout.splitlines()
        answer = json.loads(line)
        assert list(answer) == KEYS
        first = np.flatnonzero(row == end)[:1]
        expected = row[: first[0] + 1] if first.size else row
        assert answer["ids"] == expected.tolist()
        assert answer["ended"] == bool(first.size)
        assert answer["tokens_per_second"] > 0
        assert answer["model_sha256"] == bundle.manifest.files["model.tflite"].sha256


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([4] * 7, {}, "A source must have 1 to 6 ids. Received: 7."),
        ([4, 1500], {}, "Ids of the source must be in the vocabulary"),
        ([4, -3], {}, "Ids must be >= 0. Received: -3."),
        ([4], {"start": 1500}, "The start id must be in [0, 1500). Received: 1500."),
        ([4], {"end": -1}, "The end id must be in [0, 1500). Received: -1."),
    ],
)
def test_wrong_ids_are_one_line_and_exit_code_2(bundle, source, options, message):
    result = decode(bundle.directory, source, **options)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (line,) = error_lines(result.stderr)
    assert line.startswith(f"generate.py: cannot run {bundle.directory}: {message}")


def test_a_length_past_the_caches_is_exit_code_2(bundle):
    result = decode(bundle.directory, [4], "--max-length", 11)
    assert result.returncode == 2
    assert "The length must be in [1, 10]. Received: 11." in result.stderr


def test_a_bundle_that_does_not_decode_is_exit_code_2():
    result = decode(TESTDATA, [4])
    assert result.returncode == 2
    assert "must have the signatures encode, prefill, decode_step. It has no encode." in result.stderr


def test_a_damaged_bundle_is_exit_code_2(bundle, tmp_path):
    directory = copied(bundle, tmp_path / "damaged")
    path = directory / "model.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    result = decode(directory, [4])
    assert result.returncode == 2
    assert "model.tflite is damaged" in result.stderr
