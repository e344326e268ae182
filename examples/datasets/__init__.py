"""Data sets of examples and benchmarks: Mammography and Yeast, which are imbalanced, and images of Fashion-MNIST.

Each loader looks in the folder that the environment variable KERAS_NOTES_DATA names, then in Keras's cache
(`~/.keras/datasets`), and then downloads into that cache: Mammography and Yeast from a pinned commit, Fashion-MNIST as
Keras does. Fashion-MNIST is under the MIT licence; the other two state none: they are public research data, for
measuring only. None is a part of this package.
"""

import gzip
import hashlib
import os
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np

PARTS = 5
MAMMOGRAPHY_URL = (
    "https://raw.githubusercontent.com/jbrownlee/Datasets/d20fcb6402ae34e653d4513b00f39257bb37ed7f/mammography.csv"
)
MAMMOGRAPHY_SHA256 = "7d3dea3f075f30bbdbb8980e7725684059b4fe3d0f850fadd0f635f6993d8730"
MAMMOGRAPHY_ROWS, MAMMOGRAPHY_POSITIVES = 11_183, 260

YEAST_URL = "https://raw.githubusercontent.com/ghufran26/MLKNN/b01ef9a9cc15c14733c4ca4b994c9ee465d3ce67/"
YEAST_FEATURES, YEAST_LABELS = 103, 14
YEAST_POSITIVES = {
    "train": [476, 645, 598, 532, 441, 378, 261, 289, 98, 161, 198, 1128, 1116, 21],
    "test": [286, 393, 385, 330, 281, 219, 167, 191, 80, 92, 91, 688, 683, 13],
}
YEAST_ROWS = {"train": 1500, "test": 917}

FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_MNIST_ROWS = {"train": 60_000, "test": 10_000}


def mammography():
    """Microcalcifications (Woods et al. 1993): 6 features, 260 positives in 11,183 rows (2.3 %).

    One blank row (every feature at its minimum) occurs 3,329 times, 7 of them positive. A random split would put it on
    both sides, so the parts go by a hash of the row: equal rows are always in the same part.

    Returns:
        x: float64 (11183, 6).
        y: uint8 (11183,), 1 for positive.
        part: uint8 (11183,), 0 to 4.
    """
    path = local("mammography/mammography.csv") or fetched("mammography.csv", MAMMOGRAPHY_URL, MAMMOGRAPHY_SHA256)
    table = comma_separated(path, columns=7)
    x, signs = np.ascontiguousarray(table[:, :6]), table[:, 6]
    check(path, f"{MAMMOGRAPHY_ROWS} rows", f"{len(table)} rows", len(table) == MAMMOGRAPHY_ROWS)
    check(path, "labels 1 and -1", f"labels {np.unique(signs)}", set(signs) == {-1.0, 1.0})
    y = (signs == 1.0).astype("uint8")
    check(path, f"{MAMMOGRAPHY_POSITIVES} positives", f"{y.sum()} positives", y.sum() == MAMMOGRAPHY_POSITIVES)
    return x, y, np.array([_part_of(row) for row in x], "uint8")


def yeast():
    """Functional classes of yeast genes (Elisseeff & Weston 2001): 14 labels, 4.24 of them set a row; official split.

    Returns:
        (x_train, y_train), (x_test, y_test): x float32 (1500 and 917, 103), y uint8 (1500 and 917, 14).
    """
    path = local("multilabel/yeast.npz")
    return tuple(_yeast_of_npz(path, split) if path else _yeast_of_arff(split) for split in ("train", "test"))


def fashion_mnist():
    """Grey images of clothing (Xiao et al. 2017): 28 x 28 pixels, ten classes of equal size, official split.

    Returns:
        (x_train, y_train), (x_test, y_test): x uint8 (60000 and 10000, 28, 28), y uint8 (60000 and 10000,).
    """
    paths = {name: local(f"fashion_mnist/{name}") for name in FASHION_MNIST_MD5}
    missing = [name for name, path in paths.items() if path is None]
    if not missing:
        x_train, y_train, x_test, y_test = (_idx(paths[name], md5) for name, md5 in FASHION_MNIST_MD5.items())
        source = next(iter(paths.values())).parent
    elif len(missing) == len(paths):
        source = "keras.datasets.fashion_mnist"
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    else:
        folder = next(path for path in paths.values() if path is not None).parent
        raise ValueError(_damaged(folder, f"the files {', '.join(paths)}", f"none of {', '.join(missing)}"))
    _check_images(source, "train", x_train, y_train)
    _check_images(source, "test", x_test, y_test)
    return (x_train, y_train), (x_test, y_test)


