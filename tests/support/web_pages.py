"""Helpers of the tests of tflite/web: the built page, a browser, and ways to open bundles in it."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.support.bundles import ROOT

WEB = ROOT / "tflite" / "web"
PHONE = {"width": 360, "height": 740}
PATIENCE_MS = 30_000


def web_module(name: str) -> ModuleType:
    """A program of tflite/web, which is in no package and imports what is beside it."""
    spec = importlib.util.spec_from_file_location(f"web_{name}", WEB / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(WEB))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(WEB))
    return module


def build_page(dist: Path, bundles: list[Path]) -> str:
    """Builds the page with these bundles; returns what the build says."""
    install_packages()
    return npm("run", "--silent", "build", BUNDLES=",".join(map(str, bundles)), DIST=str(dist))


def install_packages() -> None:
    """The built page, once; several test processes may need it at the same time."""
    with open(Path(tempfile.gettempdir()) / "keras_notes_npm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (WEB / "node_modules" / "esbuild").is_dir():
            npm("ci", "--no-audit", "--no-fund")


def npm(*arguments: str, **environment: str) -> str:
    """Runs npm in tflite/web; returns what it says."""
    command = ["npm", *arguments]
    done = subprocess.run(command, cwd=WEB, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` must work in {WEB}. Received: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def new_page(browser: Any, **options: Any) -> Iterator[Any]:
    """A page of its own caches; what goes wrong in it unseen, or asks another server, fails the test."""
    context = browser.new_context(**{"service_workers": "block", **options})
    page, errors, requests = context.new_page(), [], []
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    try:
        yield page
        assert errors == []
        assert [url for url in requests if not url.startswith(("http://127.0.0.1:", "blob:", "data:"))] == []
    finally:
        context.close()


def open_bundle(page: Any, address: str, path: str) -> None:
    """Opens a bundle of the server, and waits until it can be used."""
    page.goto(f"{address}?bundle={path}")
    page.wait_for_selector("html[data-ready]", state="attached")


def contract(page: Any, address: str, bundle: str = "bundle", repeat: Any = 1) -> tuple[int, str]:
    """Runs the contract: the exit code, and the line or the reason."""
    page.goto(f"{address}?bundle={bundle}&run&repeat={repeat}")
    page.wait_for_selector("html[data-exit-code]", state="attached")
    code = int(page.get_attribute("html", "data-exit-code"))
    return code, page.text_content("#alert" if code == 2 else "#line")


def wait_until(page: Any, condition: str) -> None:
    """Waits for an expression to hold. Playwright's own way evaluates text in the page, which the page forbids."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} must become true. The page shows: {page.inner_text('body')[:500]}")
        page.wait_for_timeout(20)


def last(page: Any) -> dict[str, Any]:
    """The inputs and outputs that were computed last."""
    arrays = page.evaluate(
        """() => Object.fromEntries(Object.entries(kerasNotes.last ?? {}).map(
            ([name, values]) => [name, values.length === undefined ? values : Array.from(values)]))"""
    )
    return {name: np.array(values) for name, values in arrays.items()}


def outputs(page: Any) -> dict[str, np.ndarray]:
    """The outputs of the last check, by the path of their golden values."""
    arrays = page.evaluate("() => Array.from(kerasNotes.outputs, ([path, values]) => [path, Array.from(values)])")
    return {path: np.array(values) for path, values in arrays}


def shown(page: Any) -> np.ndarray:
    """The probabilities that the bars show."""
    return np.array([float(bar.get_attribute("data-value")) for bar in page.query_selector_all(".bar")])


def draw(page: Any) -> None:
    """A stroke down the middle."""
    box = page.locator(".drawing").bounding_box()
    x = box["x"] + 0.45 * box["width"]
    page.mouse.move(x, box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(x + 9, box["y"] + 0.9 * box["height"], steps=5)
    page.mouse.up()
    wait_until(page, "kerasNotes.last !== null")
    # The last of the strokes is computed after the mouse is up.
    before = None
    while not np.array_equal(before, last(page)["input"]):
        before = last(page)["input"]
        page.wait_for_timeout(150)


def in_node(program: str, argument: Any) -> Any:
    """Runs `program` on `argument` beside the sources of the page; both ways JSON, where null stands for NaN."""
    script = f"const argument = JSON.parse(process.argv[1]);\n{program}"
    command = ["node", "--input-type=module", "-e", script, json.dumps(argument)]
    done = subprocess.run(command, cwd=WEB / "src", check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
