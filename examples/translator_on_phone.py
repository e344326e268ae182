"""A small Transformer translates English to German on a phone: text in, text out, piece by piece.

    python examples/translator_on_phone.py [--epochs 12] [--seed 0] [--output build/translator]

Data: Multi30k (Elliott et al. 2016), 29,000 pairs of descriptions of images; found as datasets/sequences.py says.
4,000 pieces of words for both languages together (byte-pair encoding by Hugging Face's tokenizers). Pairs of more than
31 pieces on a side are left out. The student's net of benchmarks/translation/program.py, trained on the data alone:
width 64, 4 heads, 2 and 1 blocks, one embedding for source, target and output; Adam up to 5e-3 in 500 steps and down to
0 by a cosine, labels smoothed by 0.1. That benchmark has BLEU, and what a teacher adds; this is the way to the phone.

It leaves a bundle (dynamic_int8) in the output directory, with the signatures `encode`, `prefill` and `decode_step`
and the tokenizer; translates some test sentences by it, with tflite/python/generate.py, as a device would; and prints
how many of them are what `keras_notes.layers.generate` gives, to the letter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from datasets.sequences import multi30k
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import keras_notes as kn
from keras_notes.layers import Transformer, decoding_models, decoding_samples, generate

PAD, START, END, UNKNOWN = range(4)
WORDS = ("<pad>", "<s>", "</s>", "<unk>")
PIECES, LENGTH, CACHE = 4000, 32, 40
NET = {"num_layers": (2, 1), "width": 64, "num_heads": 4, "hidden_width": 128}
BATCH, RATE, WARM_UP, SMOOTHING = 64, 5e-3, 500, 0.1
SHOWN = 50
GENERATE = Path(__file__).resolve().parent.parent / "tflite" / "python" / "generate.py"


def trained_tokenizer(texts):
    """Pieces of words, merged by their frequency; a source ends with the end id, by the tokenizer itself."""
    tokenizer = Tokenizer(models.BPE(unk_token=WORDS[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=PIECES, special_tokens=list(WORDS)))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {WORDS[END]}", special_tokens=[(WORDS[END], END)]
    )
    return tokenizer


def padded(rows, length):
    """Ids of shape (rows, length)."""
    ids = np.full((len(rows), length), PAD, "int32")
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    return ids


def pairs_of(tokenizer, english, german):
    """Sources, what the decoder reads, and what it shall say; pairs that are too long are left out."""
    both = zip(tokenizer.encode_batch(english), tokenizer.encode_batch(german), strict=True)
    kept = [(x.ids, y.ids) for x, y in both if max(len(x.ids), len(y.ids)) <= LENGTH]
    source, target = padded([x for x, _ in kept], LENGTH), padded([y for _, y in kept], LENGTH)
    return source, np.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=START), target


def trained_net(source, target_in, target_out, epochs, seed):
    """The Transformer after training on the data."""
    keras.utils.set_random_seed(seed)
    sizes = {
        **NET,
        "max_length": CACHE,
        "pad_id": PAD,
        "norm_first": True,
        "share_embeddings": True,
        "name": "translator",
    }
    net = Transformer(PIECES, PIECES, **sizes)
    steps = epochs * -(-len(source) // BATCH)
    warm_up = min(WARM_UP, steps // 2)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warm_up, warmup_target=RATE, warmup_steps=warm_up)
    loss = kn.losses.FocalLoss(0.0, from_logits=True, label_smoothing=SMOOTHING, reduction="mean_with_sample_weight")
    net.compile(keras.optimizers.Adam(rate, beta_2=0.98, epsilon=1e-9), loss=loss)
    weights = (target_out != PAD).astype("float32")
    net.fit((source, target_in), target_out, sample_weight=weights, batch_size=BATCH, epochs=epochs, verbose=2)
    return net


def convert(net, tokenizer, pairs, output):
    """The bundle, verified."""
    output.mkdir(parents=True, exist_ok=True)
    words = output / "words.json"
    tokenizer.save(str(words))
    signatures = decoding_models(net, LENGTH, target_length=CACHE)
    golden = decoding_samples(signatures, pairs[0][:8], pairs[1][:8])
    arguments = {"signatures": signatures, "golden": golden, "tokenizer": words, "overwrite": True}
    bundle = kn.convert(net, output / "bundle", "dynamic_int8", **arguments)
    kn.verify(bundle)
    return bundle


def on_device(bundle, text):
    """What tflite/python/generate.py prints for a text."""
    command = [sys.executable, str(GENERATE), str(bundle.directory), "--text", text]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip())
    return json.loads(result.stdout)


def main():
    """Trains, converts, and translates on the device's program."""
    parser = argparse.ArgumentParser(description="A translator for a phone.")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("build/translator"), metavar="DIR")
    options = parser.parse_args()
    start = time.perf_counter()
    (english, german), _, (english_test, _) = multi30k()
    tokenizer = trained_tokenizer([*english, *german])
    pairs = pairs_of(tokenizer, english, german)
    net = trained_net(*pairs, options.epochs, options.seed)
    bundle = convert(net, tokenizer, pairs, options.output)
    texts = [text for text in english_test if len(tokenizer.encode(text).ids) <= LENGTH][:SHOWN]
    sources = padded([tokenizer.encode(text).ids for text in texts], LENGTH)
    by_keras = generate(net, sources, start_id=START, end_id=END, max_length=CACHE)
    translations = [on_device(bundle, text) for text in texts]
    for text, line in zip(texts[:5], translations, strict=False):
        print(f"{text}\n  {line['text']}")
    same = [line["ids"] == row[: len(line["ids"])].tolist() for line, row in zip(translations, by_keras, strict=True)]
    speed = np.median([line["tokens_per_second"] for line in translations])
    print(f"{sum(same)} of {len(same)} translations are those of Keras; median {speed:,.0f} pieces a second")
    print(f"{bundle.directory}: {bundle.model_bytes:,} bytes; {net.count_params():,} parameters")
    print(f"{(time.perf_counter() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
