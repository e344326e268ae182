"""The page of tflite/web in headless Chromium: bytes, milliseconds to the first prediction, and of each one after it.

    python benchmarks/devices/web.py [--bundle DIRECTORY] [--rounds 5] [--repeat 500]

Needs what tests/tflite/test_web.py needs. First prediction: from the start of the navigation to the first golden
sample's outputs, model and runtime loaded. Cold: a browser that has never been there, over this machine's own network;
warm: reloaded, the service worker answers. Latency: the contract's, in the browser and in Python beside it, in turns.
Given are the medians over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.support.bundles import RUNNER, TESTDATA
from tests.support.web_pages import build_page, contract, new_page, open_bundle, web_module


def first_predictions(browser, address):
    """Milliseconds to the first prediction: cold, warm."""
    with new_page(browser, service_workers="allow") as page:
        found = []
        for _ in range(2):
            open_bundle(page, address, "bundle")
            found.append(int(page.get_attribute("html", "data-first-prediction-ms")))
        return found


def latency_in_browser(browser, address, repeat):
    """Milliseconds of one invocation."""
    with new_page(browser) as page:
        code, line = contract(page, address, repeat=repeat)
        if code == 2:
            raise ValueError(line)
        return json.loads(line)["latency_ms_p50"]


def latency_in_python(bundle, repeat):
    """The same on ai-edge-litert."""
    command = [sys.executable, RUNNER, bundle, "--repeat", repeat]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["latency_ms_p50"]


def main():
    """Builds the page, measures in turns, and prints one line of JSON."""
    parser = argparse.ArgumentParser(description="Measure the page of tflite/web.")
    parser.add_argument("--bundle", type=Path, default=TESTDATA, metavar="DIRECTORY")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=500)
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
