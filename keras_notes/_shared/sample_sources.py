"""Datasets, generators and loaders of batches, read into arrays. Needs NumPy alone.

A source is known by its methods: `tf.data.Dataset`, `keras.utils.PyDataset`, the datasets and `DataLoader` of PyTorch,
those of other libraries that can be iterated or indexed, generators, and functions that return one.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from keras_notes._shared.types import ArrayLike

__all__ = [
    "CALIBRATION_SAMPLES",
    "VERIFICATION_SAMPLES",
    "LabelledSamples",
    "is_pair",
    "is_source",
    "read_labelled",
    "read_samples",
]

# Ranges hardly move after a few hundred samples; more of them only take memory and time.
CALIBRATION_SAMPLES = 512
# Of a source without a length, which may have no end.
VERIFICATION_SAMPLES = 10_000
_log = logging.getLogger(__name__)

_Source: TypeAlias = Any
"""A dataset, generator or loader; its methods depend on its library."""

_Shapes: TypeAlias = Mapping[str, Sequence[int | None]]
_Arrays: TypeAlias = np.ndarray | dict[str, np.ndarray] | list[np.ndarray]


class LabelledSamples(NamedTuple):
    """Samples of a source.

    Attributes:
        x: Inputs of shape (samples, ...): an array, or arrays in a list, or by name, as the source has them.
        y: Labels in the same form; None if the source has none.
    """

    x: ArrayLike
    y: ArrayLike | None


def is_source(values: object, shapes: _Shapes | None) -> bool:
    """Returns whether values are read from an object element by element; arrays are not.

    Args:
        values: Argument of a user.
        shapes: Shape of each input by name, with the batch; None if it is not known.
    """
    if isinstance(values, (list, tuple)):
        return _is_list_of_elements(values, shapes)
    if values is None or isinstance(values, (str, bytes, Mapping)) or hasattr(values, "__array__"):
        return False
    is_indexed = hasattr(values, "__getitem__") and (hasattr(values, "__len__") or hasattr(values, "num_batches"))
    return hasattr(values, "__iter__") or is_indexed or _is_function(values)


def read_samples(
    argument: str, values: ArrayLike, shapes: _Shapes | None, maximum: int = CALIBRATION_SAMPLES
) -> ArrayLike:
    """Returns the inputs of a source as arrays; other values as they are.

    Args:
        argument: Name of the argument, for errors.
        values: Source, or arrays.
        shapes: Shape of each input by name, with the batch; None if it is not known, for elements that are batches.
        maximum: Number of samples after which the source is not read further.

    Raises:
        ValueError: If the source is empty, or an element does not fit the inputs; names the element.
        TypeError: If an element does not hold numbers.
    """
    return _read(argument, values, shapes, maximum).x if is_source(values, shapes) else values


def is_pair(values: object) -> TypeGuard[Sequence[ArrayLike]]:
    """Returns whether values are (inputs, labels), and not a list of such pairs."""
    return isinstance(values, (list, tuple)) and len(values) == 2 and not any(isinstance(v, tuple) for v in values)


def read_labelled(argument: str, values: ArrayLike, shapes: _Shapes, *, needs_labels: bool = True) -> LabelledSamples:
    """Returns the inputs and labels of a source: all of them, or `VERIFICATION_SAMPLES` if it has no known length.

    Args:
        argument: Name of the argument, for errors.
        values: Source, whose elements are (inputs, labels) or (inputs, labels, sample weights).
        shapes: Shape of each input by name, with the batch.
        needs_labels: Whether there must be labels.

    Raises:
        ValueError: If the source is empty or has no labels, or an element does not fit the inputs; names the element.
        TypeError: If an element does not hold numbers.
    """
    samples = _read(argument, values, shapes, None if _has_length(values) else VERIFICATION_SAMPLES)
    if samples.y is None and needs_labels:
        raise ValueError(
            f"`{argument}` must yield inputs and their class ids, (x, y). Received: {type(values).__name__}, which "
            f"yields inputs only."
        )
    return samples


def _is_function(values: object) -> bool:
    return inspect.isfunction(values) or inspect.ismethod(values)


def _is_list_of_elements(values: Sequence, shapes: _Shapes | None) -> bool:
    """Returns whether a list holds samples or batches, and not one array for each input."""
    if not values:
        return False
    if any(isinstance(value, (Mapping, tuple)) for value in values):
        return isinstance(values, list)
    if shapes is None:
        return False
    ranks = [len(shape) for shape in shapes.values()]
    is_array_per_input = len(values) == len(ranks) and all(
        np.ndim(value) == rank for value, rank in zip(values, ranks, strict=True)
    )
    return isinstance(values, list) and len(ranks) == 1 and not is_array_per_input


def _has_length(values: _Source) -> bool:
    """Returns whether a source says how many elements it has."""
    if callable(cardinality := getattr(values, "cardinality", None)):
        return int(cardinality()) >= 0
    if hasattr(values, "num_batches"):
        return values.num_batches is not None
    try:
        return len(values) >= 0
    except TypeError:  # a loader of a stream has the method, and raises
        return False


def _iterate(values: _Source) -> Iterator[ArrayLike]:
    """Yields the elements of a source."""
    if _is_function(values):
        values = values()
    if hasattr(values, "as_numpy_iterator"):
        return iter(values.as_numpy_iterator())
    if hasattr(values, "num_batches"):  # a `PyDataset`, whose `__getitem__` need not end
        count = values.num_batches
        return (values[index] for index in (itertools.count() if count is None else range(count)))
    if hasattr(values, "__iter__"):
        return iter(values)
    return (values[index] for index in range(len(values)))


def _read(argument: str, values: _Source, shapes: _Shapes | None, maximum: int | None) -> LabelledSamples:
    reader = _ElementReader(argument, shapes)
    elements = _iterate(values)
    for number, element in enumerate(elements):
        reader.add(number, element)
        if maximum is not None and reader.count >= maximum:
            _close(elements)
            _log.info("`%s`: the first %d samples of a %s are used", argument, maximum, type(values).__name__)
            break
    if not reader.count:
        raise ValueError(f"`{argument}` must hold at least 1 sample. Received: {type(values).__name__} without any.")
    return reader.samples(maximum)


def _close(elements: Iterator) -> None:
    """Ends a generator, so that what it holds open is closed now."""
    if isinstance(elements, Iterator) and hasattr(elements, "close"):
        elements.close()


class _ElementReader:
    """Collects the elements of a source.

    Args:
        argument: Name of the argument, for errors.
        shapes: Shape of each input by name, with the batch; None for elements that are batches of any shape.
    """

    def __init__(self, argument: str, shapes: _Shapes | None) -> None:
        self._argument = argument
        self._shapes = shapes
        self._inputs: list[dict[str, np.ndarray]] = []
        self._labels: list[dict[str, np.ndarray]] = []
        self._rebuild: Callable[[dict[str, np.ndarray]], _Arrays] = dict
        self._rebuild_labels: Callable[[dict[str, np.ndarray]], _Arrays] = dict
        self.count = 0

    def add(self, number: int, element: ArrayLike) -> None:
        """Adds an element: a sample or a batch, with or without labels."""
        x, y = self._split(element)
        inputs, self._rebuild = self._arrays(number, x)
        is_sample = self._is_sample(number, inputs)
        inputs = {key: array[None] if is_sample else array for key, array in inputs.items()}
        counts = {len(array) for array in inputs.values()}
        if y is not None:
            labels, self._rebuild_labels = self._arrays(number, y)
            labels = {key: array[None] if is_sample or not array.ndim else array for key, array in labels.items()}
            counts.update(len(array) for array in labels.values())
            self._labels.append(labels)
        if len(counts) != 1:
            raise ValueError(
                f"`{self._argument}` must yield the same number of samples for every input and for the labels. "
                f"Received: {sorted(counts)} in element {number}."
            )
        self._check_like_first(number, inputs)
        self._inputs.append(inputs)
        self.count += counts.pop()

    def samples(self, maximum: int | None) -> LabelledSamples:
        """Returns all elements, at most `maximum` samples."""
        if self._labels and len(self._labels) != len(self._inputs):
            raise ValueError(
                f"`{self._argument}` must yield labels with every element, or with none. Received: "
                f"{len(self._labels)} of {len(self._inputs)} with labels."
            )
        y = self._rebuild_labels(_concatenate(self._labels, maximum)) if self._labels else None
        return LabelledSamples(self._rebuild(_concatenate(self._inputs, maximum)), y)

    def _split(self, element: ArrayLike) -> tuple[ArrayLike, ArrayLike | None]:
        """Returns inputs and labels of an element, (x, y) or (x, y, weights) as in Keras's `fit`.

        An array for each of several inputs has no labels, nor has a list of plain numbers.
        """
        if not isinstance(element, (list, tuple)) or not element:
            return element, None
        parts = [isinstance(part, (Mapping, list, tuple)) for part in element]
        is_plain = isinstance(element, list) and not isinstance(element[0], Mapping) and not _is_array(element[0])
        is_array_per_input = self._shapes is not None and 1 < len(self._shapes) == len(element) and not any(parts)
        if is_plain or is_array_per_input or len(element) > 3:
            return element, None
        return element[0], element[1] if len(element) > 1 else None

    def _arrays(
        self, number: int, values: ArrayLike
    ) -> tuple[dict[str, np.ndarray], Callable[[dict[str, np.ndarray]], _Arrays]]:
        """Returns arrays by key, and a function that gives such a dict the form of the values again."""
        if isinstance(values, Mapping):
            return {str(key): self._array(number, values[key]) for key in sorted(values, key=str)}, dict
        if isinstance(values, (list, tuple)) and any(map(_is_array, values)):
            arrays = {str(position): self._array(number, value) for position, value in enumerate(values)}
            return arrays, _as_list if len(arrays) > 1 else _as_array
        return {"": self._array(number, values)}, _as_array

    def _array(self, number: int, values: ArrayLike) -> np.ndarray:
        if hasattr(values, "detach"):  # PyTorch, whose tensors may be elsewhere or have a gradient
            values = values.detach().cpu()
        try:
            array = np.asarray(values)
        except ValueError as error:  # sequences of unequal length
            raise ValueError(
                f"`{self._argument}` must yield arrays. Received: {error} in element {number}. Pad its sequences to "
                f"one length."
            ) from error
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"`{self._argument}` must hold numbers. Received: dtype {array.dtype} in element {number}, a "
                f"{type(values).__name__}."
            )
        return array

    def _is_sample(self, number: int, inputs: Mapping[str, np.ndarray]) -> bool:
        """Returns whether the arrays of an element are a single sample; otherwise they are a batch."""
        if self._shapes is None:
            if all(array.ndim for array in inputs.values()):
                return False
            raise ValueError(
                f"`{self._argument}` must yield batches, of shape (samples, ...). Received: a number in element "
                f"{number}."
            )
        shapes = [
            self._shapes.get(key, shape) for key, shape in zip(inputs, _repeat(self._shapes, len(inputs)), strict=True)
        ]
        differences = {len(shape) - array.ndim for shape, array in zip(shapes, inputs.values(), strict=True)}
        if differences == {0} or differences == {1}:
            return differences == {1}
        expected = ", ".join(str((None, *shape[1:])) for shape in self._shapes.values())
        actual = ", ".join(str(array.shape) for array in inputs.values())
        raise ValueError(
            f"`{self._argument}` must yield samples for inputs of the shapes {expected}, or batches of them. "
            f"Received: shapes {actual} in element {number}."
        )

    def _check_like_first(self, number: int, inputs: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError if an element has other inputs, or samples of another shape, than the first element."""
        if not self._inputs:
            return
        expected, actual = (
            {key: array.shape[1:] for key, array in arrays.items()} for arrays in (self._inputs[0], inputs)
        )
        if expected != actual:
            raise ValueError(
                f"`{self._argument}` must yield samples of one shape. Received: {list(actual.values())} in element "
                f"{number}, after {list(expected.values())}. Pad or resize the samples to the shape of the input."
            )


def _is_array(values: ArrayLike) -> bool:
    return hasattr(values, "__array__")


def _as_list(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(arrays.values())


def _as_array(arrays: dict[str, np.ndarray]) -> np.ndarray:
    (array,) = arrays.values()
    return array


def _repeat(shapes: _Shapes, count: int) -> Iterable[Sequence[int | None]]:
    """Returns the shapes in order, as often as there are arrays: their number is checked with their names."""
    return itertools.islice(itertools.cycle(shapes.values()), count)


def _concatenate(elements: Sequence[Mapping[str, np.ndarray]], maximum: int | None) -> dict[str, np.ndarray]:
    return {key: np.concatenate([element[key] for element in elements])[:maximum] for key in elements[0]}
