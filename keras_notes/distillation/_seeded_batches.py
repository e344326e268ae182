"""Batches whose order and augmentation depend only on a seed."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from keras_notes._shared.checks import check_at_least, check_integer, received
from keras_notes._shared.types import Tree

__all__ = ["SeededBatches", "check_process"]


class SeededBatches(keras.utils.PyDataset):
    """Batches of arrays, shuffled and augmented by seed, epoch and sample alone.

    The content of batch i of epoch e depends on `seed`, e and i alone. So a run that was interrupted continues with the
    same batches, a cached teacher sees the views that the student sees, and several processes agree on the order
    without communicating. `Distiller.fit` keeps `epoch` right, `initial_epoch`
    included. `keras.Model.fit` needs `shuffle=False`, or it draws an order of the batches from the global random
    state, and `callbacks=[batches.epoch_callback()]`: without it `epoch` counts the epochs that
    Keras begins, which may be one more, to read the shapes of the data.

    It needs memory for the order of one epoch (8 bytes a sample); the arrays may be memory-mapped.

    Args:
        x: An array of shape (samples, ...), or any structure of such arrays.
        y: Labels with the same first axis, or None.
        sample_weight: Weights with the same first axis, or None.
        batch_size: Samples in a batch, of all processes together.
        shuffle: Whether each epoch has an order of its own.
        seed: Seed of order and augmentation, an integer >= 0.
        augment: A function `augment(sample, rng) -> sample` of one sample of x (without the batch axis) and a
            `numpy.random.Generator`, its only source of randomness.
        views: Number of augmented views of each sample: epoch e shows view `e % views`. None makes every epoch a view
            of its own; a cached teacher needs a number.
        drop_remainder: Whether the last, smaller batch of a pass over the samples is left out.
        batches_per_epoch: Batches in an epoch of Keras, where passes over the samples are long: checkpoints and
            logs then come as often. Order and view still depend on the pass. None makes each pass an epoch.
        process: (index, count): this process's equal share of each batch, for training on several processes.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of `keras.utils.PyDataset`. Several workers need
            `Distiller.fit`: with `keras.Model.fit` on JAX and PyTorch Keras begins with the batches that they
            prepared when it read the shapes of the data.

    Raises:
        TypeError: If `x`, `y` or `sample_weight` hold something other than arrays.
        ValueError: If arrays differ in length, or an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> batches = SeededBatches(np.arange(6), batch_size=4, seed=1)
        >>> [batch[0].tolist() for batch in (batches[0], batches[1])]
        [[4, 0, 2, 1], [5, 3]]
        >>> batches.epoch = 1
        >>> batches[0][0].tolist()
        [1, 4, 0, 3]
    """

    def __init__(
        self,
        x: Tree,
        y: Tree = None,
        sample_weight: Tree = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        augment: Callable | None = None,
        views: int | None = None,
        drop_remainder: bool = False,
        batches_per_epoch: int | None = None,
        process: tuple[int, int] = (0, 1),
        **kwargs: bool | int,
    ) -> None:
        super().__init__(**kwargs)
        self.x, self.y, self.sample_weight = (
            None if part is None else _as_arrays(part) for part in (x, y, sample_weight)
        )
        self.samples = _common_length(self.x, self.y, self.sample_weight)
        self.batch_size = check_at_least("batch_size", batch_size, 1)
        self.seed = check_at_least("seed", seed, 0)
        self.views = None if views is None else check_at_least("views", views, 1)
        if augment is None and views is not None and views > 1:
            raise ValueError(f"`augment` must be given where there is more than one view. {received(views=views)}")
        self.shuffle, self.augment, self.drop_remainder = bool(shuffle), augment, bool(drop_remainder)
        self.process = _check_shares(process, self.batch_size, self.samples, self.drop_remainder)
        self.batches_per_pass = samples_to_batches(self.samples, self.batch_size, self.drop_remainder)
        self.batches_per_epoch = self.batches_per_pass
        if batches_per_epoch is not None:
            self.batches_per_epoch = check_at_least("batches_per_epoch", batches_per_epoch, 1)
        self.epoch = 0
        self._is_inside_epoch = False
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def keeps_order(self) -> bool:
        """Whether the batches have an order of their own, which Keras must not shuffle."""
        return True

    @property
    def num_batches(self) -> int:
        """Batches an epoch."""
        return self.batches_per_epoch

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> tuple:
        if not 0 <= index < self.num_batches:
            raise IndexError(f"`index` must be in [0, {self.num_batches}). {received(index=index)}")
        number, place = divmod(self.epoch * self.num_batches + index, self.batches_per_pass)
        rows = self._order_of(number)[place * self.batch_size : (place + 1) * self.batch_size]
        part, parts = self.process
        rows = rows[part * len(rows) // parts : (part + 1) * len(rows) // parts]
        view = number if self.views is None else number % self.views
        batch = self.inputs(rows, view), _take(self.y, rows), _take(self.sample_weight, rows)
        return batch if batch[2] is not None else batch[:2] if batch[1] is not None else batch[:1]

    def inputs(self, rows: np.ndarray, view: int) -> Tree:
        """Returns samples of x as a view shows them.

        Args:
            rows: Indices of the samples in x.
            view: Index of the view, which is part of the seed of `augment`.

        Returns:
            The samples, of shape (rows, ...), in the structure of x.

        Example:
            >>> import numpy as np
            >>> def add_noise(sample, rng):
            ...     return sample + rng.normal(scale=0.1, size=sample.shape)
            >>> batches = SeededBatches(np.zeros((6, 2)), batch_size=3, augment=add_noise, views=2)
            >>> first, again, second = (batches.inputs(np.array([4, 1]), view) for view in (0, 0, 1))
            >>> first.shape, bool((first == again).all()), bool((first == second).any())
            ((2, 2), True, False)
        """
        samples = _take(self.x, rows)
        if self.augment is None:
            return samples
        views = [
            self.augment(
                keras.tree.map_structure(lambda leaf, i=i: leaf[i], samples),
                np.random.default_rng((self.seed, view, int(row))),
            )
            for i, row in enumerate(rows)
        ]
        return keras.tree.map_structure(lambda *leaves: np.stack(leaves), *views)

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Returns a callback for `keras.Model.fit` that sets the epoch of the batches.

        Example:
            >>> import keras, numpy as np
            >>> batches = SeededBatches(np.random.rand(16, 4), np.zeros((16, 2)), batch_size=8)
            >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            >>> model.compile("sgd", "mse")
            >>> callbacks = [batches.epoch_callback()]
            >>> _ = model.fit(batches, initial_epoch=6, epochs=7, callbacks=callbacks, shuffle=False, verbose=0)
            >>> batches.epoch  # the next one
            7
        """
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(self, "epoch", epoch))

    def on_epoch_begin(self) -> None:
        self._is_inside_epoch = True

    def on_epoch_end(self) -> None:
        # Keras calls this once before the first epoch, too.
        if self._is_inside_epoch:
            self.epoch += 1
        self._is_inside_epoch = False

    def _order_of(self, number: int) -> np.ndarray:
        """The order of the samples in one pass over them."""
        if not self.shuffle:
            return np.arange(self.samples)
        order = self._order
        if order is None or order[0] != number:
            order = number, np.random.default_rng((self.seed, number)).permutation(self.samples)
            # Replaced as one object: workers read it side by side.
            self._order = order
        return order[1]


