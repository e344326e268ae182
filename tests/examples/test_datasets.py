"""The loaders of the benchmarks' data: what they accept, and how they refuse a damaged file. Nothing is downloaded."""

import gzip
import hashlib
import os

import keras
import numpy as np
import pytest

from examples import datasets
from examples.datasets import sequences

needs_data = pytest.mark.skipif(
    not os.environ.get("KERAS_NOTES_DATA"), reason="KERAS_NOTES_DATA does not name a folder with the data sets"
)


@pytest.fixture(autouse=True)
def _no_download(monkeypatch):
    def refuse(name, url, **_):
        raise AssertionError(f"{name} would be downloaded from {url}")

    monkeypatch.setattr(keras.utils, "get_file", refuse)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_NOTES_DATA", str(tmp_path))
    for name in ("mammography", "multilabel", "fashion_mnist", "hapt", "trec", "multi30k"):
        (tmp_path / name).mkdir()
    return tmp_path


def mammography_lines(rows=datasets.MAMMOGRAPHY_ROWS, positives=datasets.MAMMOGRAPHY_POSITIVES):
    """Rows as in the file; each row occurs twice."""
    return [f"{i // 2},{i // 2}.5,-1,0,0,2,'{1 if i < positives else -1}'" for i in range(rows)]


def write_mammography(folder, lines):
    (folder / "mammography" / "mammography.csv").write_text("\n".join(lines))


def yeast_arrays():
    """Zeros with as many labels set as in the data set."""
    arrays = {}
    for split, rows in datasets.YEAST_ROWS.items():
        arrays[f"x_{split}"] = np.zeros((rows, datasets.YEAST_FEATURES), "float32")
        arrays[f"y_{split}"] = (np.arange(rows)[:, None] < datasets.YEAST_POSITIVES[split]).astype("uint8")
    return arrays


def write_yeast(folder, **arrays):
    np.savez_compressed(folder / "multilabel" / "yeast.npz", **arrays)


def fashion_arrays(**changes):
    """Images whose pixels are all their label, in the order of the files."""
    arrays = {}
    for split, rows in datasets.FASHION_MNIST_ROWS.items():
        arrays[f"y_{split}"] = (np.arange(rows) % 10).astype("uint8")
        arrays[f"x_{split}"] = np.repeat(arrays[f"y_{split}"], 28 * 28).reshape(rows, 28, 28)
    return {name: (arrays | changes)[name] for name in ("x_train", "y_train", "x_test", "y_test")}


def write_fashion_mnist(folder, monkeypatch, arrays):
    """The four files; what they hold now is what the loader expects."""
    for name, array in zip(datasets.FASHION_MNIST_MD5, arrays.values(), strict=True):
        header = bytes(4 + 4 * array.ndim)
        content = gzip.compress(header + array.tobytes(), compresslevel=1)
        (folder / "fashion_mnist" / name).write_bytes(content)
        monkeypatch.setitem(datasets.FASHION_MNIST_MD5, name, hashlib.md5(content).hexdigest())


def hapt_arrays(**changes):
    """Stretches with as many windows as in the data set: each of one subject and activity, in one recording.

    The signals count the samples, in steps of the sensor: differences, folded to even and odd, low and high bytes.
    """
    segments, length = [], 0
    for user, split in ((1, "train"), (sequences.HAPT_TEST_SUBJECTS[0], "test")):
        for activity, count in enumerate(sequences.HAPT_COUNTS[split], start=1):
            samples = sequences.HAPT_WINDOW + (count - 1) * sequences.HAPT_STEP
            segments.append((1, user, activity, length + 1, length + samples))
            length += samples
    segments.append((1, 1, len(sequences.HAPT_COUNTS["train"]) + 1, 1, length))
    steps = np.tile(np.arange(length) % 1000 - 500, (6, 1))
    differences = np.diff(steps, prepend=0)
    folded = np.where(differences < 0, -2 * differences - 1, 2 * differences)
    arrays = {
        "lo": (folded & 255).astype("uint8"),
        "hi": (folded >> 8).astype("uint8"),
        "scale": np.full(6, 0.5, "float32"),
        "offsets": np.array([0, length]),
        "exp": np.array([1]),
        "segments": np.array(segments),
    }
    return arrays | changes


