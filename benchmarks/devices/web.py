"""The page of tflite/web in headless Chromium: bytes, milliseconds to the first prediction, and of each one after it.

    python -m benchmarks devices web [--bundle DIRECTORY] [--rounds 5] [--repeat 500]

Needs what tests/tflite/test_web.py needs. First prediction: from the start of the navigation to the first golden
sample's outputs, model and runtime loaded. Cold: a browser that has never been there, over this machine's own network;
warm: reloaded, the service worker answers. Latency: the contract's, in the browser and in Python beside it, in turns.
The printed figures are medians over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import command_line
from tests.support.bundles import RUNNER, TESTDATA
from tests.support.web_pages import build_page, contract, new_page, open_bundle, web_module


def first_predictions(browser, address):
    """Returns the milliseconds to the first prediction: cold, warm."""
    with new_page(browser, service_workers="allow") as page:
        milliseconds = []
        for _ in range(2):
            open_bundle(page, address, "bundle")
            milliseconds.append(int(page.get_attribute("html", "data-first-prediction-ms")))
        return milliseconds


def latency_in_browser(browser, address, repeat):
    """Returns the milliseconds of one invocation in the browser."""
    with new_page(browser) as page:
        code, line = contract(page, address, repeat=repeat)
        if code == 2:
            raise ValueError(line)
        return json.loads(line)["latency_ms_p50"]


def latency_in_python(bundle, repeat):
    """Returns the milliseconds of one invocation on ai-edge-litert."""
    command = [sys.executable, RUNNER, bundle, "--repeat", repeat]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["latency_ms_p50"]


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("devices web", __doc__)
    parser.add_argument("--bundle", type=Path, default=TESTDATA, metavar="DIRECTORY")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=500)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds the page, measures in turns, and prints one line of JSON."""
    options = build_parser().parse_args(arguments)
    from playwright.sync_api import sync_playwright

    run, serve = web_module("run"), web_module("serve")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        dist = Path(temporary) / "dist"
        print(build_page(dist, [options.bundle]), end="")
        with serve.serving(dist, mounts={"bundle": options.bundle}) as address, sync_playwright() as playwright:
            browser = run.launch(playwright, run.find_browser())
            for _ in range(options.rounds):
                cold, warm = first_predictions(browser, address)
                web = latency_in_browser(browser, address, options.repeat)
                rows.append((cold, warm, web, latency_in_python(options.bundle, options.repeat)))
            browser.close()
    names = "first_prediction_cold_ms", "first_prediction_warm_ms", "latency_web_ms", "latency_python_ms"
    medians = (statistics.median(column) for column in zip(*rows, strict=True))
    print(json.dumps(dict(zip(names, medians, strict=True)) | {"rounds": rows}))
