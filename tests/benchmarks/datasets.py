"""Two imbalanced data sets, as the benchmarks read them: Mammography and Yeast.

Each loader looks in the folder that the environment variable KERAS_NOTES_DATA names, then in Keras's cache
(`~/.keras/datasets`), and then downloads into that cache from a pinned commit. Neither set states a licence: they are
public research data, for measuring only, and no part of this package.
"""

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


def mammography():
    """Microcalcifications (Woods et al. 1993): 6 features, 260 positives in 11,183 rows (2.3 %).

    One blank row (every feature at its minimum) occurs 3,329 times, 7 of them positive. A random split would put it on
    both sides, so the parts go by a hash of the row: equal rows are always in the same part.

    Returns:
        x: float64 (11183, 6).
        y: uint8 (11183,), 1 for positive.
        part: uint8 (11183,), 0 to 4.
    """
    path = _local("mammography/mammography.csv") or _fetched("mammography.csv", MAMMOGRAPHY_URL, MAMMOGRAPHY_SHA256)
    table = _comma_separated(path, columns=7)
    x, signs = np.ascontiguousarray(table[:, :6]), table[:, 6]
    _check(path, f"{MAMMOGRAPHY_ROWS} rows", f"{len(table)} rows", len(table) == MAMMOGRAPHY_ROWS)
    _check(path, "labels 1 and -1", f"labels {np.unique(signs)}", set(signs) == {-1.0, 1.0})
    y = (signs == 1.0).astype("uint8")
    _check(path, f"{MAMMOGRAPHY_POSITIVES} positives", f"{y.sum()} positives", y.sum() == MAMMOGRAPHY_POSITIVES)
    return x, y, np.array([_part_of(row) for row in x], "uint8")


def yeast():
    """Functional classes of yeast genes (Elisseeff & Weston 2001): 14 labels, 4.24 of them set a row; official split.

    Returns:
        (x_train, y_train), (x_test, y_test): x float32 (1500 and 917, 103), y uint8 (1500 and 917, 14).
    """
    path = _local("multilabel/yeast.npz")
    return tuple(_yeast_of_npz(path, split) if path else _yeast_of_arff(split) for split in ("train", "test"))


def _local(relative):
    """The file in $KERAS_NOTES_DATA, or None where it is not there or the variable is not set."""
    folder = os.environ.get("KERAS_NOTES_DATA")
    path = Path(folder) / relative if folder else None
    return path if path is not None and path.is_file() else None


def _fetched(name, url, sha256=None):
    """The file in Keras's cache, downloaded if it is not there. A failed download is an error of get_file."""
    cached = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets" / name
    if not cached.is_file():
        print(f"{name}: not in $KERAS_NOTES_DATA and not at {cached}; downloading {url}", file=sys.stderr)
    return Path(keras.utils.get_file(name, url, file_hash=sha256))


def _comma_separated(path, columns):
    """The numbers of a file of comma-separated rows; numbers may be in single quotes."""
    try:
        table = np.loadtxt(path, delimiter=",", quotechar="'", comments="@", ndmin=2)
    except ValueError as error:
        raise ValueError(_damaged(path, f"rows of {columns} numbers", f"a fault ({error})")) from error
    _check(path, f"rows of {columns} numbers", f"rows of {table.shape[1]}", table.shape[1] == columns)
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
    path = _fetched(f"yeast-{split}.arff", f"{YEAST_URL}yeast-{split}.arff")
    table = _comma_separated(path, columns=YEAST_FEATURES + YEAST_LABELS)
    return _checked_yeast(path, split, table[:, :YEAST_FEATURES], table[:, YEAST_FEATURES:])


def _checked_yeast(path, split, x, y):
    shapes = (YEAST_ROWS[split], YEAST_FEATURES), (YEAST_ROWS[split], YEAST_LABELS)
    expected, received = (f"x and y of shapes {a} and {b}" for a, b in (shapes, (x.shape, y.shape)))
    _check(path, expected, received, (x.shape, y.shape) == shapes)
    _check(path, "labels 0 and 1", f"labels {np.unique(y)}", set(np.unique(y)) == {0, 1})
    positives, counted = YEAST_POSITIVES[split], y.sum(0).astype(int).tolist()
    _check(path, f"{positives} positives a label in {split}", f"{counted}", counted == positives)
    return x.astype("float32"), y.astype("uint8")


def _part_of(row):
    return hashlib.sha256(row.astype("<f8").tobytes()).digest()[0] % PARTS


def _check(path, expected, received, holds):
    if not holds:
        raise ValueError(_damaged(path, expected, received))


def _damaged(path, expected, received):
    return f"{path} must hold {expected}. Received: {received}. Delete the file, or put a whole copy in its place."