def write_multi30k(folder, monkeypatch, **contents):
    """Sentences "en train 0", "en train 1", ...; what the files hold now is what the loader expects."""
    for split, count in sequences.MULTI30K_SENTENCES.items():
        for language in ("en", "de"):
            name = f"{split}.{language}"
            sentences = "".join(f"{language} {split} {i}\u2028\n" for i in range(count))
            content = gzip.compress(contents.get(name.replace(".", "_"), sentences).encode(), compresslevel=1)
            (folder / "multi30k" / f"{name}.gz").write_bytes(content)
            monkeypatch.setitem(sequences.MULTI30K_SHA256, name, hashlib.sha256(content).hexdigest())


def test_mammography_is_read_and_equal_rows_share_a_part(folder):
    write_mammography(folder, mammography_lines())
    x, y, part = datasets.mammography()
    assert (x.shape, x.dtype, y.shape, y.sum()) == ((11183, 6), np.float64, (11183,), 260)
    np.testing.assert_array_equal(x[2], [1, 1.5, -1, 0, 0, 2])
    np.testing.assert_array_equal(part[:-1:2], part[1::2])
    assert set(part) == set(range(datasets.PARTS))


def test_yeast_is_read(folder):
    write_yeast(folder, **yeast_arrays())
    (x_train, y_train), (x_test, y_test) = datasets.yeast()
    assert (x_train.shape, y_train.shape) == ((1500, 103), (1500, 14))
    assert (x_test.shape, y_test.shape) == ((917, 103), (917, 14))
    assert (x_train.dtype, y_train.dtype) == (np.float32, np.uint8)


def test_yeast_is_read_from_the_rows_of_its_source(folder, monkeypatch):
    arrays = yeast_arrays()
    for split in datasets.YEAST_ROWS:
        table = np.concatenate([arrays[f"x_{split}"] + 0.25, arrays[f"y_{split}"]], axis=1)
        np.savetxt(folder / f"yeast-{split}.arff", table, "%g", delimiter=",")
    monkeypatch.setattr(keras.utils, "get_file", lambda name, url, **_: folder / name)
    (x_train, y_train), (x_test, y_test) = datasets.yeast()
    assert (x_train == 0.25).all()
    assert (x_test == 0.25).all()
    np.testing.assert_array_equal(y_train, arrays["y_train"])
    np.testing.assert_array_equal(y_test, arrays["y_test"])


def test_fashion_mnist_is_read(folder, monkeypatch):
    arrays = fashion_arrays()
    write_fashion_mnist(folder, monkeypatch, arrays)
    (x_train, y_train), (x_test, y_test) = datasets.fashion_mnist()
    for name, array in {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}.items():
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, arrays[name])


def test_fashion_mnist_is_taken_from_keras_where_there_is_no_file(folder, monkeypatch):
    x_train, y_train, x_test, y_test = fashion_arrays().values()
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: ((x_train, y_train), (x_test, y_test)))
    assert datasets.fashion_mnist()[1][0] is x_test
    x_test = x_test[1:]
    with pytest.raises(
        ValueError, match=r"keras\.datasets\.fashion_mnist must hold test .*Received: \(\(9999, 28, 28\)"
    ):
        datasets.fashion_mnist()


def test_fashion_mnist_with_a_file_missing_is_refused(folder, monkeypatch):
    write_fashion_mnist(folder, monkeypatch, fashion_arrays())
    (folder / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"must hold the files .* Received: none of t10k-labels-idx1-ubyte\.gz\."):
        datasets.fashion_mnist()


