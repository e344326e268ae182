"""Translation by a small student, with distillation and without.

    python -m benchmarks translation teacher [--seed 0] [--directory build/translation]
    python -m benchmarks translation labels | word | sequence | both [--seed 0 1 2]
    python -m benchmarks translation all      # all of these, seed by seed
    python -m benchmarks translation device   # the `sequence` students on LiteRT: device.py
    python -m benchmarks translation table    # of what is there

The protocol, set down before the first run. Results in the directory are not computed again; a killed training goes on
from its last epoch. A student asks for its seed's teacher. `--budget tiny` is for tests. `KERAS_NOTES_DATA` names the
folder of the data sets.

Data: Multi30k, English to German, raw text: 29,000 pairs to train on, 1,014 to validate, the 1,000 of test_2016_flickr
to test. 4,000 pieces of words (byte-pair encoding by sentencepiece) for both languages together, merged by their
frequency in the training sentences; text is neither tokenized nor normalized nor lowercased. Pairs of more than 47
pieces on a side are left out of training (36 of 29,000).

Models: `keras_notes.layers.Transformer`, normalization first, one embedding for source, target and output. Teacher: 4
blocks of encoder and 2 of decoder, width 160, 4 heads, feed-forward 640, dropout 0.1. Student: 2 and 1 blocks, width
64, 4 heads, feed-forward 128, no dropout.

Training: batches of 64 pairs of like length, 15 epochs (students 12); Adam (0.9, 0.98), the rate up to 2e-3 (students
5e-3) in 500 steps and down to 0 by a cosine; cross-entropy with labels smoothed by 0.1, the mean over pieces, padding
left out. The last step counts. Seeds 0, 1, 2: first weights, dropout and the order of pairs, of the teacher and its
students. Nothing is chosen on test data; what was tried in advance, two rates for one epoch each, was looked at on
validation data only.

Students, alike but for what they learn from:
    labels    the German of the data.
    word      the same, and half of the loss is KL(teacher || student) at every piece (Kim and Rush 2016, section 3.1;
              temperature 1), over the teacher's 8 most likely pieces and all others as one, from a `TeacherCache`.
    sequence  what the teacher's beam search gives for the training sentences, in place of the German of the data
              (Kim and Rush 2016, section 3.2, https://arxiv.org/abs/1606.07947).
    both      sequence, and half of the loss is the teacher's as in word.

Translations by `keras_notes.layers.generate`, greedy, and by beam search of width 4 with length penalty 0.6 (that of
the sequences to learn from, too); at most 8 pieces more than a source of up to 16, 24 or 48 pieces. BLEU of detokenized
text by sacrebleu, whose signature is printed. The table has mean, standard deviation, least and largest over the seeds,
and the differences to `labels` seed by seed. Minutes are those of the student's own epochs: the teacher's are in its
row, its translations and cache are printed when they are made.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from benchmarks import command_line
from benchmarks.translation import device
from benchmarks.translation.students import (
    LABELS,
    MODELS,
    TEACHER,
    Place,
    count_parameters,
    minutes,
    train,
    write_atomically,
)
from benchmarks.translation.task import BUDGETS, SEARCHES, bleu, sentences, translations

RESULT = "result.json"
ON_DEVICE = "sequence"


def measure_model(place: Place, name: str) -> dict:
    """Trains a model unless its result is there, and translates: BLEU by split and search, parameters, minutes."""
    path = place.folder(name) / RESULT
    if path.is_file():
        return json.loads(path.read_text())
    model = train(place, name)
    result = {"parameters": count_parameters(model), "minutes": minutes(place, name), "bleu": {}, "seconds": {}}
    for search in SEARCHES:
        for split in ("val", "test"):
            english, german = sentences(place.budget_name)[split]
            start = time.perf_counter()
            german_by_model = translations(model, english, place.budget_name, search)
            result["seconds"][f"{split}, {search}"] = time.perf_counter() - start
            result["bleu"][f"{split}, {search}"], result["signature"] = bleu(german_by_model, german)
            write_atomically(
                path.with_name(f"{split}.{search}.json"), json.dumps(german_by_model, ensure_ascii=False, indent=0)
            )
    write_atomically(path, json.dumps(result, indent=2))
    print(f"{path.parent}: " + ", ".join(f"{key} {value:.2f}" for key, value in result["bleu"].items()), flush=True)
    return result


def table(directory: Path, budget_name: str, seeds: list[int]) -> str:
    """Returns the table of the results that are there."""
    results = {name: _results(directory, budget_name, seeds, name) for name in MODELS}
    results = {name: by_seed for name, by_seed in results.items() if by_seed}
    if not results:
        return f"No results in {directory / budget_name}."
    first = next(iter(next(iter(results.values())).values()))
    lines = [f"Keras {keras.__version__} on {keras.backend.backend()}, {os.cpu_count()} cores; {first['signature']}"]
    lines.append(f"{'':<10}{'seeds':>6}{'parameters':>12}{'minutes':>9}")
    for name, by_seed in results.items():
        mean_minutes = np.mean([result["minutes"] for result in by_seed.values()])
        parameters_ = next(iter(by_seed.values()))["parameters"]
        lines.append(f"{name:<10}{len(by_seed):>6}{parameters_:>12,}{mean_minutes:>9.1f}")
    for split in first["bleu"]:
        lines += ["", f"BLEU, {split:<18}{'mean':>8}{'std':>8}{'least':>8}{'most':>8}   less {LABELS}, by seed"]
        for name, by_seed in results.items():
            values = [result["bleu"][split] for result in by_seed.values()]
            both = [seed for seed in by_seed if seed in results.get(LABELS, {})]
            differences = [by_seed[seed]["bleu"][split] - results[LABELS][seed]["bleu"][split] for seed in both]
            pairs = "" if name == LABELS else "".join(f"{result:>+8.2f}" for result in differences)
            lines.append(f"  {name:<22}{_spread(values)}   {pairs}")
    return "\n".join(lines)


def _results(directory: Path, budget_name: str, seeds: list[int], name: str) -> dict[int, dict]:
    paths = {seed: Place(directory, budget_name, seed).folder(name) / RESULT for seed in seeds}
    return {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.is_file()}


def _spread(values: list[float]) -> str:
    std = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return "".join(f"{value:>8.2f}" for value in (np.mean(values), std, min(values), max(values)))


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("translation", __doc__)
    parser.add_argument("step", choices=(*MODELS, "all", "device", "table"))
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--directory", type=Path, default=Path("build/translation"))
    parser.add_argument("--budget", choices=tuple(BUDGETS), default="full")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing of a step, and prints its table."""
    options = build_parser().parse_args(arguments)
    steps = {"all": MODELS, "device": (ON_DEVICE,), "table": ()}.get(options.step, (options.step,))
    for seed in options.seed:
        for name in steps:
            place = Place(options.directory, options.budget, seed)
            if name != TEACHER:
                measure_model(place, TEACHER)
            measure_model(place, name)
            keras.backend.clear_session()
    if options.step == "device":
        places = [Place(options.directory, options.budget, seed) for seed in options.seed]
        print(device.table([device.measure_recipes(place, ON_DEVICE) for place in places]))
    else:
        print(table(options.directory, options.budget, options.seed))
