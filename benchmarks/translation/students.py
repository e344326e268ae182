"""Training of the models of translation: their German, their losses, and a killed run that goes on."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from benchmarks.translation.batches import Cut, LengthBatches, Pairs, pairs_of
from benchmarks.translation.task import (
    BUDGETS,
    Budget,
    loss_on_labels,
    network,
    optimizer,
    sentences,
    translations,
    vocabulary,
)
from keras_notes.distillation import Checkpoint, Distiller, SeededBatches, TeacherCache
from keras_notes.layers import Transformer
from keras_notes.losses import DistillationLoss

TEACHER, LABELS = "teacher", "labels"
TOP_K, TEMPERATURE, LABELS_WEIGHT, CACHED_AT_ONCE = 8, 1.0, 0.5, 64


@dataclass(frozen=True)
class Recipe:
    """German and losses that a student learns from.

    Attributes:
        translated: Whether its German is what the teacher's beam search gives for the training sentences.
        distilled: Whether it is also told, piece by piece, how likely the teacher finds others.
    """

    translated: bool
    distilled: bool


STUDENTS = {
    LABELS: Recipe(translated=False, distilled=False),
    "word": Recipe(translated=False, distilled=True),
    "sequence": Recipe(translated=True, distilled=False),
    "both": Recipe(translated=True, distilled=True),
}
MODELS = (TEACHER, *STUDENTS)


@dataclass(frozen=True)
class Place:
    """Directory, budget and seed of a model."""

    directory: Path
    budget_name: str
    seed: int

    @property
    def budget(self) -> Budget:
        """Sizes and counts of the budget of this name."""
        return BUDGETS[self.budget_name]

    def folder(self, name: str) -> Path:
        """Returns the folder of a model; created where it is missing."""
        folder = self.directory / self.budget_name / f"seed{self.seed}" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def train(place: Place, name: str) -> Transformer:
    """Trains a model of `MODELS`, or goes on with it; a trained one is read."""
    role = TEACHER if name == TEACHER else "student"
    model = network(role, place.budget, place.seed)
    path = place.folder(name) / "model.weights.h5"
    if not path.is_file():
        _train(place, name, model)
        part = path.with_name("part.weights.h5")
        model.save_weights(part)
        os.replace(part, path)
        shutil.rmtree(path.parent / "checkpoints")
    model.load_weights(path)
    return model


def minutes(place: Place, name: str) -> float:
    """Returns the minutes of the epochs of training, without those that were killed."""
    lines = (place.folder(name) / "epochs.jsonl").read_text().splitlines()
    seconds = {epoch["epoch"]: epoch["seconds"] for epoch in map(json.loads, lines)}
    return sum(seconds.values()) / 60


def teacher_translations(place: Place) -> list[str]:
    """Translates the training sentences by the teacher's beam search; translations that are there are read."""
    path = place.folder(TEACHER) / "train.beam.json"
    if not path.is_file():
        english, _ = sentences(place.budget_name)["train"]
        start = time.perf_counter()
        german = translations(train(place, TEACHER), english, place.budget_name, "beam")
        print(f"{path}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
        write_atomically(path, json.dumps(german, ensure_ascii=False, indent=0))
    return json.loads(path.read_text(encoding="utf8"))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is only there once it is complete."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf8")
    os.replace(part, path)


def _train(place: Place, name: str, model: Transformer) -> None:
    budget, recipe = place.budget, STUDENTS.get(name)
    rate, epochs = (pair[recipe is not None] for pair in (budget.rates, budget.epochs))
    pairs = _pairs(place, recipe is not None and recipe.translated)
    order = LengthBatches(pairs, budget.batch_size, place.seed)
    batches: keras.utils.PyDataset = order
    trainee: keras.Model = model
    if recipe is not None and recipe.distilled:
        cache = _teacher_cache(place, pairs, f"cache-{'translated' if recipe.translated else LABELS}")
        batches = cache.join(order)
        loss = DistillationLoss(TEMPERATURE, teacher="top_k", reduction="mean_with_sample_weight")
        trainee = Distiller(cache, model, loss, student_loss_weight=LABELS_WEIGHT)
    trainee.compile(optimizer(rate, epochs * len(order), budget.warm_up), loss_on_labels())
    _fit(trainee, Cut(order, batches), epochs, place.folder(name))


def _fit(model: keras.Model, batches: Cut, epochs: int, folder: Path) -> None:
    # So that a Distiller is built before its state comes back.
    model(batches[0][0])
    checkpoint = Checkpoint(folder / "checkpoints")
    begin = checkpoint.restore(model)
    epoch_of_batches = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(batches, "epoch", epoch)
    )
    callbacks = [epoch_of_batches, EpochLog(folder / "epochs.jsonl"), checkpoint]
    model.fit(batches, epochs=epochs, initial_epoch=begin, callbacks=callbacks, shuffle=False, verbose=0)


class EpochLog(keras.callbacks.Callback):
    """Writes and prints the losses and seconds of each epoch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.start = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        losses = {key: round(float(value), 4) for key, value in (logs or {}).items()}
        row = {"epoch": epoch + 1, "seconds": round(time.perf_counter() - self.start, 1), **losses}
        with self.path.open("a", encoding="utf8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{self.path.parent}: {row}", flush=True)


def _pairs(place: Place, is_translated: bool) -> Pairs:
    english, german = sentences(place.budget_name)["train"]
    return pairs_of(vocabulary(place.budget_name), english, teacher_translations(place) if is_translated else german)


def _teacher_cache(place: Place, pairs: Pairs, name: str) -> TeacherCache:
    """Caches the teacher's most likely pieces at each place: live, it would run again in every epoch."""
    samples = SeededBatches((pairs.source, pairs.target_in), batch_size=CACHED_AT_ONCE, shuffle=False)
    start = time.perf_counter()
    settings = {"top_k": TOP_K, "temperature": TEMPERATURE, "verbose": 0}
    cache = TeacherCache.build(train(place, TEACHER), samples, place.folder(TEACHER) / name, **settings)
    print(f"{cache.directory}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    return cache


def count_parameters(model: Transformer) -> int:
    """Returns the number of trainable parameters."""
    return int(sum(np.prod(variable.shape) for variable in model.trainable_variables))
