"""The models of a bundle as an app on a device would use them."""

import importlib
import json
import sys

import keras
import numpy as np
import pytest
from keras import layers
from tokenizers import Tokenizer, models, pre_tokenizers

import keras_notes as kn
from keras_notes.conversion import streaming_model
from keras_notes.layers import decoding_models, decoding_samples, generate
from tests.layers.decoders import END, PAD, START, device_samples, device_transformer
from tests.support.bundles import LABELS, RUNNER, TESTDATA, bars, copied, edit_manifest, run_device

# Each output is a step of int8 or less from the trained model's; a probability moves by less than that of its logits.
INT8_PROBABILITY = 0.15
FLOAT32_ROUNDING = 1e-5
STEPS, FEATURES = 12, 3
X = np.random.default_rng(0).normal(size=(1, STEPS, FEATURES)).astype("float32")


@pytest.fixture(scope="module")
def device():
    """tflite/python/models.py, which is in no package."""
    sys.path.insert(0, str(RUNNER.parent))
    try:
        yield importlib.import_module("models")
    finally:
        sys.path.remove(str(RUNNER.parent))
        for name in ("models", "run"):
            sys.modules.pop(name, None)


def recurrent(activation):
    return keras.Sequential(
        [keras.Input((STEPS, FEATURES)), kn.layers.LSTM(8), layers.Dense(4, activation=activation)], name="recurrent"
    )


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """A streaming model with a softmax of its own, and its bundle."""
    keras.utils.set_random_seed(0)
    model = recurrent("softmax")
    step = streaming_model(model)
    bundle = kn.convert(step, tmp_path_factory.mktemp("stream") / "bundle", "float32", labels=list(LABELS))
    return model, bundle


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory):
    """A Transformer, its tokenizer of whole words, and its bundle."""
    folder = tmp_path_factory.mktemp("seq2seq")
    words = {"<pad>": PAD, "<s>": START, "</s>": END} | {f"w{number}": number for number in range(3, 1500)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "words.json"))
    model = device_transformer()
    # Larger weights, so that what comes next depends on what came before.
    for variable in model.decoder_blocks[0].variables:
        variable.assign(2.0 * variable)
    signatures = decoding_models(model, 6, prompt_length=2, target_length=10)
    golden = decoding_samples(signatures, *device_samples(2, seed=0), steps=2)
    arguments = {"signatures": signatures, "golden": golden, "tokenizer": folder / "words.json"}
    return model, kn.convert(model, folder / "bundle", "float32", **arguments)


@pytest.mark.parametrize("edges", ["float32", "uint8"])
def test_a_classifier_ranks_the_classes_by_their_softmax(device, net, converted, edges):
    classifier = device.Classifier(converted("static_int8", edges).directory)
    for image in bars(4, seed=3)[0]:
        ranked = classifier.classify(image)
        logits = keras.ops.convert_to_numpy(net(image[None]))[0].astype("float64")
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert ranked[0][0] == LABELS[expected.argmax()]
        assert [share for _, share in ranked] == sorted((share for _, share in ranked), reverse=True)
        shares = dict(ranked)
        np.testing.assert_allclose([shares[label] for label in LABELS], expected, atol=INT8_PROBABILITY)


def test_a_streamer_remembers_until_it_is_reset(device, stream):
    model, bundle = stream
    streamer = device.Streamer(bundle.directory)
    for _ in range(2):
        for sample in X[0]:
            ranked = dict(streamer.step(sample))
        expected = keras.ops.convert_to_numpy(model(X))[0]
        # The model's own softmax: a second one would flatten it.
        np.testing.assert_allclose([ranked[label] for label in LABELS], expected, atol=FLOAT32_ROUNDING)
        once_more = dict(streamer.step(X[0, 0]))
        assert max(abs(once_more[label] - ranked[label]) for label in LABELS) > 100 * FLOAT32_ROUNDING
        streamer.reset()


def test_a_translator_writes_what_generate_writes(device, seq2seq):
    model, bundle = seq2seq
    translator = device.Translator(bundle.directory)
    sources, _ = device_samples(3, seed=5)
    ids = generate(model, sources, start_id=START, end_id=END, max_length=10)
    for source, row in zip(sources, ids, strict=True):
        text = " ".join(f"w{number}" for number in source if number != PAD)
        words = [f"w{number}" for number in row[: [*row, END].index(END)] if number not in (PAD, START)]
        assert words
        assert translator.translate(text) == " ".join(words)


def test_the_program_takes_text_where_neither_keras_nor_tensorflow_is(seq2seq, device):
    _, bundle = seq2seq
    result = run_device(bundle.directory, "--text", "w4 w5 w6", script=RUNNER.with_name("generate.py"))
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout)
    assert line["text"] == device.Translator(bundle.directory).translate("w4 w5 w6")
    assert line["ended"] == (line["ids"][-1] == END)


def refusal(call, *arguments):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(*arguments)
    return str(caught.value)


def test_wrong_samples_are_refused(device, stream, converted):
    classifier = device.Classifier(converted("static_int8", "float32").directory)
    assert refusal(classifier.classify, np.zeros((8, 7, 1))) == (
        "image must be of shape [1, 8, 8, 1]. Received: [1, 8, 7, 1]."
    )
    assert "must be finite" in refusal(classifier.classify, np.full((8, 8, 1), np.nan))
    streamer = device.Streamer(stream[1].directory)
    assert refusal(streamer.step, np.zeros(4)) == "A sample must have 3 features. Received: shape (4,)."
    assert "Give its samples to `step`" in refusal(streamer.classify, X[0])
    # Not a KeyError about the state that it misses.
    assert "Give its samples to `step`" in refusal(device.Classifier(stream[1].directory).classify, X[0])


def test_wrong_texts_are_refused(device, seq2seq):
    translator = device.Translator(seq2seq[1].directory)
    assert refusal(translator.translate, "") == "A text must have 1 to 6 pieces. Received: 0 of ''. Shorten it."
    assert "Received: 7 of" in refusal(translator.translate, "a b c d e f g")


def test_bundles_of_another_kind_are_refused(device, seq2seq):
    assert "It has no encode" in refusal(device.Translator, TESTDATA)
    assert "This bundle takes a whole sequence: use Classifier." in refusal(device.Streamer, TESTDATA)
    assert "A classifier must have one input" in refusal(device.Classifier, seq2seq[1].directory)


def test_a_bundle_without_words_says_how_to_get_them(device, seq2seq, tmp_path):
    directory = copied(seq2seq[1], tmp_path / "bundle")
    edit_manifest(directory, lambda manifest: manifest["files"].pop("tokenizer.json"))
    assert "Convert with `tokenizer`, or give ids." in refusal(device.Translator, directory)


def test_a_damaged_bundle_is_refused(device, tmp_path):
    directory = copied(TESTDATA, tmp_path / "bundle")
    (directory / "model.tflite").write_bytes(b"nothing")
    assert "model.tflite is damaged" in refusal(device.Classifier, directory)
