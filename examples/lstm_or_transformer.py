"""LSTM or Transformer for which length? One takes N steps in turn, the other compares N * N pairs at once.

    python examples/lstm_or_transformer.py [--longest 1024] [--rounds 15] [--output build/lstm_or_transformer]

Protocol, declared before anything runs:

* Two layers from sequences (T, 64) to sequences (T, 64): an LSTM with 64 units that returns all its outputs, and one
  block of a Transformer's encoder with 4 heads, whose feed-forward network is as wide as makes the parameters equal,
  to less than 1 %. The width is a multiple of 4, since kernels take four numbers or more at once.
* Each converted for T = 8, 16, 32, ..., --longest, with the recipes float32 and dynamic_int8, and verified. LSTMs are
  lowered as `convert` chooses. Weights are untrained: this is about time and memory, not about what either can learn.
* A round runs every file, LSTM and Transformer of one length in turns, the order changing with the round: 30 sequences
  a file on one thread of LiteRT, after one that does not count. A file's time in the round is their median, without
  the copies of inputs and outputs. The tables give medians over the rounds, and quartiles in brackets.
* Memory: what loading and running a file add at most to the resident memory of its process (`peak_bytes` of
  `keras_notes.bench`): weights, activations, tables, but not LiteRT's code. The largest of all rounds, since pages
  that malloc kept from the file before are missing in some; good to about 100 KiB.
* Growth is the exponent p of T^p between the two longest lengths: with 1 the value doubles as T does, with 2 it
  quadruples. The crossover is where the ratio of LSTM to Transformer crosses 1, on the line between neighbouring
  lengths, both axes logarithmic.

What limits --longest is the Transformer's memory: one tensor of scores, 4 heads x T x T x 4 bytes, has 16 MiB at
T = 1,024 and 1 GiB at T = 8,192. And patience: every length is four files to convert.

References: Hochreiter and Schmidhuber 1997, Long Short-Term Memory, section 4. Vaswani et al. 2017, Attention Is All
You Need, table 1 (https://arxiv.org/abs/1706.03762).

It leaves report.html, its figures as .svg, report.json, and the bundles in the output directory.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from figure_page import start, write_page
from lstm_or_transformer_figures import crossover_section, length_section, work_section

import keras_notes as kn
from keras_notes.layers import count_lstm_params

WIDTH, HEADS = 64, 4
SHORTEST = 8
LAYERS = ("LSTM", "Transformer")
RECIPES = ("float32", "dynamic_int8")
GOLDEN_SAMPLES, REPEAT = 2, 30


# --- Equal parameters ---


def count_encoder_params(hidden_width):
    """Parameters of the block: four projections, two normalizations, and a network of two layers."""
    attention = 4 * (WIDTH * WIDTH + WIDTH)
    network = (WIDTH * hidden_width + hidden_width) + (hidden_width * WIDTH + WIDTH)
    return attention + 2 * 2 * WIDTH + network


def equal_hidden_width(params):
    """The multiple of 4 with which `count_encoder_params` is nearest to `params`."""
    return min(range(4, params, 4), key=lambda width: abs(count_encoder_params(width) - params))


def network(layer, length):
    """A model of one layer for sequences of one length; the weights are the same at every length."""
    keras.utils.set_random_seed(0)
    if layer == "LSTM":
        block = kn.layers.LSTM(WIDTH, return_sequences=True)
    else:
        block = kn.layers.TransformerEncoder(HEADS, equal_hidden_width(count_lstm_params(WIDTH, WIDTH)))
    return keras.Sequential([keras.Input((length, WIDTH)), block], name=f"{layer.lower()}_{length}")


def multiplications(layer, length):
    """Of a sequence: with the kernels at every step, and for attention scores and weighted sums of all pairs."""
    weights = network(layer, length).weights
    kernels = sum(int(np.prod(weight.shape)) for weight in weights if weight.name.endswith("kernel"))
    pairs = 0 if layer == "LSTM" else 2 * WIDTH * length**2
    return kernels * length + pairs


def score_bytes(length):
    """Of one tensor of attention scores: a float32 for each head and pair of positions."""
    return HEADS * length**2 * 4


# --- Measuring ---


def converted(lengths, directory):
    """The verified bundles by (layer, recipe, length), and the operators of their files."""
    bundles, operators = {}, {}
    for length in lengths:
        golden = np.random.default_rng(length).normal(size=(GOLDEN_SAMPLES, length, WIDTH)).astype("float32")
        for layer in LAYERS:
            model = network(layer, length)
            for recipe in RECIPES:
                place = directory / f"{layer.lower()}_{recipe}_{length}"
                bundle = kn.convert(model, place, recipe, golden=golden, overwrite=True)
                bundles[layer, recipe, length] = bundle
                operators[layer, recipe, length] = kn.verify(bundle).operators
        print(f"  T = {length}: converted and verified", flush=True)
    return bundles, operators


def measured(bundles, rounds):
    """Milliseconds in each round and bytes at most by (layer, recipe, length), and the last report of `kn.bench`."""
    times_ms = {key: [] for key in bundles}
    peak_bytes = dict.fromkeys(bundles, 0)
    for number in range(rounds):
        turn = LAYERS if number % 2 == 0 else LAYERS[::-1]
        for recipe, length in {key[1:]: None for key in bundles}:
            pair = [bundles[layer, recipe, length] for layer in turn]
            report = kn.bench(*pair, threads=[1], repeat=REPEAT, rounds=1)
            for layer, row in zip(turn, report.rows, strict=True):
                if row.peak_bytes is None:
                    sys.exit("This example needs a system that says how much memory a process held, as Linux does.")
                times_ms[layer, recipe, length].append(row.p50_ms)
                peak_bytes[layer, recipe, length] = max(peak_bytes[layer, recipe, length], row.peak_bytes)
    return times_ms, peak_bytes, report


# --- What follows ---


def growth(lengths, values):
    """The exponent p of values ~ length^p between the two longest lengths."""
    return float(np.log2(values[-1] / values[-2]) / np.log2(lengths[-1] / lengths[-2]))


def crossover(lengths, ratios):
    """The length at which the ratio crosses 1, the longest if it does so more than once; None if it never does."""
    x, y = np.log2(lengths), np.log2(ratios)
    changes = np.flatnonzero((y[:-1] > 0) != (y[1:] > 0))
    if not len(changes):
        return None
    left = changes[-1]
    right = left + 1
    return float(2 ** (x[left] - y[left] * (x[right] - x[left]) / (y[right] - y[left])))


def summary(lengths, times_ms, peak_bytes):
    """Growth and crossover of one recipe, from times (rounds, lengths) and bytes (lengths,) by layer."""
    ratios = np.divide(*(times_ms[layer] for layer in LAYERS))
    of_rounds = [crossover(lengths, ratio) for ratio in ratios]
    crossovers = [length for length in of_rounds if length is not None]
    return {
        "time_growth": {layer: growth(lengths, np.median(times_ms[layer], axis=0)) for layer in LAYERS},
        "memory_growth": {layer: growth(lengths, peak_bytes[layer]) for layer in LAYERS},
        "time_ratio": np.percentile(ratios, (25, 50, 75), axis=0).tolist(),
        "time_crossover": crossover(lengths, np.median(ratios, axis=0)),
        "time_crossover_quartiles": np.percentile(crossovers, (25, 75)).tolist() if crossovers else None,
        "rounds_that_cross": len(crossovers),
        "memory_crossover": crossover(lengths, np.divide(*(peak_bytes[layer] for layer in LAYERS))),
    }


def measure(longest, rounds, directory):
    """Converts and measures everything; the report as plain values."""
    lengths = [SHORTEST * 2**doubling for doubling in range((longest // SHORTEST).bit_length())]
    bundles, operators = converted(lengths, directory)
    times_ms, peak_bytes, bench = measured(bundles, rounds)
    work = {layer: [multiplications(layer, length) for length in lengths] for layer in LAYERS}
    recipes = {}
    for recipe in RECIPES:
        times = {name: np.stack([times_ms[name, recipe, length] for length in lengths], axis=1) for name in LAYERS}
        peaks = {layer: [peak_bytes[layer, recipe, length] for length in lengths] for layer in LAYERS}
        recipes[recipe] = {
            "time_ms": {layer: np.percentile(times[layer], (25, 50, 75), axis=0).tolist() for layer in LAYERS},
            "peak_bytes": peaks,
            "file_bytes": {name: [bundles[name, recipe, length].model_bytes for length in lengths] for name in LAYERS},
            "operators": {layer: [operators[layer, recipe, length] for length in lengths] for layer in LAYERS},
            **summary(lengths, times, peaks),
        }
    return {
        "lengths": lengths,
        "rounds": rounds,
        "machine": f"LiteRT {bench.runtime_version}, {bench.kernels} kernels, {bench.machine}",
        "params": {layer: network(layer, SHORTEST).count_params() for layer in LAYERS},
        "hidden_width": equal_hidden_width(count_lstm_params(WIDTH, WIDTH)),
        "multiplications": work,
        "multiplications_growth": {layer: growth(lengths, work[layer]) for layer in LAYERS},
        "score_bytes": [score_bytes(length) for length in lengths],
        "recipes": recipes,
    }


def main():
    """Measures, prints the tables, and writes the page."""
    counts = (
        ("longest", 1024, 2 * SHORTEST, f"lengths double from {SHORTEST} as far as this"),
        ("rounds", 15, 1, "how often every file takes its turn"),
    )
    options = start(__doc__, "lstm_or_transformer", counts=counts)
    began = time.monotonic()
    formula, params = count_lstm_params(WIDTH, WIDTH), network("LSTM", SHORTEST).count_params()
    if params != formula:
        raise RuntimeError(f"The LSTM must have {formula} parameters by its formula. Received: {params}.")
    others = network("Transformer", SHORTEST).count_params()
    print(f"\nParameters: LSTM {params:,}, Transformer {others:,} ({others / params - 1:+.2%})\n", flush=True)
    report = measure(options.longest, options.rounds, options.output / "bundles")
    sections = (length_section(report), crossover_section(report), work_section(report))
    for section in sections:
        print(f"\n{section.title}\n\n{section.table}", flush=True)
    write_page(options.output, "LSTM or Transformer: which one for which length", __doc__, sections, report)
    print(
        f"\n{report['machine']}; rounds: {options.rounds}. report.html, its figures, report.json and the bundles are "
        f"in {options.output}/ ({time.monotonic() - began:.0f} s)."
    )


if __name__ == "__main__":
    main()
