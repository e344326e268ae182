"""Sentences, networks and measures of translation: pieces of words, translations, BLEU."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, field

import keras
import numpy as np
import sacrebleu
import sentencepiece

from benchmarks.translation.batches import END, LENGTHS, PAD, START, UNKNOWN, padded
from examples.datasets.sequences import multi30k
from keras_notes.layers import Transformer, generate
from keras_notes.losses import FocalLoss

SPLITS = ("train", "val", "test")
SEARCHES = {"greedy": {}, "beam": {"beam_width": 4, "length_penalty": 0.6}}
# A translation may be so much longer than its source; searches are compiled for fewer lengths than batches have.
LONGER, SOURCE_LENGTHS = 8, (16, 24, 48)
MAX_LENGTH = LENGTHS[-1] + LONGER
SMOOTHING = 0.1


@dataclass(frozen=True)
class Budget:
    """Sizes and counts of a run; the protocol of program.py is that of `FULL`.

    Attributes:
        sentences: Number of training, validation and test sentences; None for all.
        vocabulary_size: Pieces of words, of both languages together.
        teacher: Arguments of the teacher's `Transformer`.
        student: Arguments of the students'.
        rates: Highest learning rates of teacher and students.
        epochs: Epochs of teacher and students.
        batch_size: Pairs in a step of training.
        warm_up: Steps in which the learning rate rises.
        sources_at_once: Sources in a step of a search.
    """

    sentences: tuple[int | None, int | None, int | None] = (None, None, None)
    vocabulary_size: int = 4000
    teacher: dict = field(default_factory=dict)
    student: dict = field(default_factory=dict)
    rates: tuple[float, float] = (2e-3, 5e-3)
    epochs: tuple[int, int] = (15, 12)
    batch_size: int = 64
    warm_up: int = 500
    sources_at_once: int = 64


FULL = Budget(
    teacher={"num_layers": (4, 2), "width": 160, "num_heads": 4, "hidden_width": 640, "dropout": 0.1},
    student={"num_layers": (2, 1), "width": 64, "num_heads": 4, "hidden_width": 128},
)
TINY = Budget(
    sentences=(200, 24, 24),
    vocabulary_size=100,
    teacher={"num_layers": 1, "width": 16, "num_heads": 2, "hidden_width": 32},
    student={"num_layers": 1, "width": 8, "num_heads": 2, "hidden_width": 16},
    epochs=(2, 2),
    batch_size=32,
    warm_up=2,
    sources_at_once=8,
)
BUDGETS = {"full": FULL, "tiny": TINY}


@functools.cache
def sentences(budget_name: str) -> dict[str, tuple[list[str], list[str]]]:
    """English and German by split."""
    counts = BUDGETS[budget_name].sentences
    return {
        split: (english[:count], german[:count])
        for split, count, (english, german) in zip(SPLITS, counts, multi30k(), strict=True)
    }


@functools.cache
def vocabulary(budget_name: str) -> sentencepiece.SentencePieceProcessor:
    """The pieces of both languages, merged by frequency in the training sentences; nothing in it is random."""
    english, german = sentences(budget_name)["train"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*english, *german]),
        model_writer=model,
        model_type="bpe",
        vocab_size=BUDGETS[budget_name].vocabulary_size,
        character_coverage=1.0,
        normalization_rule_name="identity",
        pad_id=PAD,
        bos_id=START,
        eos_id=END,
        unk_id=UNKNOWN,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def network(role: str, budget: Budget, seed: int) -> Transformer:
    """A teacher or a student with the weights that a seed gives."""
    keras.utils.set_random_seed(seed)
    size = budget.vocabulary_size
    arguments = {"norm_first": True, "share_embeddings": True, "max_length": MAX_LENGTH, "pad_id": PAD, "seed": seed}
    return Transformer(size, size, **arguments, **(budget.teacher if role == "teacher" else budget.student))


def loss_on_labels() -> FocalLoss:
    """Returns the cross-entropy of smoothed labels, the mean over all pieces but padding."""
    return FocalLoss(0.0, from_logits=True, label_smoothing=SMOOTHING, reduction="mean_with_sample_weight")


def optimizer(rate: float, steps: int, warm_up: int) -> keras.optimizers.Optimizer:
    """Returns Adam with the betas of Vaswani et al., the rate up in a line and down to 0 by a cosine."""
    warm_up = min(warm_up, steps // 2)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm_up, warmup_target=rate, warmup_steps=warm_up)
    return keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9)


def translations(model: Transformer, english: list[str], budget_name: str, search: str) -> list[str]:
    """Translates English sentences by `generate`."""
    rows = ids_of(budget_name, english)
    bounds = np.searchsorted(SOURCE_LENGTHS, [min(len(row), SOURCE_LENGTHS[-1]) for row in rows])
    texts = [""] * len(rows)
    for bound, length in enumerate(SOURCE_LENGTHS):
        chosen = np.flatnonzero(bounds == bound)
        if len(chosen) == 0:
            continue
        ids = generate(
            model,
            padded([rows[i] for i in chosen], length),
            start_id=START,
            end_id=END,
            max_length=maximum_pieces(length),
            batch_size=BUDGETS[budget_name].sources_at_once,
            **SEARCHES[search],
        )
        for i, row in zip(chosen, ids, strict=True):
            texts[i] = text_of(budget_name, row.tolist())
    return texts


def maximum_pieces(source_length: int) -> int:
    """Returns the maximum length of the translation of a source."""
    return next((bound for bound in SOURCE_LENGTHS if source_length <= bound), SOURCE_LENGTHS[-1]) + LONGER


def ids_of(budget_name: str, texts: list[str]) -> list[list[int]]:
    """Returns each text as a source that ends with `END`."""
    return [[*ids, END] for ids in vocabulary(budget_name).encode(texts)]


def text_of(budget_name: str, ids: list[int]) -> str:
    """Returns the text of the ids of a search."""
    return vocabulary(budget_name).decode([piece for piece in ids if piece not in (PAD, END)])


def bleu(german: list[str], references: list[str]) -> tuple[float, str]:
    """Returns the BLEU of whole texts as they are written, and sacrebleu's signature of it."""
    metric = sacrebleu.BLEU()
    return metric.corpus_score(german, [references]).score, str(metric.get_signature())
