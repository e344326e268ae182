"""BLEU and speed of a student of translation on LiteRT, by recipe.

The student is converted with the signatures of `keras_notes.layers.decoding_models` (sources of 48 pieces, caches of
56), verified, and decodes the test sentences greedily with the program for devices, tflite/python/models.py, on one
thread. "as Keras" is the share of translations that are those of `generate`, to the letter. Ranges of "static_int8" and
"int16x8" come from 256 training pairs, at 4 positions of each. Tokens a second are all pieces, the end among them, by
the time from ids to ids: encoding, prefilling and every step.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

import keras_notes as kn
from benchmarks.command_line import ROOT
from benchmarks.translation.batches import END, LENGTHS, PAD, START, pairs_of
from benchmarks.translation.students import Place, train, write_atomically
from benchmarks.translation.task import MAX_LENGTH, bleu, ids_of, maximum_pieces, sentences, text_of, vocabulary
from keras_notes.layers import Transformer, decoding_models, decoding_samples

RECIPES = ("float32", "float16", "dynamic_int8", "static_int8", "int16x8")
CALIBRATION, GOLDEN, STEPS = 256, 4, 4
RUNNER = ROOT / "tflite" / "python"


def measure_recipes(place: Place, name: str) -> dict[str, dict]:
    """Measures bytes, BLEU and speed by recipe; results that are there are read."""
    path = place.folder(name) / "device.json"
    if not path.is_file():
        model = train(place, name)
        samples = _samples(place, model)
        rows = {recipe: _row(place, model, samples, recipe, path.parent / "bundles" / recipe) for recipe in RECIPES}
        write_atomically(path, json.dumps(rows, indent=2))
    return json.loads(path.read_text())


def table(rows_by_seed: list[dict[str, dict]]) -> str:
    """Returns a table with a row a recipe: mean over the seeds, least and largest BLEU."""
    titles = "".join(
        f"{title:>10}" for title in ("bytes", "verified", "BLEU", "least", "most", "as Keras", "tokens/s", "ms")
    )
    lines = [f"{'LiteRT, greedy':<16}{titles}"]
    for recipe in RECIPES:
        rows = [by_recipe[recipe] for by_recipe in rows_by_seed]
        mean = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        scores = [row["bleu"] for row in rows]
        lines.append(
            f"  {recipe:<14}{mean['bytes']:>10,.0f}{mean['verified']:>10.2f}{mean['bleu']:>10.2f}{min(scores):>10.2f}"
            f"{max(scores):>10.2f}{mean['as_keras']:>10.3f}{mean['tokens_per_second']:>10,.0f}"
            f"{mean['ms_per_sentence']:>10.1f}"
        )
    return "\n".join(lines)


def _samples(place: Place, model: Transformer) -> dict[str, dict]:
    """Returns samples of every signature, to calibrate and to verify by."""
    models = decoding_models(model, LENGTHS[-1], target_length=MAX_LENGTH)
    english, german = sentences(place.budget_name)["train"]
    pairs = pairs_of(vocabulary(place.budget_name), english[:CALIBRATION], german[:CALIBRATION])
    calibration, golden = (
        decoding_samples(models, pairs.source[:count], pairs.target_in[:count], steps=STEPS)
        for count in (CALIBRATION, GOLDEN)
    )
    return {"signatures": models, "calibration": calibration, "golden": golden}


def _row(place: Place, model: Transformer, samples: dict, recipe: str, directory: Path) -> dict:
    arguments = {**samples}
    if recipe not in ("static_int8", "int16x8"):
        del arguments["calibration"]
    bundle = kn.convert(model, directory, recipe, overwrite=True, **arguments)
    is_verified = _is_verified(bundle)
    english, german = sentences(place.budget_name)["test"]
    decoder = _device_models().Decoder(bundle.directory)
    translations, seconds = [], 0.0
    for source in ids_of(place.budget_name, english):
        source = source if len(source) <= LENGTHS[-1] else [*source[: LENGTHS[-1] - 1], END]
        start = time.perf_counter()
        translations.append(decoder.decode(source, START, END, PAD, maximum_pieces(len(source))))
        seconds += time.perf_counter() - start
    texts = [text_of(place.budget_name, ids) for ids in translations]
    by_keras = json.loads((directory.parents[1] / "test.greedy.json").read_text(encoding="utf8"))
    row = {
        "bytes": bundle.model_bytes,
        "verified": float(is_verified),
        "bleu": bleu(texts, german)[0],
        "as_keras": float(np.mean([a == b for a, b in zip(texts, by_keras, strict=True)])),
        "tokens_per_second": sum(map(len, translations)) / seconds,
        "ms_per_sentence": 1e3 * seconds / len(translations),
    }
    print(f"{directory}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    return row


def _is_verified(bundle: kn.Bundle) -> bool:
    """Whether the file is within the tolerance of its recipe; its BLEU is of interest in either case."""
    try:
        return kn.verify(bundle).ok
    except kn.errors.VerificationError as error:
        print(f"{bundle.directory}: {error}", flush=True)
        return False


@functools.cache
def _device_models() -> ModuleType:
    """Loads tflite/python/models.py, which is in no package, and before it run.py beside it, which it imports."""
    for name in ("run", "models"):
        spec = importlib.util.spec_from_file_location(name, RUNNER / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules["models"]
