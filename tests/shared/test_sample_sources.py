"""Datasets, generators and loaders are read into the arrays that they hold, and never without end."""

import itertools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_notes._shared.sample_sources import is_pair, is_source, read_labelled, read_samples

X = np.random.default_rng(0).normal(size=(20, 4, 3)).astype("float32")
Y = np.arange(20) % 5
SHAPES = {"image": (None, 4, 3)}
TWO = {"a": (None, 4, 3), "b": (None, 2)}
B = np.arange(40, dtype="float32").reshape(20, 2)


class Batches(keras.utils.PyDataset):
    """Batches of 8 whose `__getitem__` never raises IndexError."""

    def __init__(self, *, ends=True):
        super().__init__()
        self._ends = ends

    @property
    def num_batches(self):
        return 3 if self._ends else None

    def __getitem__(self, index):
        first = 8 * (index % 3)
        return X[first : first + 8], Y[first : first + 8]


class Rows:
    """A dataset as PyTorch's: samples by index, without `__iter__`."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


class Loader:
    """Batches in lists, as PyTorch's default collation gives them."""

    def __iter__(self):
        return ([X[i : i + 8], Y[i : i + 8]] for i in range(0, 20, 8))

    def __len__(self):
        return 3


def representative_dataset():
    for sample in X:
        yield [sample[None]]


LABELLED = {
    "tf.data, samples": lambda: tf.data.Dataset.from_tensor_slices((X, Y)),
    "tf.data, batches": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(8),
    "tf.data, names": lambda: tf.data.Dataset.from_tensor_slices(({"image": X}, Y)).batch(8),
    "tf.data, weights": lambda: tf.data.Dataset.from_tensor_slices((X, Y, np.ones(20))).batch(8),
    "PyDataset": Batches,
    "rows by index": Rows,
    "loader": Loader,
    "generator": lambda: ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 20, 8)),
    "list of samples and labels": lambda: list(zip(X, Y, strict=True)),
    "list of batches": lambda: [(X[:8], Y[:8]), (X[8:], Y[8:])],
}
UNLABELLED = {
    "tf.data, samples": lambda: tf.data.Dataset.from_tensor_slices(X),
    "tf.data, batches": lambda: tf.data.Dataset.from_tensor_slices(X).batch(8),
    "tf.data, tuples": lambda: tf.data.Dataset.from_tensor_slices((X,)).batch(8),
    "iterator": lambda: iter(X),
    "function of TFLiteConverter": lambda: representative_dataset,
    "list of samples": lambda: list(X),
    "list of lists of numbers": lambda: X.tolist(),
}


def inputs_of(x):
    return x["image"] if isinstance(x, dict) else x


@pytest.mark.parametrize("name", LABELLED)
def test_samples_and_labels_are_read_in_order(name):
    source = LABELLED[name]()
    assert is_source(source, SHAPES)
    assert not is_pair(source)
    x, y = read_labelled("x", source, SHAPES)
    np.testing.assert_array_equal(inputs_of(x), X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(inputs_of(read_samples("x", LABELLED[name](), SHAPES)), X)


@pytest.mark.parametrize("name", UNLABELLED)
def test_samples_without_labels_are_read_in_order(name):
    np.testing.assert_array_equal(read_samples("x", UNLABELLED[name](), SHAPES), X)
    with pytest.raises(ValueError, match=r"`x` must yield inputs and their class ids, \(x, y\)"):
        read_labelled("x", UNLABELLED[name](), SHAPES)


def test_a_data_loader_of_pytorch_is_read():
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.tensor(X, requires_grad=True), torch.tensor(Y))
    for source in (torch.utils.data.DataLoader(dataset, batch_size=8), dataset):
        x, y = read_labelled("x", source, SHAPES)
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)