def test_fashion_mnist_of_other_bytes_is_refused(folder, monkeypatch):
    write_fashion_mnist(folder, monkeypatch, fashion_arrays())
    path = folder / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz must hold bytes of MD5 .*Received: "):
        datasets.fashion_mnist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros((9999, 28, 28), "uint8")}, r"test images and labels .*Received: \(\(9999, 28, 28\)"),
        ({"y_train": np.zeros(60_000, "uint8")}, r"6000 images of each of ten classes in train\. Received: \[60000\]"),
    ],
    ids=["shape", "labels"],
)
def test_fashion_mnist_of_other_contents_is_refused(folder, monkeypatch, change, message):
    write_fashion_mnist(folder, monkeypatch, fashion_arrays(**change))
    with pytest.raises(ValueError, match=r"fashion_mnist must hold " + message):
        datasets.fashion_mnist()


def test_hapt_is_read(folder):
    np.savez(folder / "hapt" / "hapt_raw.npz", **hapt_arrays())
    (x, y, subject), (x_test, y_test, subject_test) = sequences.hapt()
    assert (x.shape, x.dtype, x_test.shape) == ((7415, 128, 6), np.float32, (2996, 128, 6))
    np.testing.assert_array_equal(x[0], np.tile((np.arange(128)[:, None] - 500) / 2, 6))
    np.testing.assert_array_equal(x[1] - x[0], np.full((128, 6), 32))
    assert np.bincount(y).tolist() == sequences.HAPT_COUNTS["train"]
    assert (set(subject), set(subject_test)) == ({1}, {2})
    assert np.bincount(y_test).tolist() == sequences.HAPT_COUNTS["test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": hapt_arrays()["segments"][1:]}, r"windows in train\. Received: \[0, 1073"),
        ({"segments": hapt_arrays()["segments"][:6]}, r"windows in test\. Received: \[\]"),
    ],
    ids=["no walking", "no test"],
)
def test_hapt_of_other_contents_is_refused(folder, change, message):
    np.savez(folder / "hapt" / "hapt_raw.npz", **hapt_arrays(**change))
    with pytest.raises(ValueError, match=r"hapt_raw\.npz must hold .*" + message):
        sequences.hapt()


