"""Data sets that a cache is built from, cut into shards: by index where they have one, else in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import keras
import numpy as np

from keras_notes._shared.checks import received
from keras_notes._shared.types import Tree
from keras_notes.distillation._fingerprints import as_arrays
from keras_notes.distillation._seeded_batches import SeededBatches

__all__ = ["Source", "check_batches", "inputs_of", "is_arrays"]


def inputs_of(batch: Tree) -> Tree:
    """Returns the inputs of a batch `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
    return as_arrays(batch[0] if isinstance(batch, (tuple, list)) else batch)


def is_arrays(dataset: Tree) -> bool:
    """Whether a data set consists of arrays: one, a dictionary of inputs, or `(x, y)` and the like."""
    return hasattr(dataset, "shape") or isinstance(dataset, (tuple, dict))


def check_batches(dataset: Tree) -> None:
    """Checks that a data set can be iterated over more than once, and comes to an end.

    Raises:
        TypeError: If it is an iterator, or cannot be iterated over.
        ValueError: If it is infinite.
    """
    if not isinstance(dataset, (keras.utils.PyDataset, Iterable)) or isinstance(dataset, (Iterator, str)):
        raise TypeError(
            f"`dataset` must be arrays, SeededBatches, a PyDataset, or batches that can be iterated over again. "
            f"{received(dataset=type(dataset).__name__)}"
        )
    # The cardinality of an infinite tf.data.Dataset.
    if hasattr(dataset, "cardinality") and int(dataset.cardinality()) == -1:
        raise ValueError("`dataset` must come to an end. Received: an infinite tf.data.Dataset. Leave `repeat()` out.")


class Source:
    """Batches of inputs, in shards.

    Args:
        dataset: `SeededBatches`, a `keras.utils.PyDataset`, or batches that can be iterated over more than once, such
            as a `tf.data.Dataset` or a PyTorch `DataLoader`.
        views: Number of passes over the data set (each may show another view).
        batch_size: Size of the batches of `SeededBatches`; other data sets have a size of their own.
    """

    def __init__(self, dataset: Tree, views: int, batch_size: int) -> None:
        if is_arrays(dataset):
            dataset = SeededBatches(dataset[0] if isinstance(dataset, tuple) else dataset, batch_size=batch_size)
        check_batches(dataset)
        self.dataset, self.views, self.batch_size = dataset, views, batch_size

    @property
    def samples(self) -> int | None:
        """Samples of all views; None if the data set does not know its length."""
        return self.dataset.samples * self.views if isinstance(self.dataset, SeededBatches) else None

    def first(self) -> Tree:
        """Returns the inputs of one batch, whose shapes are those of all.

        Raises:
            ValueError: If the data set is empty.
        """
        if isinstance(self.dataset, SeededBatches):
            return self.dataset.inputs(np.arange(min(self.batch_size, self.dataset.samples)), view=0)
        if isinstance(self.dataset, keras.utils.PyDataset):
            return inputs_of(self.dataset[0])
        for batch in self.dataset:
            return inputs_of(batch)
        raise ValueError("`dataset` must hold at least one batch. Received: none.")

    def shards(self, shard_size: int) -> Iterator[tuple[int, Iterator[Tree]]]:
        """Yields pairs (number of the shard, its batches of inputs). A shard may be left unread."""
        if isinstance(self.dataset, SeededBatches):
            samples = self.dataset.samples * self.views
            for number, start in enumerate(range(0, samples, shard_size)):
                yield number, self._rows(start, min(start + shard_size, samples))
        elif isinstance(self.dataset, keras.utils.PyDataset):
            yield from self._read_by_index(shard_size)
        else:
            yield from self._read_stream(shard_size)

    def _rows(self, start: int, stop: int) -> Iterator[Tree]:
        samples = self.dataset.samples
        while start < stop:
            view, row = divmod(start, samples)
            count = min(self.batch_size, stop - start, samples - row)
            yield self.dataset.inputs(np.arange(row, row + count), view)
            start += count

    def _read_by_index(self, shard_size: int) -> Iterator[tuple[int, Iterator[Tree]]]:
        if self.dataset.num_batches is None:
            raise ValueError("`dataset` must have a length. Received: a PyDataset whose num_batches is None.")
        size = len(keras.tree.flatten(inputs_of(self.dataset[0]))[0])
        batches, step = self.dataset.num_batches * self.views, max(1, shard_size // size)
        for number, start in enumerate(range(0, batches, step)):
            places = range(start, min(start + step, batches))
            yield number, (inputs_of(self.dataset[place % self.dataset.num_batches]) for place in places)

    def _read_stream(self, shard_size: int) -> Iterator[tuple[int, Iterator[Tree]]]:
        stream = (inputs_of(batch) for _ in range(self.views) for batch in self.dataset)
        ahead = next(stream, None)

        def shard() -> Iterator[Tree]:
            nonlocal ahead
            count = 0
            while ahead is not None and count < shard_size:
                count += len(keras.tree.flatten(ahead)[0])
                yield ahead
                ahead = next(stream, None)

        number = 0
        while ahead is not None:
            batches = shard()
            yield number, batches
            for _ in batches:  # batches that were left unread
                pass
            number += 1