@pytest.mark.parametrize(
    "element",
    [
        lambda i: (X[i], B[i]),
        lambda i: [X[i : i + 1], B[i : i + 1]],
        lambda i: ((X[i], B[i]), Y[i]),
        lambda i: {"b": B[i], "a": X[i]},
        lambda i: ({"b": B[i : i + 1], "a": X[i : i + 1]}, Y[i : i + 1]),
    ],
)
def test_elements_for_several_inputs_keep_their_form(element):
    x = read_samples("x", map(element, range(20)), TWO)
    a, b = (x["a"], x["b"]) if isinstance(x, dict) else x
    np.testing.assert_array_equal(a, X)
    np.testing.assert_array_equal(b, B)


def test_batches_are_read_where_the_inputs_are_not_known():
    np.testing.assert_array_equal(read_samples("x", Batches(), None), X)
    a, b = read_samples("x", (([X[i : i + 8], B[i : i + 8]], Y[i : i + 8]) for i in range(0, 20, 8)), None)
    np.testing.assert_array_equal(a, X)
    np.testing.assert_array_equal(b, B)


@pytest.mark.parametrize(
    "values",
    [X, tf.constant(X), [X], {"image": X}, None, 3.0, "x.npy", (X,)],
    ids=["array", "tensor", "list", "dict", "None", "number", "path", "tuple"],
)
def test_arrays_are_left_as_they_are(values):
    assert not is_source(values, SHAPES)
    assert read_samples("x", values, SHAPES) is values


@pytest.mark.parametrize(
    "source",
    [
        lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat(),
        lambda: itertools.cycle(zip(X, Y, strict=True)),
        lambda: Batches(ends=False),
    ],
    ids=["tf.data", "iterator", "PyDataset"],
)
def test_a_source_without_an_end_is_read_up_to_the_limit(source, monkeypatch, caplog):
    monkeypatch.setattr("keras_notes._shared.sample_sources.VERIFICATION_SAMPLES", 50)
    with caplog.at_level(logging.INFO, "keras_notes"):
        x = read_samples("calibration", source(), SHAPES, 30)
    assert x.shape == (30, 4, 3)
    assert "`calibration`: the first 30 samples of a" in caplog.text
    assert [len(part) for part in read_labelled("x", source(), SHAPES)] == [50, 50]


def test_a_source_with_an_end_is_verified_whole(monkeypatch):
    monkeypatch.setattr("keras_notes._shared.sample_sources.VERIFICATION_SAMPLES", 5)
    for source in (tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), Batches(), Rows(), Loader()):
        assert len(read_labelled("x", source, SHAPES).y) == 20


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (lambda: iter([]), ValueError, "must hold at least 1 sample. Received: list_iterator without any"),
        (lambda: iter([X[:8], X[:8, :3]]), ValueError, r"samples of one shape. Received: \[\(3, 3\)\] in element 1"),
        (lambda: iter([X[:8, 0, 0]]), ValueError, r"shapes \(None, 4, 3\), or batches.*\(8,\) in element 0"),
        (lambda: iter([X[:8], X[None, :8]]), ValueError, r"Received: shapes \(1, 8, 4, 3\) in element 1"),
        (lambda: iter([(X[:8], Y[:7])]), ValueError, r"same number of samples.*Received: \[7, 8\] in element 0"),
        (lambda: iter([(X[:8], Y[:8]), X[8:]]), ValueError, "labels with every element, or with none"),
        (lambda: iter([np.array(["a", "b"])]), TypeError, "must hold numbers. Received: dtype <U1 in element 0"),
        (lambda: iter([[[1.0], [1.0, 2.0]]]), ValueError, "Pad its sequences to one length"),
    ],
)
def test_elements_that_do_not_fit_are_named(source, error, message):
    with pytest.raises(error, match=f"`samples` .*{message}"):
        read_samples("samples", source(), SHAPES)


def test_a_generator_is_closed_after_the_last_sample():
    closed = []

    def generate():
        try:
            while True:
                yield X
        finally:
            closed.append(True)

    assert read_samples("x", generate(), SHAPES, 40).shape == (40, 4, 3)
    assert closed == [True]


def test_an_error_of_the_source_is_its_own():
    def generate():
        yield X
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        read_samples("x", generate(), SHAPES)
