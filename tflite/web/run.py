#!/usr/bin/env python3
"""Runs a bundle in headless Chromium and compares it with the trained model. Needs playwright and Chromium.

    python run.py BUNDLE [--repeat N] [--outputs DIRECTORY] [--dist DIRECTORY]

Serves the page (`make web` builds it) and the bundle on 127.0.0.1, and prints the line of JSON that the page gives.
Exit code: 0 equal within the bundle's tolerance, 1 not equal, 2 cannot run (the reason is on stderr). The contract is
in ../README.md. $CHROMIUM names the browser; by default it is the first of chromium, chromium-browser, google-chrome.
"""

import argparse
import base64
import json
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlencode

import serve  # beside this file

EQUAL, NOT_EQUAL, CANNOT_RUN = 0, 1, 2
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MS = 600_000
READ_OUTPUTS = """() => Array.from(globalThis.kerasNotes.outputs, ([path, values]) => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const parts = [];
    // As many arguments at once as every browser takes.
    for (let start = 0; start < bytes.length; start += 32768) {
        parts.push(String.fromCharCode(...bytes.subarray(start, start + 32768)));
    }
    return [path, btoa(parts.join(""))];
})"""


def find_browser():
    """The path of Chromium."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    if found is None:
        received = f"CHROMIUM={named}" if named else f"none of {', '.join(BROWSERS)} on PATH"
        raise ValueError(f"Chromium must be installed. Received: {received}. Install it, or set CHROMIUM to its path.")
    return found


def launch(playwright, browser):
    """Starts Chromium; its sandbox does not work for root."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"] if is_root else [])


def check_bundle(bundle):
    """Raises ValueError for a place where no bundle is; all else the page checks itself."""
    if not (bundle / "model.json").is_file():
        raise ValueError("A bundle must be a folder with model.json. Received: no such file.")


def run(bundle, repeat, outputs=None, dist=serve.DIST):
    """Runs the bundle in the page. Returns the line, None if it could not run, and the exit code."""
    check_bundle(bundle)
    serve.check_dist(dist)
    browser = find_browser()
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise ValueError(f"{error}. Install it: pip install playwright") from error
    query = urlencode({"bundle": "bundle/", "run": "", "repeat": repeat})
    try:
        with (
            serve.serving(dist, mounts={"bundle": bundle}) as address,
            sync_playwright() as playwright,
            launch(playwright, browser) as chromium,
        ):
            page = chromium.new_page(service_workers="block")
            return read(page, f"{address}?{query}", outputs)
    except Error as error:
        raise ValueError(f"The browser gave up: {str(error).splitlines()[0]}") from error


def read(page, address, outputs):
    """Opens the page, waits for its exit code, and reads what it shows."""
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(address)
    page.wait_for_selector("html[data-exit-code]", state="attached")
    code = int(page.get_attribute("html", "data-exit-code"))
    if code == CANNOT_RUN:
        raise ValueError(page.text_content("#alert"))
    if outputs is not None:
        write_outputs(page.evaluate(READ_OUTPUTS), outputs)
    return json.loads(page.text_content("#line")), code


def write_outputs(values, directory):
    """Writes the values of each output to a file of the name that its golden values have."""
    directory.mkdir(parents=True, exist_ok=True)
    for path, encoded in values:
        (directory / Path(path).name).write_bytes(base64.b64decode(encoded))


def main():
    """Parses the command line, prints the result, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Run a bundle in Chromium and compare it with the trained model.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--repeat", type=int, default=100, metavar="N", help="invocations to time (default 100)")
    parser.add_argument("--outputs", type=Path, metavar="DIRECTORY", help="where to write the outputs of all samples")
    parser.add_argument("--dist", type=Path, default=serve.DIST, metavar="DIRECTORY", help="the page (default: dist)")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error(f"--repeat must be >= 1. Received: {options.repeat}.")
    try:
        line, code = run(options.bundle, options.repeat, options.outputs, options.dist)
    except (OSError, ValueError) as error:
        print(f"run.py: cannot run {options.bundle}: {error}", file=sys.stderr)
        return CANNOT_RUN
    print(json.dumps(line))
    return code


if __name__ == "__main__":
    sys.exit(main())
