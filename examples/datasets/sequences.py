"""Sequences of examples and benchmarks: HAPT, of motions of a phone, TREC, of questions, Multi30k, of translations.

Found, as the images of `datasets` are, in $KERAS_NOTES_DATA, in Keras's cache, or by a download into it, from pinned
commits. HAPT asks that Reyes-Ortiz et al. (2015) are cited and excludes commercial use; TREC states no licence;
Multi30k states none either, speaks of research and education, and asks that Elliott et al. (2016) are cited: they are
public research data, for measuring only. None is a part of this package.
"""

import gzip
import hashlib
from pathlib import Path

import numpy as np

from . import check, comma_separated, fetched, local

HAPT_URL = (
    "https://raw.githubusercontent.com/anas337/Human-Activity-Recognition-Using-Smartphones.github.io/"
    "df9773951f723fa944ac05e92eefb0a03b0c45f1/Data/Original-Data/HAPT-Dataset/Raw-Data/"
)
HAPT_WINDOW, HAPT_STEP = 128, 64
HAPT_TEST_SUBJECTS = (2, 4, 9, 10, 12, 13, 18, 20, 24)
HAPT_COUNTS = {"train": [1226, 1073, 987, 1293, 1423, 1413], "test": [496, 471, 420, 508, 556, 545]}

TREC_URL = (
    "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/d61ded09c99c0199d8c5bca946cd65864de2b296/data/raw/"
)
TREC_SHA256 = {
    "train": "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
    "test": "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
}
TREC_CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")

MULTI30K_URL = (
    "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/"
)
MULTI30K_SHA256 = {
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}
MULTI30K_SENTENCES = {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}


def hapt():
    """Walking, upstairs, downstairs, sitting, standing, lying, as a phone feels them (Reyes-Ortiz et al. 2015).

    Windows of 2.56 s at 50 Hz, half overlapping, inside the labelled stretches of the raw signals: acceleration in g
    and angular velocity in rad/s, three axes each. Split by subject, as the authors do.

    Returns:
        (x, y, subject) for training and test: float32 (7415 and 2996, 128, 6), uint8 activities 0 to 5, uint8 subjects.
    """
    path = local("hapt/hapt_raw.npz")
    signals, segments = _hapt_of_npz(path) if path else _hapt_of_texts()
    x, y, subject = [], [], []
    for recording, user, activity, first, last in segments.tolist():
        if activity <= len(HAPT_COUNTS["train"]):
            for start in range(first - 1, last - HAPT_WINDOW + 1, HAPT_STEP):
                x.append(signals[recording][start : start + HAPT_WINDOW])
                y.append(activity - 1)
                subject.append(user)
    arrays = np.array(x, "float32"), np.array(y, "uint8"), np.array(subject, "uint8")
    in_test = np.isin(arrays[2], HAPT_TEST_SUBJECTS)
    for split, rows in (("train", ~in_test), ("test", in_test)):
        counts = np.bincount(arrays[1][rows]).tolist()
        check(path or HAPT_URL, f"{HAPT_COUNTS[split]} windows in {split}", f"{counts}", counts == HAPT_COUNTS[split])
    return tuple(tuple(array[rows] for array in arrays) for rows in (~in_test, in_test))


def trec():
    """Questions by what they ask for (Li & Roth 2002): an abbreviation, a description, an entity, a human, ...

    Returns:
        (texts, y) for training and test: 5,452 and 500 questions, uint8 classes in the order of `TREC_CLASSES`.
    """
    return tuple(_questions(split) for split in ("train", "test"))


def multi30k():
    """Descriptions of images in English, translated into German (Elliott et al. 2016), as they were written.

    Returns:
        (english, german) for training, validation and the test of 2016: lists of 29,000, 1,014 and 1,000 sentences.
    """
    return tuple(tuple(_sentences(split, language) for language in ("en", "de")) for split in MULTI30K_SENTENCES)


def _hapt_of_npz(path):
    """The signals by recording, and the labelled stretches: differences of steps of the sensor, in two bytes each."""
    with np.load(path) as arrays:
        names = {"lo", "hi", "scale", "offsets", "exp", "segments"}
        check(path, f"arrays {sorted(names)}", f"{sorted(arrays.files)}", names <= set(arrays.files))
        folded = arrays["lo"].astype("int32") | arrays["hi"].astype("int32") << 8
        steps = np.cumsum((folded >> 1) ^ -(folded & 1), axis=-1).astype("int16")
        signal = (steps * arrays["scale"][:, None]).T
        bounds = zip(arrays["exp"].tolist(), arrays["offsets"], arrays["offsets"][1:], strict=False)
        return {recording: signal[first:last] for recording, first, last in bounds}, arrays["segments"]


def _hapt_of_texts():
    """The same from the files of the authors."""
    segments = _numbers("labels.txt", 5).astype("int32")
    signals = {}
    for recording, user in np.unique(segments[:, :2], axis=0).tolist():
        parts = [_numbers(f"{sensor}_exp{recording:02}_user{user:02}.txt", 3) for sensor in ("acc", "gyro")]
        signals[recording] = np.concatenate(parts, axis=1)
    return signals, segments


def _numbers(name, columns):
    return comma_separated(fetched(f"hapt-{name}", HAPT_URL + name), columns, delimiter=None)


def _questions(split):
    name = f"TREC.{split}"
    path = local(f"trec/{name}") or fetched(name, TREC_URL + name, TREC_SHA256[split])
    content = _checked_bytes(path, TREC_SHA256[split])
    # `splitlines` would also break lines at what Latin-1 has for a line feed of EBCDIC.
    lines = content.decode("latin1").removesuffix("\n").split("\n")
    labels, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return list(texts), np.array([TREC_CLASSES.index(label.split(":")[0]) for label in labels], "uint8")


def _sentences(split, language):
    sha256 = MULTI30K_SHA256[f"{split}.{language}"]
    name = f"{split}.{language}.gz"
    path = local(f"multi30k/{name}") or fetched(f"multi30k-{name}", MULTI30K_URL + name, sha256)
    # `splitlines` would also break lines at what Unicode takes for the end of one.
    lines = gzip.decompress(_checked_bytes(path, sha256)).decode("utf8").removesuffix("\n").split("\n")
    count = MULTI30K_SENTENCES[split]
    check(path, f"{count} lines, none of them empty", f"{len(lines)} lines", len(lines) == count and all(lines))
    return lines


def _checked_bytes(path, sha256):
    content = Path(path).read_bytes()
    received = hashlib.sha256(content).hexdigest()
    check(path, f"bytes of SHA-256 {sha256}", received, received == sha256)
    return content
