"""Data sets joined with a cache: each batch carries the teacher's record of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import keras

from keras_notes._shared.checks import received
from keras_notes._shared.types import Tree
from keras_notes.distillation._fingerprints import as_arrays
from keras_notes.distillation._teacher_record import TeacherRecord, with_record

__all__ = ["JoinedBatches", "JoinedStream"]


class RecordLookup(Protocol):
    """A cache, as far as its batches need it."""

    def lookup(self, inputs: Tree) -> TeacherRecord: ...


class _Joined(keras.utils.PyDataset):
    def __init__(self, dataset: Tree, cache: RecordLookup, **kwargs: bool | int) -> None:
        super().__init__(**kwargs)
        self.dataset, self.cache = dataset, cache

    def _join(self, batch: Tree) -> tuple[Tree, ...]:
        inputs, *rest = batch if isinstance(batch, (tuple, list)) else (batch,)
        inputs = as_arrays(inputs)
        return with_record(inputs, self.cache.lookup(inputs)), *rest


class JoinedBatches(_Joined):
    """Batches by index: those of a `PyDataset`, each with the cache's record."""

    def __init__(self, dataset: keras.utils.PyDataset, cache: RecordLookup) -> None:
        super().__init__(
            dataset,
            cache,
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )

    @property
    def num_batches(self) -> int | None:
        return self.dataset.num_batches

    def __getitem__(self, index: int) -> tuple:
        return self._join(self.dataset[index])

    @property
    def keeps_order(self) -> bool:
        """Whether the batches have an order of their own (`SeededBatches`), which Keras must not shuffle."""
        return getattr(self.dataset, "keeps_order", False)

    @property
    def epoch(self) -> int:
        """The epoch of the data set, where it has one (`SeededBatches`)."""
        return getattr(self.dataset, "epoch", 0)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if self.keeps_order:
            self.dataset.epoch = epoch

    def on_epoch_begin(self) -> None:
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.dataset.on_epoch_end()


class JoinedStream(_Joined):
    """Batches in the order of an iterable, each with the cache's record."""

    def __init__(self, dataset: Tree, cache: RecordLookup) -> None:
        super().__init__(dataset, cache)
        self._count: int | None = None
        self._iterator: Iterator | None = None
        self._next = 0

    keeps_order = True

    @property
    def num_batches(self) -> int:
        if self._count is None:
            try:
                self._count = len(self.dataset)
            except TypeError:
                self._count = sum(1 for _ in self.dataset)
        return self._count

    def __getitem__(self, index: int) -> tuple:
        if index == 0 or self._iterator is None:
            self._iterator, self._next = iter(self.dataset), 0
        if index != self._next:
            raise IndexError(f"`index` must go up by one: the batches come as a stream. {received(index=index)}")
        self._next += 1
        return self._join(next(self._iterator))
