"""Fixtures of the browser and of the page that runs in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.layers.decoders import device_samples, device_transformer
from tests.support.bundles import TESTDATA
from tests.support.tools import need
from tests.support.web_bundles import (
    SPACE,
    add_tokenizer,
    byte_images_bundle,
    int8_stream_bundle,
    keyword_bundle,
    motion_bundle,
    pair_bundle,
    translator_bundle,
    wave_bundle,
    without_stream,
)
from tests.support.web_pages import build_page, new_page, open_bundle, web_module

SOURCE_LENGTH, VOCABULARY = 6, 1500
WORDS = [f"{SPACE}word{place}" for place in range(VOCABULARY - 4)]


@pytest.fixture(scope="session")
def mounts() -> dict[str, Path]:
    """Folders that the page's server has beside it: bundles by name, added as they are made."""
    return {"int8": TESTDATA}


@pytest.fixture(scope="session")
def web_bundle(mounts, converted, tmp_path_factory) -> Callable[[str], Path]:
    """`web_bundle(name)`: the folder of a bundle of that kind, and served by that name. Never change it."""
    directory = tmp_path_factory.mktemp("web_bundles")
    makers = {
        "uint8_edges": lambda _: converted("static_int8", "uint8").directory,
        "float32": lambda _: converted("float32").directory,
        "bytes": byte_images_bundle,
        "keywords": keyword_bundle,
        "wave": wave_bundle,
        "pair": pair_bundle,
        "stream": motion_bundle,
        "int8_stream": int8_stream_bundle,
        "window": lambda place: without_stream(mounts["stream"], place),
        "translator": words_bundle,
    }

    def bundle(name: str) -> Path:
        if name == "window":
            bundle("stream")
        if name not in mounts:
            mounts[name] = makers[name](directory / name)
        return mounts[name]

    return bundle


def words_bundle(directory: Path) -> Path:
    """A Transformer that says something, and a vocabulary of words for it."""
    transformer = device_transformer()
    # Larger weights, so that what comes next depends on what came before.
    for variable in transformer.decoder_blocks[0].variables:
        variable.assign(2.0 * variable)
    translator_bundle(transformer, directory, SOURCE_LENGTH, device_samples(2, seed=0))
    add_tokenizer(directory, WORDS)
    return directory


@pytest.fixture(scope="session")
def web_dist(tmp_path_factory) -> Path:
    """The built page, which lists the bundle of tflite/testdata."""
    need("node", "npm")
    dist = tmp_path_factory.mktemp("web") / "dist"
    build_page(dist, [TESTDATA])
    return dist


@pytest.fixture(scope="session")
def browser():
    """Chromium, one for all tests."""
    need("chromium", "playwright")
    from playwright.sync_api import sync_playwright

    run = web_module("run")
    with sync_playwright() as playwright:
        chromium = run.launch(playwright, run.find_browser())
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def address(web_dist, mounts):
    """Where the page is served."""
    with web_module("serve").serving(web_dist, mounts=mounts) as url:
        yield url


@pytest.fixture
def page(browser):
    """A fresh page."""
    with new_page(browser) as opened_page:
        yield opened_page


@pytest.fixture
def opened(page, address, web_bundle) -> Callable[[str], Path]:
    """`opened(name)`: opens that bundle in `page`, and gives its folder."""

    def open_(name: str) -> Path:
        folder = web_bundle(name)
        open_bundle(page, address, name)
        return folder

    return open_
