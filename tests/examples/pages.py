"""Helpers of the examples' tests: importing or running an example, and reading the page that it leaves."""

import importlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def import_example(name: str) -> ModuleType:
    """Imports examples/NAME.py as Python does when it runs the file: with the file's own folder first on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        return importlib.import_module(name)


def run_example(name, output, *arguments):
    """Runs examples/NAME and returns what it prints and the report that it leaves in `output`."""
    result = start_example(name, "--output", str(output), *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout, json.loads((output / "report.json").read_text())


def start_example(name, *arguments):
    """Runs examples/NAME and returns the finished process, whatever its exit code."""
    command = [sys.executable, f"examples/{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """The tags of a page, and whatever it would load."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if "href" in name or name == "src"]


def assert_self_contained(text, *, figures):
    """Raises AssertionError unless a page opens offline and runs no script; returns it parsed."""
    page = Page(text)
    assert [link for link in page.loaded if not link.startswith(("#", "data:"))] == []
    assert page.tags.count("svg") == figures
    assert "script" not in page.tags
    assert not re.search(r"url\((?!['\"]?#)", text)
    return page
