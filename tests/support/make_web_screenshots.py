"""Takes the pictures of tflite/web in a browser: small models are trained for them in a minute.

    python -m tests.support.make_web_screenshots [--output tflite/web/screenshots] [--all]

Two pictures are in the repository; --all takes every view, on a phone and a desktop, in light and dark.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_notes as kn
from keras_notes.layers import Transformer
from tests.support.web_bundles import (
    END,
    PAD,
    SPACE,
    SPECIAL_TOKENS,
    START,
    add_tokenizer,
    motion_bundle,
    translator_bundle,
)
from tests.support.web_pages import PHONE, WEB, build_page, web_module

DESKTOP = {"width": 1280, "height": 800}
PAIRS = (
    ("a dog runs in the park", "ein Hund l\u00e4uft im Park"),
    ("a dog sleeps in the sun", "ein Hund schl\u00e4ft in der Sonne"),
    ("a child plays in the snow", "ein Kind spielt im Schnee"),
    ("a child runs on the beach", "ein Kind l\u00e4uft am Strand"),
    ("two children play on the beach", "zwei Kinder spielen am Strand"),
    ("two children sing in the park", "zwei Kinder singen im Park"),
    ("a woman reads a book in the park", "eine Frau liest ein Buch im Park"),
    ("a woman reads a letter in the sun", "eine Frau liest einen Brief in der Sonne"),
    ("a man writes a letter", "ein Mann schreibt einen Brief"),
    ("a man sings in the snow", "ein Mann singt im Schnee"),
)
SEVEN = [(0.3, 0.2), (0.72, 0.2), (0.6, 0.45), (0.46, 0.85)]
LENGTH = 12


def digits_bundle(directory: Path) -> None:
    """A CNN for scikit-learn's digits, as int8."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [layers.Conv2D(16, 3, activation="relu", padding="same"), layers.MaxPooling2D(), layers.Flatten()]
    net = keras.Sequential([keras.Input((8, 8, 1), name="image"), *stack, layers.Dense(10)], name="digits")
    net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(images, classes, epochs=12, batch_size=32, verbose=0)
    labels = [str(digit) for digit in range(10)]
    kn.convert(net, directory, "static_int8", calibration=images[:400], golden=images[:32], labels=labels)


def phrases_bundle(directory: Path) -> None:
    """A Transformer that knows a few sentences by heart."""
    words = sorted({word for pair in PAIRS for text in pair for word in text.split()})
    ids = {word: place for place, word in enumerate(words, len(SPECIAL_TOKENS))}
    rows = [[[ids[word] for word in text.split()] for text in pair] for pair in PAIRS]
    sources = padded([source for source, _ in rows])
    targets = padded([[START, *target, END] for _, target in rows])
    keras.utils.set_random_seed(0)
    size = len(SPECIAL_TOKENS) + len(words)
    sizes = {"num_layers": 2, "width": 64, "num_heads": 4, "hidden_width": 128, "max_length": LENGTH}
    model = Transformer(size, size, name="phrases", **sizes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PAD)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit((sources, targets[:, :-1]), targets[:, 1:], epochs=150, verbose=0)
    translator_bundle(model, directory, LENGTH, (sources, targets[:, :-1]))
    add_tokenizer(directory, [SPACE + word for word in words])


def padded(rows: list[list[int]]) -> np.ndarray:
    """Rows of ids as (samples, LENGTH), padded behind; LENGTH + 1 for what begins with START."""
    length = LENGTH + (rows[0][0] == START)
    return np.array([row + [PAD] * (length - len(row)) for row in rows], "int32")


def draw_seven(page) -> None:
    """Draws with the mouse."""
    box = page.locator(".drawing").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in SEVEN]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()
    page.wait_for_timeout(300)


def translate(page) -> None:
    """Translates a sentence."""
    page.fill("textarea", "a woman reads a book in the park")
    page.click("text=Translate")
    page.wait_for_selector("button.primary:enabled")
    page.wait_for_timeout(300)


def play(page) -> None:
    """Plays a few seconds of the recording."""
    page.click("text=Play sample")
    page.wait_for_timeout(4500)


def check(page) -> None:
    """Checks the bundle."""
    page.click("text=Check this bundle")
    page.wait_for_selector("#line:visible")


VIEWS = {
    "home": ("", lambda page: page.wait_for_selector(".card")),
    "digits": ("?bundle=bundles/digits", draw_seven),
    "translator": ("?bundle=bundles/translator", translate),
    "stream": ("?bundle=bundles/stream", play),
    "check": ("?bundle=bundles/digits", check),
}
COMMITTED = (("digits", "phone", "light"), ("translator", "desktop", "dark"))


def take(browser, address: str, view: str, device: str, scheme: str, output: Path) -> None:
    """Takes one picture."""
    is_phone = device == "phone"
    page = browser.new_page(
        viewport=PHONE if is_phone else DESKTOP,
        color_scheme=scheme,
        device_scale_factor=2 if is_phone else 1,
        is_mobile=is_phone,
        has_touch=is_phone,
    )
    query, act = VIEWS[view]
    page.goto(address + query)
    if query:
        page.wait_for_selector("html[data-ready]", state="attached")
    act(page)
    page.screenshot(path=output / f"{view}_{device}_{scheme}.png", full_page=view == "check")
    page.close()


def main() -> None:
    """Trains, builds, and takes the pictures."""
    parser = argparse.ArgumentParser(description="Take the pictures of tflite/web.")
    parser.add_argument("--output", type=Path, default=WEB / "screenshots")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept and found again")
    parser.add_argument("--all", action="store_true", help="every view, size and colour scheme")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    run, serve = web_module("run"), web_module("serve")

    pictures = COMMITTED
    if options.all:
        pictures = itertools.product(VIEWS, ("phone", "desktop"), ("light", "dark"))
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        makers = {
            "digits": digits_bundle,
            "translator": phrases_bundle,
            "stream": motion_bundle,
        }
        for name, make in makers.items():
            if not (folder / name).is_dir():
                make(folder / name)
        dist = Path(temporary) / "dist"
        print(build_page(dist, [folder / name for name in makers]), end="")
        with serve.serving(dist) as address, sync_playwright() as playwright:
            browser = run.launch(playwright, run.find_browser())
            for view, device, scheme in pictures:
                take(browser, address, view, device, scheme, options.output)
            browser.close()


if __name__ == "__main__":
    main()