def samples_to_batches(samples: int, batch_size: int, drop_remainder: bool) -> int:
    """Returns the number of batches of so many samples. Raises ValueError if it is 0."""
    batches = samples // batch_size if drop_remainder else -(-samples // batch_size)
    if batches == 0:
        raise ValueError(
            f"`drop_remainder=True` must leave a batch. {received(samples=samples, batch_size=batch_size)}"
        )
    return batches


def _as_arrays(structure: Tree) -> Tree:
    """Returns a structure of arrays: memory maps as they are, tensors and lists of numbers as arrays."""
    leaves = keras.tree.flatten(structure)
    if isinstance(structure, (list, tuple)) and not any(hasattr(leaf, "shape") for leaf in leaves):
        return np.asarray(structure)
    return keras.tree.map_structure(
        lambda leaf: keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else leaf, structure
    )


def _take(structure: Tree, rows: np.ndarray) -> Tree:
    return None if structure is None else keras.tree.map_structure(lambda leaf: np.asarray(leaf[rows]), structure)


def _common_length(*structures: Tree) -> int:
    leaves = [leaf for part in structures if part is not None for leaf in keras.tree.flatten(part)]
    for leaf in leaves:
        if not getattr(leaf, "shape", ()):
            raise TypeError(f"`x`, `y` and `sample_weight` must be arrays with a first axis. {received(leaf=leaf)}")
    lengths = [leaf.shape[0] for leaf in leaves]
    if not lengths or len(set(lengths)) > 1 or lengths[0] == 0:
        raise ValueError(
            f"`x`, `y` and `sample_weight` must hold the same number of samples, at least one. "
            f"{received(samples=lengths)}"
        )
    return lengths[0]


def check_process(process: tuple[int, int]) -> tuple[int, int]:
    """Returns (index, count), two integers with 0 <= index < count."""
    if not isinstance(process, (list, tuple)) or len(process) != 2:
        raise TypeError(f"`process` must be a pair (index, count). {received(process=process)}")
    index, count = (check_integer("process", value) for value in process)
    if not 0 <= index < count:
        raise ValueError(f"`process` must be (index, count) with 0 <= index < count. {received(process=process)}")
    return index, count


def _check_shares(process: tuple[int, int], batch_size: int, samples: int, drop_remainder: bool) -> tuple[int, int]:
    index, count = check_process(process)
    if batch_size % count or (not drop_remainder and samples % batch_size % count):
        raise ValueError(
            f"Each batch must divide into equal shares. {received(batch_size=batch_size, process=process)} The last "
            f"batch has {samples % batch_size or batch_size}: set `drop_remainder=True`, or change `batch_size`."
        )
    return index, count