def test_hapt_without_its_arrays_is_refused(folder):
    np.savez(folder / "hapt" / "hapt_raw.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"hapt_raw\.npz must hold arrays .*'segments'.*Received: \['x'\]"):
        sequences.hapt()


def test_trec_is_read(folder, monkeypatch):
    for split, content in {
        "train": b"DESC:manner How did\x85 it ?\nHUM:ind Who ?\n",
        "test": b"NUM:date When ?\n",
    }.items():
        (folder / "trec" / f"TREC.{split}").write_bytes(content)
        monkeypatch.setitem(sequences.TREC_SHA256, split, hashlib.sha256(content).hexdigest())
    (texts, y), (texts_test, y_test) = sequences.trec()
    assert texts == ["How did\x85 it ?", "Who ?"]
    assert [sequences.TREC_CLASSES[label] for label in y] == ["DESC", "HUM"]
    assert (texts_test, y_test.tolist(), y_test.dtype) == (["When ?"], [5], np.uint8)


def test_trec_of_other_bytes_is_refused(folder):
    (folder / "trec" / "TREC.train").write_bytes(b"DESC:manner How ?\n")
    with pytest.raises(ValueError, match=r"TREC\.train must hold bytes of SHA-256 9e4c.*Received: "):
        sequences.trec()


def test_multi30k_is_read(folder, monkeypatch):
    write_multi30k(folder, monkeypatch)
    splits = sequences.multi30k()
    assert [(len(english), len(german)) for english, german in splits] == [(29000, 29000), (1014, 1014), (1000, 1000)]
    for split, (english, german) in zip(sequences.MULTI30K_SENTENCES, splits, strict=True):
        assert (english[0], german[-1]) == (f"en {split} 0\u2028", f"de {split} {len(german) - 1}\u2028")


@pytest.mark.parametrize(
    ("content", "lines"), [("Wer?\n" * 1013, 1013), ("Wer?\n" * 1013 + "\n", 1014)], ids=["rows", "empty line"]
)
def test_multi30k_of_other_contents_is_refused(folder, monkeypatch, content, lines):
    write_multi30k(folder, monkeypatch, val_de=content)
    message = rf"val\.de\.gz must hold 1014 lines, none of them empty\. Received: {lines} lines"
    with pytest.raises(ValueError, match=message):
        sequences.multi30k()


def test_multi30k_of_other_bytes_is_refused(folder):
    (folder / "multi30k" / "train.en.gz").write_bytes(gzip.compress(b"A man .\n"))
    with pytest.raises(ValueError, match=r"train\.en\.gz must hold bytes of SHA-256 d79c.*Received: "):
        sequences.multi30k()


def test_absent_files_are_fetched_and_where_from_is_said(folder, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(folder))
    with pytest.raises(AssertionError, match=r"mammography\.csv would be downloaded from https://raw\.github"):
        datasets.mammography()
    assert f"downloading {datasets.MAMMOGRAPHY_URL}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (mammography_lines()[:-1], r"11183 rows\. Received: 11182 rows"),
        ([*mammography_lines()[:-1], "0,0,0"], r"rows of 7 numbers\. Received: a fault .* columns"),
        ([*mammography_lines()[:-1], "0,0,0,0,0,0,'?'"], r"rows of 7 numbers\. Received: a fault \(could not convert"),
        (mammography_lines(positives=261), r"260 positives\. Received: 261 positives"),
        ([line[:-1] + "0'" for line in mammography_lines()], r"labels 1 and -1\. Received"),
        (["1,2,3"], r"rows of 7 numbers\. Received: rows of 3"),
    ],
    ids=["rows", "last row cut off", "no number", "positives", "labels", "columns"],
)
def test_damaged_mammography_is_refused(folder, lines, message):
    write_mammography(folder, lines)
    with pytest.raises(ValueError, match=r"mammography\.csv must hold " + message):
        datasets.mammography()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((1499, 103))}, r"\(1500, 103\) and \(1500, 14\)\. Received: .*\(1499, 103\)"),
        ({"y_test": np.ones((917, 14))}, r"labels 0 and 1\. Received: labels \[1\.\]"),
        ({"y_test": 1 - yeast_arrays()["y_test"]}, r"\[286, .*13\] positives a label in test\. Received: \[631, "),
    ],
    ids=["shape", "labels", "positives"],
)
def test_damaged_yeast_is_refused(folder, change, message):
    write_yeast(folder, **(yeast_arrays() | change))
    with pytest.raises(ValueError, match=r"yeast\.npz must hold .*" + message):
        datasets.yeast()


def test_yeast_without_its_arrays_is_refused(folder):
    write_yeast(folder, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"yeast\.npz must hold arrays x_train and y_train\. Received: a fault"):
        datasets.yeast()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_npz_is_refused(folder, content):
    (folder / "multilabel" / "yeast.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"yeast\.npz must hold arrays x_train and y_train\. Received: a fault"):
        datasets.yeast()


@needs_data
def test_the_parts_of_mammography():
    _, y, part = datasets.mammography()
    assert np.bincount(part).tolist() == [1587, 1569, 1501, 1547, 4979]
    assert np.bincount(part[y == 1]).tolist() == [47, 49, 55, 51, 58]


@needs_data
def test_the_copies_of_the_blank_row_are_in_one_part():
    x, y, part = datasets.mammography()
    is_blank = (x == x.min(0)).all(1)
    assert (is_blank.sum(), y[is_blank].sum(), set(part[is_blank])) == (3329, 7, {4})


@needs_data
def test_the_labels_of_yeast():
    (_, y_train), (_, y_test) = datasets.yeast()
    assert np.concatenate([y_train, y_test]).sum(1).mean() == pytest.approx(4.24, abs=0.005)


@needs_data
def test_no_test_image_of_fashion_mnist_is_in_training():
    (x_train, _), (x_test, _) = datasets.fashion_mnist()
    assert not {image.tobytes() for image in x_train} & {image.tobytes() for image in x_test}


@needs_data
def test_no_test_sentence_of_multi30k_is_in_training():
    (english, german), _, (english_test, german_test) = sequences.multi30k()
    assert not set(english) & set(english_test)
    assert not set(german) & set(german_test)