def local(relative):
    """The file in $KERAS_NOTES_DATA, or None where it is not there or the variable is not set."""
    folder = os.environ.get("KERAS_NOTES_DATA")
    path = Path(folder) / relative if folder else None
    return path if path is not None and path.is_file() else None


def fetched(name, url, sha256=None):
    """The file in Keras's cache, downloaded if it is not there. A failed download is an error of get_file."""
    cached = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets" / name
    if not cached.is_file():
        print(f"{name}: not in $KERAS_NOTES_DATA and not at {cached}; downloading {url}", file=sys.stderr)
    return Path(keras.utils.get_file(name, url, file_hash=sha256))


def comma_separated(path, columns, delimiter=","):
    """The numbers of a file of rows, separated by commas or, with None, by blanks; they may be in single quotes."""
    try:
        table = np.loadtxt(path, delimiter=delimiter, quotechar="'", comments="@", ndmin=2)
    except ValueError as error:
        raise ValueError(_damaged(path, f"rows of {columns} numbers", f"a fault ({error})")) from error
    check(path, f"rows of {columns} numbers", f"rows of {table.shape[1]}", table.shape[1] == columns)
    return table


def _yeast_of_npz(path, split):
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(_damaged(path, f"arrays x_{split} and y_{split}", f"a fault ({error})")) from error
    return _checked_yeast(path, split, x, y)


def _yeast_of_arff(split):
    """The source has the rows of an ARFF file without its header."""
    path = fetched(f"yeast-{split}.arff", f"{YEAST_URL}yeast-{split}.arff")
    table = comma_separated(path, columns=YEAST_FEATURES + YEAST_LABELS)
    return _checked_yeast(path, split, table[:, :YEAST_FEATURES], table[:, YEAST_FEATURES:])


def _checked_yeast(path, split, x, y):
    shapes = (YEAST_ROWS[split], YEAST_FEATURES), (YEAST_ROWS[split], YEAST_LABELS)
    expected, received = (f"x and y of shapes {a} and {b}" for a, b in (shapes, (x.shape, y.shape)))
    check(path, expected, received, (x.shape, y.shape) == shapes)
    check(path, "labels 0 and 1", f"labels {np.unique(y)}", set(np.unique(y)) == {0, 1})
    positives, counted = YEAST_POSITIVES[split], y.sum(0).astype(int).tolist()
    check(path, f"{positives} positives a label in {split}", f"{counted}", counted == positives)
    return x.astype("float32"), y.astype("uint8")


def _idx(path, md5):
    """The uint8 array of a gzipped idx file: of images where its name says so, else of labels."""
    content = path.read_bytes()
    received = hashlib.md5(content, usedforsecurity=False).hexdigest()
    check(path, f"bytes of MD5 {md5}", received, received == md5)
    is_images = "-images-" in path.name
    values = np.frombuffer(gzip.decompress(content), "uint8", offset=16 if is_images else 8)
    return values.reshape(-1, 28, 28) if is_images else values


def _check_images(source, split, x, y):
    rows = FASHION_MNIST_ROWS[split]
    expected, shapes = ((rows, 28, 28), (rows,)), (x.shape, y.shape)
    check(source, f"{split} images and labels of shapes {expected}", f"{shapes}", shapes == expected)
    counts = np.bincount(y).tolist()
    check(source, f"{rows // 10} images of each of ten classes in {split}", f"{counts}", counts == [rows // 10] * 10)


def _part_of(row):
    return hashlib.sha256(row.astype("<f8").tobytes()).digest()[0] % PARTS


def check(path, expected, received, holds):
    if not holds:
        raise ValueError(_damaged(path, expected, received))


def _damaged(path, expected, received):
    return f"{path} must hold {expected}. Received: {received}. Delete the file, or put a whole copy in its place."
