"""Bundles for the tests and the pictures of tflite/web: a classifier of motion, a translator with a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

import keras_notes as kn
from keras_notes.conversion import streaming_model
from keras_notes.layers import Transformer, decoding_models, decoding_samples
from tests.support.bundles import copied, edit_manifest, rewrite

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(4)
ACTIVITIES = ("still", "walking", "turning")
AXES, RATE_HZ, WINDOW = 6, 12.5, 25
SPACE = "\u2581"  # what stands for the space before a word in SentencePiece's vocabularies


def motion(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of (samples, WINDOW, AXES) as a phone gives them, and the ids of what it was carried through."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(ACTIVITIES), samples)
    time = np.arange(WINDOW) / RATE_HZ
    x = rng.normal(0.0, 0.03, (samples, WINDOW, AXES))
    x[:, :, 1] += 1.0  # gravity
    swing = np.sin(2 * np.pi * (1.8 * time + rng.random((samples, 1))))
    x[:, :, 1] += 0.4 * swing * (classes == 1)[:, None]
    x[:, :, 2] += 0.2 * np.roll(swing, 2, axis=1) * (classes == 1)[:, None]
    x[:, :, 4] += 1.2 * np.sin(np.pi * time / 2) * (classes == 2)[:, None]
    return x.astype("float32"), classes


def trained_lstm() -> keras.Model:
    """Tells the kinds of `motion` apart."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((WINDOW, AXES), name="motion"), kn.layers.LSTM(12), keras.layers.Dense(len(ACTIVITIES))]
    net = keras.Sequential(layers, name="activities")
    net.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(*motion(400, seed=0), epochs=4, batch_size=32, verbose=0)
    return net


def motion_bundle(directory: Path) -> Path:
    """A classifier of `motion`, of WINDOW steps at once and step by step: a file with two signatures."""
    net = trained_lstm()
    golden = {"serving_default": motion(6, seed=2)[0], "step": motion(3, seed=1)[0].reshape(-1, 1, AXES)}
    words = f"Acceleration in g along x, y, z, then rotation in rad/s around them, at {RATE_HZ} Hz."
    options = {"golden": golden, "labels": list(ACTIVITIES), "preprocessing": words}
    kn.convert(net, directory, "float32", signatures={"step": streaming_model(net)}, **options)
    return directory


def keyword_bundle(directory: Path) -> Path:
    """A classifier of spectrograms in decibels."""
    frames = keras.Input((20, 12, 1), name="spectrogram")
    net = keras.Model(frames, keras.layers.Dense(2)(keras.layers.Flatten()(frames)), name="spotter")
    x = np.random.default_rng(0).uniform(-80.0, 0.0, (8, 20, 12, 1)).astype("float32")
    kn.convert(net, directory, "float32", golden=x, labels=["yes", "no"])
    return directory


def wave_bundle(directory: Path) -> Path:
    """The energy of a second of sound, as a signal and as its square."""
    sound = keras.Input((8000,), name="waveform")
    energy = keras.ops.mean(keras.ops.square(sound), axis=-1, keepdims=True)
    x = np.sin(np.arange(8000) / 5.0 * np.linspace(0.5, 1.0, 4)[:, None]).astype("float32")
    kn.convert(keras.Model(sound, energy, name="loudness"), directory, "float32", golden=x, preprocessing="At 8 kHz.")
    return directory


def pair_bundle(directory: Path) -> Path:
    """A sum of two inputs, of numbers and of ids."""
    first, second = keras.Input((3,), name="first"), keras.Input((2,), dtype="int32", name="second")
    total = keras.ops.sum(first, -1, keepdims=True) + keras.ops.sum(
        keras.ops.cast(second, "float32"), -1, keepdims=True
    )
    golden = {"first": np.arange(6.0, dtype="float32").reshape(2, 3), "second": np.array([[1, 2], [3, 4]], "int32")}
    kn.convert(keras.Model([first, second], total, name="sum"), directory, "float32", golden=golden)
    return directory


def byte_images_bundle(directory: Path) -> Path:
    """The mean of pixels of 0 to 255, which the model brings to 0 to 1 itself."""
    pixels = keras.Input((8, 8, 1), name="pixels")
    mean = keras.layers.Flatten()(keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels)))
    x = np.random.default_rng(0).integers(0, 250, (8, 8, 8, 1)).astype("float32")
    kn.convert(keras.Model(pixels, mean, name="brightness"), directory, "float32", golden=x)
    return directory


def int8_stream_bundle(directory: Path) -> Path:
    """The step of `motion_bundle` alone, as int8."""
    steps = motion(40, seed=3)[0].reshape(-1, 1, AXES)
    step = streaming_model(trained_lstm())
    kn.convert(step, directory, "static_int8", golden=steps[:WINDOW], calibration=steps)
    return directory


def without_stream(bundle: Path, directory: Path) -> Path:
    """A copy of `motion_bundle` of which the manifest says no more than that it takes windows."""
    copied(bundle, directory)
    edit_manifest(directory, lambda manifest: manifest["signatures"].pop())
    return directory


def tokenizer_json(pieces: Iterable[str]) -> bytes:
    """A tokenizer.json of a unigram vocabulary: the special tokens, then the pieces, the likeliest first."""
    vocabulary = [*((token, 0.0) for token in SPECIAL_TOKENS)]
    vocabulary += [(piece, -1.0 - 0.01 * place) for place, piece in enumerate(pieces)]
    added = [
        {"id": place, "content": token, "special": True, "normalized": False, "single_word": False}
        | {"lstrip": False, "rstrip": False}
        for place, token in enumerate(SPECIAL_TOKENS)
    ]
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    description = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": space,
        "post_processor": None,
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": UNKNOWN, "vocab": vocabulary, "byte_fallback": False},
    }
    return json.dumps(description, ensure_ascii=False).encode()


def translator_bundle(
    model: Transformer, directory: Path, source_length: int, samples: tuple[np.ndarray, np.ndarray]
) -> None:
    """The stages of decoding with `model`; `samples` are ids of sources and targets."""
    models = decoding_models(model, source_length)
    golden = decoding_samples(models, *samples, steps=2)
    kn.convert(model, directory, "float32", signatures=models, golden=golden)


def add_tokenizer(directory: Path, pieces: Iterable[str]) -> None:
    """Puts a tokenizer.json into a bundle."""
    rewrite(directory, "tokenizer.json", tokenizer_json(pieces))
