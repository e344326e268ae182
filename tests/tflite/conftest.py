"""Fixtures of the browser and of the page that runs in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import TESTDATA
from tests.layers.decoders import device_samples, device_transformer
from tests.tools import need
from tests.web_bundles import SPACE, add_tokenizer, stream_bundle, trained_lstm, translator_bundle, window_bundle
from tests.web_pages import build_page, new_page, web_module

SOURCE_LENGTH, VOCABULARY = 6, 1500
WORDS = [f"{SPACE}word{place}" for place in range(VOCABULARY - 4)]


@pytest.fixture(scope="session")
def web_bundles(converted, tmp_path_factory) -> dict[str, Path]:
    """A bundle of each kind, by name. Never change one; `copied` it."""
    directory = tmp_path_factory.mktemp("web_bundles")
    net = trained_lstm()
    transformer = device_transformer()
    # Larger weights, so that what comes next depends on what came before.
    for variable in transformer.decoder_blocks[0].variables:
        variable.assign(2.0 * variable)
    translator = translator_bundle(
        transformer, directory / "translator", SOURCE_LENGTH, device_samples(2, seed=0)
    ).directory
    add_tokenizer(translator, WORDS)
    return {
        "static_int8_float32": converted("static_int8").directory,
        "static_int8_uint8": converted("static_int8", "uint8").directory,
        "float32_float32": converted("float32").directory,
        "stream": stream_bundle(net, directory / "stream").directory,
        "window": window_bundle(net, directory / "window").directory,
        "translator": translator,
    }


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
def address(web_dist, web_bundles):
    """Where the page is served, and each of `web_bundles` by its name."""
    with web_module("serve").serving(web_dist, mounts=web_bundles) as url:
        yield url


@pytest.fixture
def page(browser):
    """A fresh page."""
    with new_page(browser) as made:
        yield made
