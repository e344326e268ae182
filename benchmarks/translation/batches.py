"""Training pairs of translation as ids, and batches of like length."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import sentencepiece

PAD, START, END, UNKNOWN = range(4)
# Both sides of a pair have one of these lengths, whichever holds them; 36 of 29,000 pairs are longer and left out.
LENGTHS = (12, 16, 20, 24, 28, 32, 40, 48)


@dataclass(frozen=True)
class Pairs:
    """Training pairs, padded to the longest of `LENGTHS`: ids (pairs, length), and what each counts in the loss.

    Attributes:
        source: Ends with `END`.
        target_in: Begins with `START`.
        target_out: The same, one place on; ends with `END`.
        weight: float32, 1 where `target_out` is no padding.
        length: The longer of both sides, shape (pairs,).
    """

    source: np.ndarray
    target_in: np.ndarray
    target_out: np.ndarray
    weight: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.length)


def pairs_of(pieces: sentencepiece.SentencePieceProcessor, english: list[str], german: list[str]) -> Pairs:
    """Sentences as ids; pairs that are too long, or have an empty side, are left out."""
    both = zip(pieces.encode(english), pieces.encode(german), strict=True)
    kept = [(x, y) for x, y in both if x and y and max(len(x), len(y)) < LENGTHS[-1]]
    source = padded([[*x, END] for x, _ in kept], LENGTHS[-1])
    target_in = padded([[START, *y] for _, y in kept], LENGTHS[-1])
    target_out = padded([[*y, END] for _, y in kept], LENGTHS[-1])
    length = np.array([max(len(x), len(y)) + 1 for x, y in kept])
    return Pairs(source, target_in, target_out, (target_out != PAD).astype("float32"), length)


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    """Ids of shape (rows, length); what is longer is cut, and ends with its own last id."""
    ids = np.full((len(rows), length), PAD, "int32")
    for place, row in zip(ids, rows, strict=True):
        row = row if len(row) <= length else [*row[: length - 1], row[-1]]
        place[: len(row)] = row
    return ids


class LengthBatches(keras.utils.PyDataset):
    """Batches ((source, target_in), target_out, weight) of pairs of like length, in an order of seed and epoch."""

    keeps_order = True

    def __init__(self, pairs: Pairs, batch_size: int, seed: int) -> None:
        super().__init__()
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed
        self.epoch = 0
        self._order: tuple[int, list[np.ndarray]] | None = None
        bounds = np.searchsorted(LENGTHS, pairs.length)
        self.groups = [np.flatnonzero(bounds == i) for i in range(len(LENGTHS)) if (bounds == i).any()]

    @property
    def num_batches(self) -> int:
        """Batches an epoch."""
        return sum(-(-len(group) // self.batch_size) for group in self.groups)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> tuple:
        rows, pairs = self.rows(index), self.pairs
        return (pairs.source[rows], pairs.target_in[rows]), pairs.target_out[rows], pairs.weight[rows]

    def rows(self, index: int) -> np.ndarray:
        """The pairs of a batch."""
        return self._order_now()[index]

    def length(self, index: int) -> int:
        """The least of `LENGTHS` that holds a batch."""
        return LENGTHS[np.searchsorted(LENGTHS, self.pairs.length[self.rows(index)].max())]

    def _order_now(self) -> list[np.ndarray]:
        if self._order is None or self._order[0] != self.epoch:
            self._order = self.epoch, self._order_of(self.epoch)
        return self._order[1]

    def _order_of(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        batches = []
        for group in self.groups:
            group = rng.permutation(group)
            batches += [group[i : i + self.batch_size] for i in range(0, len(group), self.batch_size)]
        # On TensorFlow, Keras tells from the first two batches which axes vary: the shortest, and the longest.
        middle = rng.permutation(np.arange(1, len(batches) - 1))
        return [batches[i] for i in dict.fromkeys((0, len(batches) - 1, *middle))]


class Cut(keras.utils.PyDataset):
    """The batches of `whole`, each as long as that of `order` says; all their arrays are (pairs, length, ...)."""

    keeps_order = True

    def __init__(self, order: LengthBatches, whole: keras.utils.PyDataset) -> None:
        super().__init__()
        self.order, self.whole = order, whole
        # Of a teacher, for `Distiller` to look at.
        self.cache = getattr(whole, "cache", None)

    @property
    def num_batches(self) -> int:
        """Batches an epoch."""
        return self.order.num_batches

    @property
    def epoch(self) -> int:
        """That of the order."""
        return self.order.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.order.epoch = epoch

    def __getitem__(self, index: int) -> tuple:
        length = self.order.length(index)
        return keras.tree.map_structure(lambda array: array[:, :length], self.whole[index])
